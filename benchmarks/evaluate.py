"""Evaluation against clip-benchmark, which gives the same numbers: how fast, and how equal.

    python -m benchmarks.evaluate --json benchmarks/results/evaluate.json

`suite.time` is zero-shot classification and retrieval in two languages on five splits of the bundled corpus, in one
process of each side (`benchmarks.evaluate_sides`), the sides in turn; models are loaded before. `parity.zero_shot` is
the largest absolute difference of accuracy at 1 and 5 and of mean per-class recall in it; `parity.retrieval` that of
Recall@1, 5 and 10, both ways, on those pictures of the same splits that the model tells apart, and their captions: for
a caption that two pictures share clip-benchmark takes a single picture as right, and we every picture that has it; and
equal scores it leaves to chance, while we rank them against the model.

`photos.embed_rate` is the rate at which 1,000 JPEG photos of 500 x 375 are read from a shard and embedded, beside that
of the bare parts on the same cores: decoding and resizing by Pillow in threads, and then the encoder on what is there.
The photos are pieces of the two photographs of tests/photos; the encoder is open_clip's ViT-S-32-alt (224 pixels) with
random weights.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from vlp.models.release import Release, load

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"
WORK = BENCH / "evaluate"
SPLITS = ("val", "test_style", "test_concept", "test_style_concept", "test_attr")
PEER = "clip-benchmark 1.6.2"
BASICS = ("--no-deps", "clip-benchmark==1.6.2", "numpy==2.3.*")  # its accuracy fails on numpy 2.4
ENCODER, PHOTOS, SIZE = "ViT-S-32-alt", 1000, (500, 375)
TOLD_APART = 1e-5  # between the cosine of two vectors and 1
Answer = dict[str, Any]


def peer_python() -> str:
    """The interpreter of clip-benchmark's environment, made if need be: it, and its numpy, before what is here."""
    home = BENCH / "clip_benchmark"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *BASICS], check=True)
        site = next(home.glob("lib/python*/site-packages"))
        (site / "zz_parent.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
        (home / "ready").touch()
    return str(python)


class Side:
    """One side's process; it evaluates when it is asked."""

    def __init__(self, python: str, name: str, model: str, threads: int) -> None:
        command = [python, "-m", "benchmarks.evaluate_sides", name, model, "--threads", str(threads)]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._run = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**env, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )

    def ask(self, specs: Sequence[str]) -> Answer:
        """Seconds and metrics of the suite on these shard sets."""
        assert self._run.stdin is not None
        assert self._run.stdout is not None
        print(json.dumps(list(specs)), file=self._run.stdin, flush=True)
        answer = self._run.stdout.readline()
        if not answer:
            raise RuntimeError(f"a side ended early (exit code {self._run.wait()})")
        return dict(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        self._run.stdin.close()  # type: ignore[union-attr]
        self._run.wait(60)


def largest_difference(ours: dict[str, float], theirs: dict[str, float], part: str) -> float:
    """Over the metrics of both whose name has `part` in it."""
    names = [name for name in theirs if part in name]
    assert names
    return max(abs(ours[name] - theirs[name]) for name in names)


def distinct(split: str, release: Release) -> str:
    """A shard set of those pictures of a bundled split that `release` tells apart, and so their captions.

    The demo's text tower is a bag of words: "right arrow curving left" is "left arrow curving right" to it.
    """
    from data_pipelines.writing.tar_writer import TarWriter
    from eval.embeddings.split import EmbeddedSplit

    path = WORK / "distinct" / split / "00000.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    spec = f"bundled:emoji/{split}"
    embedded = EmbeddedSplit(release, spec, bar=False)
    said = [[text for language in s.captions for text in s.said(language)] for s in embedded.samples]
    owner = np.repeat(np.arange(len(said)), [len(texts) for texts in said])
    texts = np.asarray(release.embed_texts([text for some in said for text in some]), np.float32)
    alike = embedded.image @ embedded.image.T > 1 - TOLD_APART  # [N, N]
    for text, vector in enumerate(texts):
        alike[owner[text], owner[texts @ vector > 1 - TOLD_APART]] = True
    tar, kept = TarWriter(path), np.zeros(len(said), bool)
    for row, sample in enumerate(read_samples(ShardSet.open(spec))):
        if not (alike[row] & kept)[:row].any():
            tar.add(sample)
            kept[row] = True
    tar.close()
    return str(path)


def demo_model(given: Path) -> str:
    """The model of `vlp demo`, or of a short run of its preset where there is none."""
    if (given / "model.toml").is_file():
        return str(given)
    model = WORK / "run" / "model"
    if not (model / "model.toml").is_file():
        import train

        train.main(["demo", "--out", str(WORK / "run"), "--training.samples", "40960", "--training.no-tensorboard"])
    return str(model)


def against_clip_benchmark(model: str, rounds: int, threads: int, splits: Sequence[str]) -> list[dict[str, Any]]:
    """`suite.time`, `suite.cpu`, `parity.zero_shot` and `parity.retrieval`."""
    sides = [Side(sys.executable, "ours", model, threads), Side(peer_python(), "clip_benchmark", model, threads)]
    release = load(model, random_weights=True)
    specs, apart = [f"bundled:emoji/{split}" for split in splits], [distinct(split, release) for split in splits]
    same = [side.ask(apart)["metrics"] for side in sides]  # and a warm-up
    answers = [[side.ask(specs) for side in sides] for _ in range(rounds)]
    for side in sides:
        side.close()
    ours, theirs = zip(*answers, strict=True)
    zero_shot = [largest_difference(a["metrics"], b["metrics"], "/subgroup/") for a, b in answers]
    rows = [
        record.row(f"suite.{name}", unit, [a[key] for a in ours], [b[key] for b in theirs], PEER)
        for name, key, unit in (("time", "seconds", "s"), ("cpu", "cpu", "CPU s"))
    ]
    difference = {"zero_shot": max(zero_shot), "retrieval": largest_difference(*same, "/recall@")}
    return [*rows, *(record.row(f"parity.{name}", "difference", [value]) for name, value in difference.items())]


def photos() -> str:
    """A shard of JPEG photos: pieces of two photographs, of one size."""
    from PIL import Image

    from data_pipelines.sample import Sample
    from data_pipelines.writing.tar_writer import TarWriter

    path = WORK / "photos" / "00000.tar"
    if path.is_file():
        return str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [Image.open(file).convert("RGB") for file in sorted((ROOT / "tests" / "photos").glob("*.jpg"))]
    rng, tar = np.random.default_rng(0), TarWriter(path)
    for number in range(PHOTOS):
        picture = whole[number % len(whole)]
        width = int(rng.integers(300, 550))
        height = width * SIZE[1] // SIZE[0]
        left, top = (int(rng.integers(0, most)) for most in (picture.width - width, picture.height - height))
        out = io.BytesIO()
        picture.crop((left, top, left + width, top + height)).resize(SIZE).save(out, "JPEG", quality=90)
        tar.add(Sample(f"{number:06d}", out.getvalue(), "jpg", {"en": f"photo {number}"}))
    tar.close()
    return str(path)


def prepared(data: Sequence[bytes], threads: int, *, side: int = 224) -> Any:
    """The pixels uint8 [n, 3, side, side] of JPEGs by Pillow alone, decoded and resized in threads."""
    import torch
    from PIL import Image

    pixels = torch.empty((len(data), 3, side, side), dtype=torch.uint8)

    def prepare(some: range) -> None:
        for row in some:
            picture = Image.open(io.BytesIO(data[row])).convert("RGB")
            scale = side / min(picture.size)
            picture = picture.resize(
                (int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BICUBIC
            )
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            square = np.asarray(picture.crop((left, top, left + side, top + side)))
            pixels[row] = torch.from_numpy(square.copy()).permute(2, 0, 1)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(prepare, [range(first, min(first + 8, len(data))) for first in range(0, len(data), 8)]))
    return pixels


def bare(data: Sequence[bytes], encoder: Any, threads: int, *, side: int = 224) -> float:
    """Seconds of the libraries alone: Pillow decodes and resizes in threads, and then the encoder has all cores."""
    import torch

    start = time.perf_counter()
    pixels = prepared(data, threads, side=side)
    with torch.inference_mode():
        for part in torch.split(pixels, 256):
            encoder.encode_image(part)
    return time.perf_counter() - start


def embed_rate(rounds: int, threads: int) -> list[dict[str, Any]]:
    """`photos.embed_rate`, and `photos.cpu`."""
    import torch

    from data_pipelines.ledger import Ledger
    from eval.embeddings.encode import embedded_pictures

    torch.set_num_threads(threads)
    release, shards = load(ENCODER, random_weights=True), ShardSet.open(photos())
    data = [sample.image for sample in read_samples(shards)]
    rates: list[list[float]] = []
    for _ in range(rounds + 1):
        start, cpu = time.perf_counter(), time.process_time()
        count = sum(len(part.samples) for part in embedded_pictures(release, shards, Ledger(), bar=False))
        ours, middle = time.perf_counter() - start, time.process_time()
        assert count == len(data)
        alone = bare(data, release.encoder, threads)
        rates.append([count / ours, len(data) / alone, middle - cpu, time.process_time() - middle])
    ours_rate, rate, ours_cpu, cpus = zip(*rates[1:], strict=True)  # the first is a warm-up
    parts = "Pillow and the encoder alone"
    return [
        record.row("photos.embed_rate", "photos/s", ours_rate, rate, parts),
        record.row("photos.cpu", "CPU s", ours_cpu, cpus, parts),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path, default=Path("runs/demo/model"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="one split and one round")
    options = parser.parse_args()
    rounds, splits = (1, SPLITS[:1]) if options.quick else (options.rounds, SPLITS)
    load = os.getloadavg()[0]
    rows = against_clip_benchmark(demo_model(options.model), rounds, options.threads, splits)
    rows += embed_rate(rounds, options.threads)
    packages = ("torch", "open_clip_torch", "numpy", "pillow", "faiss-cpu")
    about = record.conditions(packages, threads=options.threads)
    record.write(options.json, {**about, "load": [round(load, 2), round(os.getloadavg()[0], 2)]}, rows)


if __name__ == "__main__":
    main()
