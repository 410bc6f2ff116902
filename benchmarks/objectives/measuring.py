"""Reciprocal ranks of a model's queries on a split, by concept, language and direction."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.objectives.judging import Scored
from eval.embeddings.split import EmbeddedSplit
from eval.metrics.ranking import Floats, Ints, Relevant, first_relevant_rank
from eval.tasks.retrieval import Captions

LANGUAGES = ("en", "zh")
ONE = threading.Lock()  # models are scored one at a time, whatever number of runs are trained


def measure(model: Path, spec: str) -> Scored:
    """The protocol of task `retrieval`: unique captions, and each answered by every picture that has it."""
    import torch

    from vlp.models import release as releases

    with ONE:
        torch.set_num_threads(1)
        split = EmbeddedSplit(releases.load(model), spec, bar=False)
        names, concept = np.unique([str(s.metadata["concept"]) for s in split.samples], return_inverse=True)
        sums, counts = np.zeros((2, len(names), 2 * len(LANGUAGES)))
        for number, language in enumerate(LANGUAGES):
            captions = Captions.gather(sample.said(language) for sample in split.samples)
            text = np.asarray(split.release.embed_texts(captions.texts), np.float32)
            pictures, row = np.unique(captions.pictures, return_inverse=True)
            image = split.image[pictures]
            own = concept[pictures]
            asked = first_of(own[row], captions.captions, len(captions.texts))
            for way, (queries, candidates, relevant, of) in enumerate(
                (
                    (image, text, Relevant.from_pairs(row, captions.captions), own),
                    (text, image, Relevant.from_pairs(captions.captions, row), asked),
                )
            ):
                column = 2 * number + way
                np.add.at(sums[:, column], of, reciprocal(queries, candidates, relevant))
                np.add.at(counts[:, column], of, 1)
    return Scored(sums, counts)


def reciprocal(queries: Floats, candidates: Floats, relevant: Relevant) -> NDArray[np.float64]:
    """[Q] 1 / the rank, from 1, of each query's best answer."""
    return 1 / (1.0 + first_relevant_rank(queries, candidates, relevant))


def first_of(values: Ints, groups: Sequence[int], count: int) -> Ints:
    """[count] for each group the value of its first member.

    >>> first_of(np.array([7, 8, 9]), (1, 0, 1), 2).tolist()
    [8, 7]
    """
    result = np.empty(count, np.int64)
    result[np.asarray(groups)[::-1]] = np.asarray(values)[::-1]
    return result
