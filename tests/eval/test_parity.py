"""The numbers are those of clip-benchmark's published code, which runs in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evaluate import ROOT, Side, peer_python
from data_pipelines.sample import Sample
from eval.metrics.average_precision import average_precision_per_class
from eval.metrics.per_class import mean_per_class
from eval.metrics.ranking import Relevant, first_relevant_rank, recall_at

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


SHAPES = ["circle", "square"]


@pytest.fixture(scope="module")
def python() -> str:
    return peer_python()


@pytest.fixture
def sides(python: str, model_folder: Path) -> Iterator[list[Side]]:
    made = [Side(sys.executable, "ours", str(model_folder), 1), Side(python, "clip_benchmark", str(model_folder), 1)]
    yield made
    for side in made:
        side.close()


def test_the_suite_gives_the_numbers_of_clip_benchmark(
    sides: list[Side], samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    """Pictures, texts, templates, classes: everything from the files on. No two pictures share a caption."""
    some = [
        replace(s, captions={code: f"{text}, number {i}" for code, text in s.captions.items()})
        for i, s in enumerate(samples)
    ]
    colours = [s.captions["en"].split()[0] for s in some]  # six
    false = [
        [f"{colour} nothing", f"a {shape} that is not {colour}"]
        for colour, shape in zip(colours, SHAPES * 12, strict=True)
    ]
    one = [replace(s, metadata={"subgroup": colour}) for s, colour in zip(some, colours, strict=True)]
    several = [
        replace(s, metadata={"subgroup": [colour, s.metadata["subgroup"]], "negatives": negatives})
        for s, colour, negatives in zip(some, colours, false, strict=True)
    ]
    specs = [str(write(tmp_path / name, samples)) for name, samples in (("one", one), ("several", several))]
    ours, theirs = (side.ask(specs)["metrics"] for side in sides)
    assert len(theirs) == 3 + 1 + 1 + 2 * 2 * 6
    assert {"one/subgroup/acc5", "several/subgroup/mean_average_precision"} < set(theirs)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)


PEER = """
import json, sys, numpy as np, torch
from torch.utils.data import DataLoader
from clip_benchmark.metrics import image_caption_selection, zeroshot_classification, zeroshot_retrieval

class Vectors(torch.nn.Module):  # "pictures" and "tokens" are the vectors themselves
    def encode_image(self, x): return x
    def encode_text(self, x): return x

given, out = dict(np.load(sys.argv[1])), {}
image, text, classes = (torch.from_numpy(given[name]) for name in ("image", "text", "classes"))
owner, labels, several = given["owner"].tolist(), given["labels"], torch.from_numpy(given["several"])
class Data(torch.utils.data.Dataset):
    def __init__(self, targets): self.targets, self.classes = targets, list(range(len(classes)))
    def __len__(self): return len(image)
    def __getitem__(self, i): return image[i], self.targets[i]
rows = lambda texts: text[texts]
captions = [[t for t in range(len(text)) if owner[t] == i] for i in range(len(image))]
lists = lambda batch: (torch.stack([x for x, _ in batch]), [y for _, y in batch])
run = dict(device="cpu", amp=False)
numbers = lambda texts: classes[[int(t) for t in texts]]
def classify(targets):
    loader = DataLoader(Data(targets), batch_size=7)
    named = [str(i) for i in range(len(classes))]
    return zeroshot_classification.evaluate(Vectors(), loader, numbers, named, ["{c}"], **run)
out["classes"] = classify(labels)
out["several"] = classify(several)
loader = DataLoader(Data(captions), batch_size=7, collate_fn=lists)
out["retrieval"] = zeroshot_retrieval.evaluate(Vectors(), loader, rows, recall_k_list=[1, 5], **run)
class Picture(Vectors):
    def encode_image(self, x): return x.flatten(1)
class Choices(Data):
    def __getitem__(self, i): return image[i][:, None, None], [i, len(image) + i, 2 * len(image) + i]
loader = DataLoader(Choices(None), batch_size=7, collate_fn=lists)
choices = torch.from_numpy(given["choices"])
out["choice"] = image_caption_selection.evaluate(Picture(), loader, lambda texts: choices[texts], **run)
print(json.dumps(out))
"""


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_metrics_of_the_same_vectors_are_those_of_clip_benchmark(python: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures, count, width = 200, 12, 24
    image, classes, text = unit(rng, pictures, width), unit(rng, count, width), unit(rng, 3 * pictures, width)
    owner = np.sort(np.concatenate([np.arange(pictures), rng.integers(0, pictures, 2 * pictures)]))
    labels, several = rng.integers(0, count, pictures), rng.random((pictures, count)) < 0.2
    choices = unit(rng, 3 * pictures, width)
    np.savez(
        tmp_path / "given.npz",
        image=image,
        text=text,
        classes=classes,
        owner=owner,
        labels=labels,
        several=several,
        choices=choices,
    )
    done = subprocess.run(
        [python, "-c", PEER, str(tmp_path / "given.npz")],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    theirs = json.loads(done.stdout)

    ranks = first_relevant_rank(image, classes, Relevant.from_pairs(np.arange(pictures), labels))
    assert theirs["classes"] == pytest.approx(
        {
            "acc1": recall_at(ranks, 1),
            "acc5": recall_at(ranks, 5),
            "mean_per_class_recall": mean_per_class(ranks < 1, labels)[0],
        },
        abs=1e-6,
    )
    row, label = np.nonzero(several)
    precision = average_precision_per_class(image, classes, row, label)
    assert theirs["several"] == pytest.approx({"mean_average_precision": precision.mean()}, abs=1e-6)
    for way, queries, candidates, relevant in (
        ("image", text, image, Relevant.from_pairs(np.arange(len(text)), owner)),
        ("text", image, text, Relevant.from_pairs(owner, np.arange(len(text)))),
    ):
        ranks = first_relevant_rank(queries, candidates, relevant)
        for k in (1, 5):
            assert theirs["retrieval"][f"{way}_retrieval_recall@{k}"] == pytest.approx(recall_at(ranks, k), abs=1e-6)
    scores = np.einsum("qd,cqd->qc", image, choices.reshape(3, pictures, width))
    chosen = (scores[:, :1] > scores[:, 1:]).all(axis=1).mean()
    assert theirs["choice"]["text_acc"] == pytest.approx(chosen, abs=1e-6)
