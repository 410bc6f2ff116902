"""One side of the benchmark of evaluation, as a process: `vlp eval`, or the code that clip-benchmark publishes.

    python -m benchmarks.evaluate_sides ours MODEL
    python -m benchmarks.evaluate_sides clip_benchmark MODEL        by the Python of `benchmarks.evaluate.peer_python`

MODEL is a model folder or a name that `vlp eval` takes. Each line of the input is a JSON list of shard sets; the answer
is a line of JSON: `seconds` of wall and `cpu` of CPU time for zero-shot classification and for retrieval in every
language on all of them (and the choice of captions, where samples have `negatives`), and the `metrics` by the names
that our reports have. The model is loaded before.

clip-benchmark is called as its program does it, in batches of 64 and with the transform of open_clip; its pictures
wait in memory. It encodes them for every task and language anew, as its program does.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from data_pipelines.sample import Sample
from vlp.models.release import Release, load

BATCH, WORKERS, KS = 64, 2, (1, 5, 10)
TEMPLATES = "picture"
Metrics = dict[str, float]


def ours(release: Release, specs: Sequence[str]) -> Metrics:
    """What `vlp eval MODEL SHARDS ...` measures, with its intervals; choices of captions too, where there are any."""
    from eval.configuration import read
    from eval.run import evaluate
    from eval.tasks.caption_choice import CaptionChoice

    config = read(data=specs)
    config = replace(config, tasks={**config.tasks, "caption_choice": CaptionChoice()})
    return dict(evaluate(release, config)["metrics"])


class Pictures(Dataset[Any]):
    """Encoded pictures in memory, each with a target, as clip-benchmark's own datasets give them."""

    def __init__(self, images: Sequence[bytes], targets: Sequence[Any], transform: Callable[..., Any]) -> None:
        self.images, self.targets, self.transform = images, targets, transform
        self.classes: list[str] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, Any]:
        return self.transform(Image.open(io.BytesIO(self.images[row])).convert("RGB")), self.targets[row]


def texts_as_lists(batch: Sequence[tuple[torch.Tensor, list[str]]]) -> tuple[torch.Tensor, list[list[str]]]:
    """Pictures together and captions as they are, as clip-benchmark collates captions."""
    images, texts = zip(*batch, strict=True)
    return torch.stack(images), list(texts)


def transform_of(release: Release) -> Any:
    """open_clip's own transform, as the model has its pictures."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    own = release.transform
    config = PreprocessCfg(
        size=own.size,
        mean=own.mean,
        std=own.std,
        interpolation=own.interpolation,
        resize_mode=own.resize,
        fill_color=own.fill,
    )
    return image_transform_v2(config, is_train=False)


def classify(release: Release, pictures: Pictures, templates: list[str]) -> Metrics:
    """clip-benchmark's zero-shot classification."""
    from clip_benchmark.metrics import zeroshot_classification as theirs

    loader = DataLoader(pictures, BATCH, num_workers=WORKERS)
    return dict(
        theirs.evaluate(
            release.encoder, loader, release.tokenizer, pictures.classes, templates, device="cpu", amp=False
        )
    )


def retrieve(release: Release, pictures: Pictures) -> Metrics:
    """clip-benchmark's retrieval, by our names."""
    from clip_benchmark.metrics import zeroshot_retrieval as theirs

    loader = DataLoader(pictures, BATCH, num_workers=WORKERS, collate_fn=texts_as_lists)
    measured = theirs.evaluate(
        release.encoder, loader, release.tokenizer, device="cpu", amp=False, recall_k_list=list(KS)
    )
    ways = {"image_to_text": "text_retrieval", "text_to_image": "image_retrieval"}
    return {f"{way}/recall@{k}": measured[f"{name}_recall@{k}"] for way, name in ways.items() for k in KS}


def choose(release: Release, pictures: Pictures) -> float:
    """clip-benchmark's choice of the caption: the share of pictures that prefer the first of their captions."""
    from clip_benchmark.metrics import image_caption_selection as theirs

    loader = DataLoader(pictures, BATCH, num_workers=WORKERS, collate_fn=texts_as_lists)
    return float(theirs.evaluate(release.encoder, loader, release.tokenizer, device="cpu", amp=False)["text_acc"])


def one_split(release: Release, samples: Sequence[Sample], transform: Any, prompts: list[str]) -> Metrics:
    """Everything that clip-benchmark measures on these samples, by our names."""
    labels = [sample.metadata.get("subgroup") for sample in samples]
    several = any(isinstance(label, list) for label in labels)
    own = [[label] if isinstance(label, str) else label or [] for label in labels]
    classes = sorted({label for some in own for label in some})
    some = [row for row, listed in enumerate(own) if listed]
    targets: list[Any] = [classes.index(own[row][0]) for row in some]
    if several:
        targets = [torch.tensor([label in own[row] for label in classes]) for row in some]
    pictures = Pictures([samples[row].image for row in some], targets, transform)
    pictures.classes = [label.replace("-", " ").replace("_", " ") for label in classes]
    metrics = {f"subgroup/{name}": value for name, value in classify(release, pictures, prompts).items()}
    for language in sorted({language for sample in samples for language in sample.captions}):
        said = [sample for sample in samples if sample.said(language)]
        pictures = Pictures([s.image for s in said], [s.said(language) for s in said], transform)
        metrics |= {f"{language}/{name}": value for name, value in retrieve(release, pictures).items()}
    false = [sample for sample in samples if sample.metadata.get("negatives")]
    if false:
        captions = [[sample.said("en")[0], *sample.metadata["negatives"]] for sample in false]
        pictures = Pictures([sample.image for sample in false], captions, transform)
        metrics["en/caption_choice/accuracy"] = choose(release, pictures)
    return metrics


def clip_benchmark(release: Release, specs: Sequence[str]) -> Metrics:
    """The same by clip-benchmark's functions."""
    from data_pipelines.shards.read_samples import read_samples
    from data_pipelines.shards.shard_set import ShardSet
    from eval.configuration import split_name
    from eval.prompts.templates import templates

    prompts = [template("{c}") for template in templates(TEMPLATES)]
    transform, metrics = transform_of(release), {}
    names: dict[str, str] = {}
    for spec in specs:
        names[name := split_name(spec, names)] = spec
        samples = list(read_samples(ShardSet.open(spec)))
        metrics |= {f"{name}/{key}": value for key, value in one_split(release, samples, transform, prompts).items()}
    return metrics


def cpu_seconds() -> float:
    """CPU time of this process and of those children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


SIDES = {"ours": ours, "clip_benchmark": clip_benchmark}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    release = load(options.model, random_weights=True)
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_seconds()
        metrics = SIDES[options.side](release, json.loads(line))
        spent = {"seconds": time.perf_counter() - wall, "cpu": cpu_seconds() - cpu}
        print(json.dumps({**spent, "metrics": metrics}), file=answers, flush=True)


if __name__ == "__main__":
    main()
