"""One side of the benchmark of training, as a process: `train.py`, or open_clip's own training program, on one model.

    python -m benchmarks.train_sides ours OUT.json --patch 16 --steps 60
    python -m benchmarks.train_sides open_clip OUT.json --patch 16 --steps 60
    python -m benchmarks.train_sides plain OUT.json              ours in float32, every text as long as the context
    python -m benchmarks.train_sides cached OUT.json     ours with batches 32 times as large (gradient caching)

Both read the bundled shards, in batches of 128, at the same learning rates. OUT.json has the moment and the loss of
every optimizer step, and the most memory of the process. open_clip's program is run as it is, but for what it needs on
today's webdataset and on a CPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from data_pipelines.shards.shard_set import BUNDLED
from vlp.models.packing import PackedTextTransformer

BATCH, SIDE, CONTEXT, WIDTH = 128, 64, 32, 192
RATE, WARMUP, DECAY = 1e-3, 10, 0.2
LARGER = 32
SHARDS = BUNDLED / "emoji" / "train"


def config(patch: int) -> dict[str, Any]:
    """The tiny model: a ViT of 6 layers, a causal text transformer of 4, open_clip's BPE."""
    return {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": SIDE, "layers": 6, "width": WIDTH, "patch_size": patch, "head_width": 64},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 3, "layers": 4},
    }


class Steps:
    """The moment of every optimizer step, by a hook on all optimizers."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        register_optimizer_step_post_hook(lambda *_: self.moments.append(time.monotonic()))


def plain(folder: Path, patch: int, steps: int, flags: list[str]) -> list[float]:
    """The losses of `train.py` in float32, without packing."""
    PackedTextTransformer.can_pack = staticmethod(lambda tower: False)  # type: ignore[method-assign]
    return ours(folder, patch, steps, ["--training.precision", "fp32", *flags])


def cached(folder: Path, patch: int, steps: int, flags: list[str]) -> list[float]:
    """The losses of `train.py` with batches `LARGER` times as large, in the same chunks."""
    larger = ["--training.chunk", str(BATCH), "--training.batch", str(BATCH * LARGER)]
    return ours(folder, patch, steps, [*larger, "--training.samples", str(BATCH * LARGER * steps), *flags])


def ours(folder: Path, patch: int, steps: int, flags: list[str]) -> list[float]:
    """The losses of `train.py`."""
    import train

    options = {"embed_dim": WIDTH}
    for table in ("vision_cfg", "text_cfg"):
        options |= {f"{table}.{key}": value for key, value in config(patch)[table].items()}
    preset = folder / "tiny.toml"
    lines = [f"{json.dumps(key)} = {value}" for key, value in options.items()]
    preset.write_text('[model]\nname = "open_clip"\narchitecture = "ViT-B-32"\n[model.options]\n' + "\n".join(lines))
    arguments = [
        *(str(preset), "--out", str(folder / "run"), "--data.shards", str(SHARDS), "--crop", "0.9", "1.0"),
        *("--data.captions.weights.txt", "1", "--training.batch", str(BATCH)),
        *("--training.samples", str(BATCH * steps), "--training.log-every", "1", "--training.no-tensorboard"),
        *("--training.optimizer.lr", str(RATE), "--training.optimizer.weight-decay", str(DECAY)),
        *("--training.schedule.warmup-samples", str(BATCH * WARMUP), "--training.clip", "0"),
    ]
    train.main([*arguments, *flags])
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row)["loss"] for row in rows if '"loss"' in row]


def without_ends(files: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The files of tars, without the mark that webdataset now gives at the end of each."""
    return (one for one in files if "fname" in one)


def open_clip(folder: Path, patch: int, steps: int, flags: list[str]) -> list[float]:
    """The losses of open_clip's training program."""
    import open_clip
    from open_clip_train import data
    from open_clip_train import main as program

    (folder / "tiny.json").write_text(json.dumps(config(patch)))
    open_clip.add_model_config(folder / "tiny.json")
    expand = data.tar_file_expander
    data.tar_file_expander = lambda *a, **k: without_ends(expand(*a, **k))
    losses: list[float] = []
    forward = open_clip.loss.ClipLoss.forward

    def noted(self: Any, *a: Any, **k: Any) -> Any:
        out = forward(self, *a, **k)
        losses.append(float(sum(out.values()) if isinstance(out, dict) else out))
        return out

    open_clip.loss.ClipLoss.forward = noted
    shards = sorted(path.name for path in SHARDS.glob("*.tar"))
    arguments = [
        *("--train-data", str(SHARDS / f"{{{shards[0][:5]}..{shards[-1][:5]}}}.tar"), "--dataset-type", "webdataset"),
        *("--train-num-samples", str(BATCH * steps), "--batch-size", str(BATCH), "--epochs", "1", "--model", "tiny"),
        *("--lr", str(RATE), "--wd", str(DECAY), "--warmup", str(WARMUP), "--beta2", "0.98", "--eps", "1e-6"),
        *("--precision", "fp32", "--logs", str(folder), "--log-every-n-steps", "10", "--save-frequency", "0"),
    ]
    program.main([*arguments, *flags])
    return losses


SIDES = {"ours": ours, "plain": plain, "cached": cached, "open_clip": open_clip}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("out", type=Path)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    options, flags = parser.parse_known_args()
    side = SIDES[options.side]
    steps = Steps()
    with tempfile.TemporaryDirectory() as folder:
        losses = side(Path(folder), options.patch, options.steps, flags)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    batch = BATCH * LARGER if options.side == "cached" else BATCH
    options.out.write_text(json.dumps({"moments": steps.moments, "losses": losses, "batch": batch, "peak_mib": peak}))


if __name__ == "__main__":
    sys.exit(main())
