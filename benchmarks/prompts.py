"""Zero-shot by subgroup on the bundled corpus: how much of what is missed is the prompt's, and how much the model's.

    python -m benchmarks.prompts runs/demo/model --json benchmarks/results/prompts.json

The same pictures of a split and the same classes (those of the split), with other texts for a class. Names come from
the training split alone. The caption in place of the picture asks the prompt alone: does it go to its own class?
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks import record
from data_pipelines.sample import Sample
from eval.embeddings.split import EmbeddedSplit
from eval.prompts.classifier import class_vectors, spoken
from eval.prompts.templates import templates
from vlp.models import release as releases
from vlp.models.release import Release

SPLITS = ("test_style", "test_concept")
MOST = 20  # names of a class
SETS = ("bare", "picture", "imagenet_7", "imagenet_80")
Names = dict[str, list[str]]  # class -> names


def members(train: Sequence[Sample], classes: Sequence[str], field: str) -> Names:
    """For each class the names of its members in the training split, the most frequent first: concepts, or tags."""
    counts: Mapping[str, Counter[str]] = defaultdict(Counter)
    for sample in train:
        texts = [sample.metadata["concept"]] if field == "concept" else sample.said(field)
        counts[sample.metadata.get("subgroup", "")].update(texts)
    return {name: [text for text, _ in counts[name].most_common(MOST)] or [spoken(name)] for name in classes}


def accuracy(queries: np.ndarray, vectors: np.ndarray, labels: np.ndarray) -> float:
    return float(((queries @ vectors.T).argmax(axis=1) == labels).mean())


def nearest_member(release: Release, queries: np.ndarray, names: Names, labels: np.ndarray) -> float:
    """Accuracy where a picture goes to the class of the nearest single name, in place of the mean of the names."""
    owner = np.array([i for i, some in enumerate(names.values()) for _ in some])
    vectors = class_vectors(release, [(name,) for some in names.values() for name in some], templates("picture"))
    return float((owner[(queries @ vectors.T).argmax(axis=1)] == labels).mean())


def centroids(train: EmbeddedSplit, classes: Sequence[str]) -> np.ndarray:
    """[C, D] the mean picture of each class in the training split: a prompt that cannot be put into words."""
    own = [str(sample.metadata.get("subgroup")) for sample in train.samples]
    rows = {name: [i for i, one in enumerate(own) if one == name] for name in classes}
    some = [train.image[rows[name]].mean(axis=0) if rows[name] else np.zeros(train.image.shape[1]) for name in classes]
    return np.stack([one / max(float(np.linalg.norm(one)), 1e-9) for one in some])


def measure(release: Release, split: EmbeddedSplit, train: EmbeddedSplit) -> dict[str, list[float]]:
    """Way -> accuracy of the pictures, and of their true captions, by the subgroups of the split."""
    rows = [i for i, s in enumerate(split.samples) if s.metadata.get("subgroup") and "en" in s.captions]
    own = [str(split.samples[i].metadata["subgroup"]) for i in rows]
    classes = sorted(set(own))
    labels = np.array([classes.index(name) for name in own])
    caption = np.asarray(release.embed_texts([split.samples[i].captions["en"] for i in rows]))
    every = {
        what: members(train.samples, classes, field) for what, field in (("concepts", "concept"), ("tags", "tags.en"))
    }
    texts = {
        **{f"name in {kind}": ([(spoken(name),) for name in classes], kind) for kind in SETS},
        **{
            f"mean of {most} {what}": ([names[name][:most] for name in classes], "picture")
            for what, names in every.items()
            for most in (5, MOST)
        },
        "mean of the name and the concepts": ([[spoken(c), *every["concepts"][c]] for c in classes], "picture"),
    }
    ways = {way: class_vectors(release, names, templates(kind)) for way, (names, kind) in texts.items()}
    ways["mean picture of the training split"] = centroids(train, classes)
    queries = (split.image[rows], caption)
    result = {way: [accuracy(q, vectors, labels) for q in queries] for way, vectors in ways.items()}
    for what, names in every.items():
        result[f"nearest of {MOST} {what}"] = [nearest_member(release, q, names, labels) for q in queries]
    seen = {str(s.metadata.get("subgroup")) for s in train.samples}
    print(f"{len(rows):,} pictures of {len(classes)} classes, {len(set(classes) - seen)} of them not in training")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    release = releases.load(options.model)
    train = EmbeddedSplit(release, "bundled:emoji/train")
    rows = []
    for name in SPLITS:
        print(f"{name}: ", end="")
        for way, values in measure(release, EmbeddedSplit(release, f"bundled:emoji/{name}"), train).items():
            print(f"  {way:36} picture {values[0]:.3f}   caption {values[1]:.3f}")
            case = f"prompts.{name}.{way.replace(' ', '_')}"
            rows += [
                record.row(f"{case}.{q}", "acc1", [v]) for q, v in zip(("picture", "caption"), values, strict=True)
            ]
    conditions = record.conditions(("torch",), threads=torch.get_num_threads())
    record.write(options.json, {**conditions, "weights": release.id}, rows)


if __name__ == "__main__":
    main()
