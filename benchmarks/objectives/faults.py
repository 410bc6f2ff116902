"""How well a part tells captions that were swapped on purpose from sound ones, by what it goes by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

import train
from benchmarks.objectives.judging import Floats, auc
from vlp.augment.none import Unchanged
from vlp.batch import Embeddings
from vlp.choosers.jest import Jest
from vlp.config import parse
from vlp.distributed.world import World
from vlp.models import release as releases

AT_ONCE = 512


def found(name: str, folder: Path, teacher: str) -> float:
    """The AUC of `history`, `alip` or `jest` over the training samples of a finished run. 1: every fault is found."""
    run = parse(train.RunConfig, [str(folder / "config.toml")], "", "")
    swapped = run.data.sources().swapped(run.data.captions.swapped, run.training.seed)
    suspicion = {"history": history, "alip": unlike, "jest": unlearnable}[name](run, folder, teacher)
    known = ~np.isnan(suspicion)
    return auc(suspicion[known], swapped[: len(suspicion)][known])


def history(run: train.RunConfig, folder: Path, teacher: str) -> Floats:
    """[S] the mean loss of each sample in the run, as its last checkpoint has it; NaN where it was never seen."""
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    with safe_open(newest / "rank-00000.safetensors", framework="pt") as file:
        loss, times = (file.get_tensor(f"companion.kept.sample.history_{what}@0") for what in ("loss", "times"))
    return np.where(times.numpy() > 0, loss.double().numpy(), np.nan)


def unlike(run: train.RunConfig, folder: Path, teacher: str) -> Floats:
    """[S] how far pictures and captions are apart for the trained model: what ALIP's weights fall with."""
    some = [(numbers, -(e.image[:, None] * captions(e)).sum(-1).mean(1)) for numbers, e in seen(run, folder)]
    return by_number(some)


def unlearnable(run: train.RunConfig, folder: Path, teacher: str) -> Floats:
    """[S] the least of JEST's scores among the samples that they come with: the teacher's loss less the model's."""
    assert isinstance(run.choose, Jest)
    how = run.choose.taught(float(releases.load(teacher).encoder.logit_scale.detach().exp()))  # as the run scored
    some = [(numbers, -how.learnability(e)) for numbers, e in seen(run, folder, teacher)]
    return by_number(some)


def captions(e: Embeddings) -> torch.Tensor:
    """[B, K, D] the captions of each picture, one or several."""
    return e.text if e.text.ndim == 3 else e.text[:, None]


def by_number(some: list[tuple[torch.Tensor, torch.Tensor]]) -> Floats:
    """[S] values by the number of their sample, NaN where there is none."""
    numbers, values = (torch.cat(parts) for parts in zip(*some, strict=True))
    result: NDArray[np.float64] = np.full(int(numbers.max()) + 1, np.nan)
    result[numbers.numpy()] = values.double().numpy()
    return result


def seen(run: train.RunConfig, folder: Path, teacher: str = "") -> Iterator[tuple[torch.Tensor, Embeddings]]:
    """Numbers and embeddings of an epoch of the run's own stream, without augmentation, by its trained model.

    With a teacher, a picture's first caption alone, and what the teacher says of the pair beside it.
    """
    torch.set_num_threads(1)
    own, other = releases.load(folder / "model"), releases.load(teacher) if teacher else None
    plain = replace(run, picture=0, augment=Unchanged())
    sources = run.data.sources()
    reads = other.tokenizer if other is not None else None
    batches = train.open_stream(plain, own.tokenizer, sources, World.alone(), batch=AT_ONCE, teacher=reads)
    for _, batch in zip(range(-(-sources.numbering.total // AT_ONCE)), batches, strict=False):
        assert batch.numbers is not None
        with torch.inference_mode():
            if other is None:
                yield batch.numbers, own.encoder(batch.image, batch.text)
                continue
            e = own.encoder(batch.image, first(batch.text))
            assert batch.teacher_text is not None
            said = other.encoder(batch.image, first(batch.teacher_text))
            given = {"guide_image": said.image, "guide_text": said.text, "ids": batch.ids}
            yield batch.numbers, replace(e, **given)


def first(text: torch.Tensor) -> torch.Tensor:
    """[B, L] the first caption of each picture."""
    return text[:, 0] if text.ndim > 2 else text
