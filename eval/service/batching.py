"""Questions gathered for a few milliseconds and answered together: one forward of each tower, one search."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.index import Ints
from eval.search.compose import composed
from eval.search.gallery import Hit
from eval.service.current import Version
from vlp.errors import UserError


@dataclass(frozen=True)
class Part:
    """A text, a prepared picture or a vector, with its weight: below 0 for what the matches should be less like."""

    weight: float
    text: str | None = None
    pixels: Tensor | None = None  # [3, H, W] uint8
    vector: NDArray[np.float32] | None = None  # [D] unit norm


@dataclass(frozen=True)
class Question:
    """What is asked of a version of the index: the parts are added up, the K best are the answer."""

    version: Version  # the one whose model prepared the pictures, also when there is a newer one by now
    parts: tuple[Part, ...]
    k: int
    among: Ints | None = None  # the ids that may be matches, of a filter that the version has answered; None: all
    fold: float | None = None  # cosine from which on matches are folded into a better one
    most: int | None = None  # matches that are looked at for that


@dataclass(frozen=True)
class Waiting:
    """A question whose answer somebody waits for."""

    question: Question
    answer: asyncio.Future[list[Hit]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


def vectors_of(version: Version, questions: Sequence[Question]) -> list[NDArray[np.float32] | UserError]:
    """One unit vector [D] for each question, by one forward of each tower; the error of one that asks for nothing."""
    parts = [part for question in questions for part in question.parts]
    dim = version.gallery.vectors.dim
    vectors = np.zeros((len(parts), dim), np.float32)
    texts = [i for i, part in enumerate(parts) if part.text is not None]
    pictures = [i for i, part in enumerate(parts) if part.pixels is not None]
    if texts:
        vectors[texts] = np.asarray(version.release.embed_texts([str(parts[i].text) for i in texts]))
    if pictures:
        pixels = [parts[i].pixels for i in pictures]
        vectors[pictures] = np.asarray(version.release.embed_pixels(torch.stack([p for p in pixels if p is not None])))
    for i, part in enumerate(parts):
        if part.vector is not None and len(part.vector) == dim:
            vectors[i] = part.vector
    made: list[NDArray[np.float32] | UserError] = []
    start = 0
    for question in questions:
        stop = start + len(question.parts)
        try:
            made.append(composed(vectors[start:stop], [part.weight for part in question.parts]))
        except UserError as error:
            made.append(error)
        start = stop
    return made


def answers(version: Version, questions: Sequence[Question]) -> list[list[Hit] | UserError]:
    """The matches of each question, best first, all of one version; the error of one that asks for nothing.

    Questions with the same K, filter and fold are one search. Raises UserError if the index itself cannot answer.
    """
    made = vectors_of(version, questions)
    result: list[list[Hit] | UserError] = [one if isinstance(one, UserError) else [] for one in made]
    together: dict[tuple[int, int, float | None], list[int]] = {}
    for i, question in enumerate(questions):
        if not isinstance(made[i], UserError):
            together.setdefault((question.k, id(question.among), question.fold), []).append(i)
    for (k, _, fold), same in together.items():
        vectors, first = np.stack([np.asarray(made[i]) for i in same]), questions[same[0]]
        hits = version.gallery.search(version.release, vectors, k, among=first.among, fold=fold, most=first.most)
        for i, some in zip(same, hits, strict=True):
            result[i] = some
    return result


def answered(questions: Sequence[Question]) -> list[list[Hit] | UserError]:
    """The answer to each question by its own version; BatchFailed where a version cannot answer."""
    result: list[list[Hit] | UserError] = [[] for _ in questions]
    versions = {id(question.version): question.version for question in questions}
    for version in versions.values():
        own = [i for i, question in enumerate(questions) if question.version is version]
        try:
            some = answers(version, [questions[i] for i in own])
        except Exception as error:  # of the index or the device: of all who asked it, and not of the service
            some = [BatchFailed(str(error)) for _ in own]
        for i, one in zip(own, some, strict=True):
            result[i] = one
    return result


class BatchFailed(UserError):
    """The index or the model could not answer; the text is for the service's log."""


class Batcher:
    """Answers questions in batches, in a thread of its own, so that requests go on arriving meanwhile."""

    def __init__(self, *, most: int, gather: float, seen: Callable[[int], Any]) -> None:
        """`most` questions at a time, gathered for `gather` seconds; `seen` is called with the size of each batch."""
        self.most, self.gather, self.seen = most, gather, seen
        self.queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="vlp-answers")

    async def ask(self, question: Question) -> list[Hit]:
        """The matches of one question. Raises UserError."""
        waiting = Waiting(question)
        self.queue.put_nowait(waiting)
        return await waiting.answer

    async def _gathered(self) -> list[Waiting]:
        """The first question and those that come while it waits; all that wait already cost no time."""
        some = [await self.queue.get()]
        deadline = asyncio.get_running_loop().time() + self.gather
        while len(some) < self.most:
            left = deadline - asyncio.get_running_loop().time()
            if self.queue.empty() and left <= 0:
                break
            try:
                some.append(self.queue.get_nowait() if left <= 0 else await asyncio.wait_for(self.queue.get(), left))
            except TimeoutError:
                break
        return [waiting for waiting in some if not waiting.answer.done()]  # whose asker has not gone

    async def run(self) -> None:
        """Answer until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            some = await self._gathered()
            if not some:
                continue
            self.seen(len(some))
            questions = [waiting.question for waiting in some]
            result = await loop.run_in_executor(self.thread, answered, questions)
            for waiting, one in zip(some, result, strict=True):
                if waiting.answer.done():
                    continue
                if isinstance(one, UserError):
                    waiting.answer.set_exception(one)
                else:
                    waiting.answer.set_result(one)
