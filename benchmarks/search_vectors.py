"""Vectors to search in: real pictures as our own encoders see them, augmented, and a clustered synthetic part.

The model is the demo's recipe with vectors of 512 dimensions, trained once for 102,400 pairs by `vlp train`. Of every
set the first REAL (40 %) are the bundled corpus's pictures (all six splits, 18,096), each time under another random
change of the product's own augmentation. The rest is synthetic: clusters around centres between two real pictures,
whose members stray from their centre as the views of a real picture stray from its plain one. Rows are in no order.
Queries are the captions of those pictures, English and Chinese, each text once, embedded by the same model.

Everything is kept under `.bench/search` and made block by block, once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from vlp.models.release import Release

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".bench" / "search"
SPLITS = ("train", "val", "test_style", "test_concept", "test_style_concept", "test_attr")
SAMPLES = 102_400  # that the model is trained for
REAL = 0.4  # share of the vectors that are of pictures
CLUSTER = 64  # members of a synthetic cluster, on the average
QUERIES = 2048
BLOCK = 1024
Floats = NDArray[np.float32]


def vectors(count: int, dim: int = 512) -> tuple[Floats, Floats]:
    """(pictures [count, dim], texts [QUERIES, dim]), float32 of unit norm; the pictures mapped from the disk."""
    pictures, texts = KEPT / f"pictures-{count}x{dim}.npy", KEPT / f"texts-{dim}.npy"
    if not (pictures.is_file() and texts.is_file() and (KEPT / f"texts-{dim}.json").is_file()):
        _make(pictures, texts, count, dim)
    return np.asarray(np.load(pictures, mmap_mode="r")), np.load(texts)


def texts_of(dim: int = 512) -> list[str]:
    """The QUERIES captions whose vectors are the queries, once `vectors` has made them."""
    return list(json.loads((KEPT / f"texts-{dim}.json").read_text(encoding="utf-8")))


def conditions(count: int) -> dict[str, Any]:
    """What the vectors are, for the conditions of a benchmark."""
    return {"vectors": count, "of pictures": int(REAL * count), "synthetic": count - int(REAL * count)}


def model(dim: int) -> Path:
    """The folder of the model, trained if need be."""
    run = KEPT / f"run-{dim}"
    if not (run / "model" / "model.toml").is_file():
        own = ("--model.width", str(dim), "--training.samples", str(SAMPLES), "--training.no-tensorboard")
        command = [sys.executable, "-m", "vlp.cli", "train", "demo", "--out", str(run), *own]
        subprocess.run(command, check=True, cwd=ROOT)
    return run / "model"


def _make(pictures: Path, texts: Path, count: int, dim: int) -> None:
    from vlp.models.release import load

    release = load(model(dim))
    pixels, captions = _corpus(release)
    rng = np.random.default_rng(0)
    chosen = [captions[i] for i in rng.permutation(len(captions))[:QUERIES]]
    np.save(texts, np.asarray(release.embed_texts(chosen), np.float32))
    texts.with_suffix(".json").write_text(json.dumps(chosen, ensure_ascii=False), encoding="utf-8")
    if pictures.is_file():
        return
    temporary = pictures.with_name(f".{pictures.name}.part.npy")
    out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(count, dim))
    order = rng.permutation(-(-count // BLOCK))  # real and synthetic blocks come mixed, as rows of one store would
    real = round(REAL * len(order))
    plain = np.asarray(release.embed_pixels(pixels), np.float32)
    strays: Floats = np.empty((0, dim), np.float32)
    for turn, block in enumerate(order):
        rows = slice(int(block) * BLOCK, min(count, (int(block) + 1) * BLOCK))
        wanted = rows.stop - rows.start
        if turn < real:
            which = rng.integers(0, len(pixels), wanted)
            views = _views(release, pixels[which], turn)
            out[rows] = views
            if len(strays) < 64 * BLOCK:
                strays = np.concatenate([strays, views - plain[which]])
        else:
            out[rows] = _clustered(plain, strays, wanted, rng)
        if turn % 64 == 0:
            out.flush()
            print(f"{turn * BLOCK:,} of {count:,} vectors", flush=True)
    out.flush()
    temporary.rename(pictures)


def _corpus(release: Release) -> tuple[Tensor, list[str]]:
    """Every picture of the corpus as the model wants it, uint8 [N, 3, H, W], and every caption, once."""
    import torch

    from data_pipelines.shards.read_samples import read_samples
    from data_pipelines.shards.shard_set import ShardSet
    from vlp.pictures import Limits, decode

    pixels, captions = [], {}
    for split in SPLITS:
        for sample in read_samples(ShardSet.open(f"bundled:emoji/{split}")):
            pixels.append(torch.as_tensor(release.transform(decode(sample.image, Limits()))))
            captions.update(dict.fromkeys([*sample.said("en"), *sample.said("zh")]))
    return torch.stack(pixels), list(captions)


def _views(release: Release, pixels: Tensor, seed: int) -> Floats:
    """[n, D] pictures as the model sees them under changes of the augmentation that the recipe trains with."""
    from vlp.augment import Draws
    from vlp.augment.affine import Affine

    changed = Affine()(pixels, Draws.alone(len(pixels), seed))
    return np.asarray(release.embed_pixels(changed), np.float32)


def _clustered(plain: Floats, strays: Floats, count: int, rng: np.random.Generator) -> Floats:
    """[count, D] members of clusters: their centres lie between two pictures, they stray as real views do."""
    clusters = max(1, count // CLUSTER)
    first, second = (plain[rng.integers(0, len(plain), clusters)] for _ in range(2))
    share = rng.uniform(0.3, 0.7, (clusters, 1)).astype(np.float32)
    centres = share * first + (1 - share) * second
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    members = centres[rng.integers(0, clusters, count)] + strays[rng.integers(0, len(strays), count)]
    return np.asarray(members / np.linalg.norm(members, axis=1, keepdims=True), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    parser.add_argument("--dim", type=int, default=512)
    options = parser.parse_args()
    pictures, texts = vectors(options.count, options.dim)
    print(f"{pictures.shape} pictures, {texts.shape} texts, in {KEPT}")


if __name__ == "__main__":
    main()
