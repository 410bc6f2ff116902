"""Does the fused crop cost accuracy? The demo's recipe with random crops, fused with decoding and by the reference.

    python -m benchmarks.transform --json benchmarks/results/transform.json

The same crops of the same pictures in the same order; the reference decodes, crops and resizes with PIL. Told by val.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from statistics import mean

from PIL.Image import Image
from torch import Tensor

import train
from benchmarks import record
from benchmarks.recipe import LANGUAGES, WAYS, WORK, evaluate
from vlp.models.image_transform import RandomCrop


class Reference:
    """The same crop for the stream's slow path: it has no box that decoding could be fused with."""

    def __init__(self, size: int, scale: tuple[float, float]) -> None:
        self.size, self._crop = size, RandomCrop(size, scale)

    def __call__(self, picture: Image, rng: random.Random) -> Tensor:
        """uint8 [3, size, size]."""
        return self._crop(picture, rng)


def recall(name: str, transform: type, seed: int, samples: int) -> float:
    """Mean recall@1 on val of the recipe trained with `transform`."""
    train.RandomCrop = transform  # type: ignore[misc]
    flags = ("--crop", "0.8", "1.0", "--picture", "48", "--training.samples", str(samples), "--training.no-tensorboard")
    train.main(["demo", "--out", str(WORK / f"{name}-{seed}"), "--training.seed", str(seed), *flags])
    metrics = evaluate(f"{name}-{seed}", ("val",))["metrics"]
    return mean(metrics[f"val/{language}/{way}/recall@1"] for language in LANGUAGES for way in WAYS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=100_000)
    options = parser.parse_args()
    seeds = range(options.seeds)
    fused = [recall("fused", RandomCrop, seed, options.samples) for seed in seeds]
    reference = [recall("reference", Reference, seed, options.samples) for seed in seeds]
    rows = [record.row("transform.val_recall@1", "recall", fused, reference, "decode, crop, resize with PIL")]
    record.write(options.json, record.conditions(("torch", "pillow"), threads=2), rows)


if __name__ == "__main__":
    main()
