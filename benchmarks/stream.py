"""The stream against open_clip's own webdataset pipeline, in samples per CPU-second.

    python -m benchmarks.stream [--json OUT] [--quick]

Both sides run in processes of their own on the same shards, in turns, one thread per process; the CPU seconds of all
their workers are counted. Tux Paint's stamps (a Debian package, fetched once) give the real pictures of jpeg384.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any

from vlp.record import versions

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"
PEER = "open_clip {} get_wds_dataset, webdataset 0.2.86"
BATCH = 64


def make_shards(folder: Path, samples: int) -> Path:
    """384 px JPEGs (quality 90) with the stamps' own descriptions, in tars as img2dataset writes them."""
    from PIL import Image

    from data_pipelines.emoji import packages
    from vlp.pictures import to_rgb

    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    root = packages.folder("tuxpaint-stamps-default", packages.default_cache()) / "usr/share/tuxpaint/stamps"
    pictures = [p for p in sorted(root.rglob("*.png")) if p.with_suffix(".txt").exists()]
    rng, per_shard = random.Random(0), 200
    usable = [p for p in pictures if min(Image.open(p).size) >= 150]
    for shard in range(samples // per_shard):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(per_shard):
                path = rng.choice(usable)
                picture = to_rgb(Image.open(path))
                side = min(picture.size) * rng.uniform(0.6, 1.0)
                left, top = ((n - side) * rng.random() for n in picture.size)
                box = (left, top, left + side, top + side)
                picture = picture.resize((384, 384), Image.Resampling.BICUBIC, box=box)
                out = io.BytesIO()
                picture.save(out, "JPEG", quality=90)
                caption = path.with_suffix(".txt").read_text("utf-8", "replace").splitlines()[0]
                for name, data in ((f"{i:06d}.jpg", out.getvalue()), (f"{i:06d}.txt", caption.encode())):
                    info = tarfile.TarInfo(f"{shard:05d}{name}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (folder / "done").touch()
    return folder


def peer_python() -> str:
    """The interpreter of open_clip's environment: webdataset 0.2.86 in front of what is installed here."""
    home = BENCH / "open_clip"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "webdataset==0.2.86"], check=True)
        site = next(home.glob("lib/python*/site-packages"))
        (site / "zz_parent.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
        (home / "ready").touch()
    return str(python)


class Side:
    """One side's process: asked for batches, it tells the CPU seconds they took."""

    def __init__(self, python: str, name: str, shards: Path, size: int, workers: int) -> None:
        command = [python, "-m", "benchmarks.stream", "--side", name, str(shards), str(size), str(workers)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
        self._run = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT
        )

    def ask(self, what: str) -> float:
        """The number that the process answers."""
        assert self._run.stdin is not None
        assert self._run.stdout is not None
        self._run.stdin.write(what + "\n")
        self._run.stdin.flush()
        for line in self._run.stdout:
            if line.startswith("="):
                return float(line[1:])
        raise RuntimeError(f"a side ended early (exit code {self._run.wait()})")

    def close(self) -> None:
        """End the process."""
        self._run.stdin.close()  # type: ignore[union-attr]
        self._run.wait(60)


def cpu_seconds() -> float:
    """CPU time of this process and of its living children, once the batches they make ahead are made.

    Without that wait a round would be given batches that were paid for before it began.
    """
    import time

    import psutil

    me, quiet = psutil.Process(), 0
    while quiet < 10:
        working = any(t.status() != psutil.STATUS_SLEEPING for t in me.children(recursive=True))
        quiet = 0 if working else quiet + 1
        time.sleep(0.05)
    times = [p.cpu_times() for p in [me, *me.children(recursive=True)]]
    return sum(t.user + t.system for t in times)


def memory() -> float:
    """MB that this process and its children have to themselves or share among them (PSS)."""
    import psutil

    me = psutil.Process()
    return sum(p.memory_full_info().pss for p in [me, *me.children(recursive=True)]) / 1e6


def ours(shards: Path, size: int, workers: int) -> tuple[Any, int]:
    """Our batches for ever, and batches of an epoch."""
    from data_pipelines.settings import Workers
    from data_pipelines.stream import Stream
    from vlp.models.image_transform import RandomCrop
    from vlp.models.tokenizer import OpenClipTokenizer

    stream = Stream(shards=str(shards), ids="", workers=Workers(count=workers, start_method="fork"))
    loader = stream.open(transform=RandomCrop(size=size), tokenizer=OpenClipTokenizer("ViT-B-32"), global_batch=BATCH)
    return loader, loader.batches_per_epoch


def theirs(shards: Path, size: int, workers: int) -> Any:
    """open_clip's batches for ever, as its training program opens them."""
    import open_clip
    from open_clip_train.data import get_wds_dataset

    tars = sorted(shards.glob("*.tar"))
    args = argparse.Namespace(
        train_data=f"{shards}/{{{tars[0].stem}..{tars[-1].stem}}}.tar",
        train_num_samples=10_000_000,
        train_data_upsampling_factors=None,
        dataset_resampled=True,
        seed=0,
        batch_size=BATCH,
        workers=workers,
        world_size=1,
    )
    transform = open_clip.image_transform(
        size, is_train=True, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return get_wds_dataset(args, transform, is_train=True, tokenizer=tokenizer).dataloader


def bare(shards: Path, samples: int, *, size: int) -> float:
    """CPU seconds of the libraries alone on pictures in memory: decoding, and where size > 0 the resize to it too."""
    import time

    import simplejpeg
    import torch

    from data_pipelines.shards.read_samples import read_samples
    from data_pipelines.shards.shard_set import ShardSet

    kept = [s.image for s, _ in zip(read_samples(ShardSet.open(str(shards))), range(samples), strict=False)]
    start = time.process_time()
    for data in kept:
        pixels = simplejpeg.decode_jpeg(data, "RGB")
        if size:
            whole = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            torch.ops.aten._upsample_bicubic2d_aa(whole, [size, size], False, None, None)
    return time.process_time() - start


def side(name: str, shards: Path, size: int, workers: int) -> None:
    """What a side is told: "N": take N batches; "bare N SIZE": what libraries alone spend; "epochs N": take N."""
    import torch

    torch.set_num_threads(1)
    loader, epoch = ours(shards, size, workers) if name == "ours" else (theirs(shards, size, workers), 0)
    batches = iter(loader)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "bare":
            print(f"={bare(shards, int(rest[0]) * BATCH, size=int(rest[1]))}", flush=True)
            continue
        if word == "epochs":
            for _ in range(int(rest[0]) * epoch):
                next(batches)
            print(f"={memory()}", flush=True)
            continue
        start = cpu_seconds()
        for _ in range(int(word)):
            next(batches)
        print(f"={cpu_seconds() - start}", flush=True)
    os._exit(0)  # the peer's workers do not end by themselves


def compare(case: str, shards: Path, size: int, workers: int, *, rounds: int, batches: int) -> list[dict[str, Any]]:
    """The rows of one comparison: samples per CPU-second, and the share of the decode library's limit."""
    name = PEER.format(versions()["open_clip_torch"])
    us, peer = Side(sys.executable, "ours", shards, size, workers), Side(peer_python(), "peer", shards, size, workers)
    us.ask(f"{batches}"), peer.ask(f"{batches}")
    mine, others, decoding, resizing = [], [], [], []
    for _ in range(rounds):
        mine.append(batches * BATCH / us.ask(f"{batches}"))
        others.append(batches * BATCH / peer.ask(f"{batches}"))
        if case == "jpeg384.workers1":
            decoding.append(batches * BATCH / us.ask(f"bare {batches} 0"))
            resizing.append(batches * BATCH / us.ask(f"bare {batches} {size}"))
    us.close(), peer.close()
    rows = [row(case, "samples/CPU-s", mine, others, name)]
    if decoding:
        name, unit = "simplejpeg decode_jpeg alone", "samples/CPU-s"
        rows.append(row("jpeg384.of_decode_limit", unit, mine, decoding, name))
        rows.append(row("jpeg384.of_decode_and_resize_limit", unit, mine, resizing, f"{name}, then torch's resize"))
    return rows


def row(case: str, unit: str, mine: list[float], others: list[float], peer: str) -> dict[str, Any]:
    """One row of the result: medians, and the ratio pair by pair."""
    ratios = [a / b for a, b in zip(mine, others, strict=True)]
    return {
        "case": case,
        "unit": unit,
        "ours": round(statistics.median(mine), 2),
        "peer": round(statistics.median(others), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "peer_name": peer,
    }


def ram(shards: Path, *, epochs: int) -> dict[str, Any]:
    """Memory of the trainer's side and its workers after 2 epochs and after `epochs`."""
    us = Side(sys.executable, "ours", shards, 64, 2)
    early = us.ask("epochs 2")
    late = us.ask(f"epochs {epochs - 2}")
    us.close()
    return row("ram.20_epochs", "MB (PSS)", [late], [early], f"itself after 2 epochs (of {epochs})")


def main() -> None:
    parser = argparse.ArgumentParser(description="The stream against open_clip's webdataset pipeline.")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and batches")
    parser.add_argument("--side", nargs=4, metavar=("NAME", "SHARDS", "SIZE", "WORKERS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side[0], Path(args.side[1]), int(args.side[2]), int(args.side[3]))
        return
    rounds, batches = (3, 6) if args.quick else (5, 20)
    photos = make_shards(BENCH / "jpeg384", 400 if args.quick else 2000)
    emoji = ROOT / "data_pipelines/bundled/emoji"
    rows = compare("jpeg384.workers1", photos, 224, 1, rounds=rounds, batches=batches)
    rows += compare("jpeg384.workers2", photos, 224, 2, rounds=rounds, batches=batches)
    rows += compare("bundled.workers2", emoji / "train", 64, 2, rounds=rounds, batches=4 * batches)
    rows.append(ram(emoji / "val", epochs=6 if args.quick else 20))
    conditions = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, shared with other processes",
        "threads": "1 in each process",
        "versions": versions(("simplejpeg",)),
        "command": "python -m benchmarks.stream" + (" --quick" if args.quick else ""),
        "date": datetime.date.today().isoformat(),
    }
    print(f"{'case':36}{'ours':>12}{'peer':>12}{'ratio':>8}  min..max")
    for r in rows:
        spread = f"{r['ratio_min']:.2f}..{r['ratio_max']:.2f}"
        numbers = f"{r['ours']:12,.1f}{r['peer']:12,.1f}{r['ratio']:8.2f}"
        print(f"{r['case']:36}{numbers}  {spread}  {r['unit']}, {r['peer_name']}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
