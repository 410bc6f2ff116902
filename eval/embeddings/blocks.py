"""The samples of a part, some at a time: read ahead and decoded in threads, then embedded."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_pipelines.ledger import Ledger
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.read_samples import read_shard
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.encode import PICTURES_AT_ONCE, Decoding, located, refuse_damage
from eval.embeddings.sound import refuse_unlike_unit
from eval.embeddings.store import KINDS, What
from eval.embeddings.unfinished import Loss, Made
from vlp.legible import plain

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipelines.sample import Sample
    from vlp.models.release import Release

Decode = Literal["exact", "scaled"]
T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """Samples at some positions of a shard, their pictures on the way to pixels."""

    start: int
    stop: int
    url: str
    samples: list[Sample]
    lost: list[Loss]
    decoding: Decoding | None  # None where no pictures are wanted
    last: bool = False  # of its part


@dataclass(frozen=True)
class Encoder:
    """What makes vectors of blocks."""

    release: Release
    what: What
    dtype: str
    decode: Decode = "exact"

    def blocks(self, shards: ShardSet, row: int, start: int, *, skip_damaged: bool) -> Iterator[Block]:
        """The blocks of one tar from position `start` on; the last one is empty.

        They are cut at the same positions wherever one starts. Raises UserError for a damaged shard, unless
        `skip_damaged`.
        """
        url, skip, opened = shards.urls[row], Ledger(), OpenShards(shards)
        some: list[Sample] = []
        for sample in read_shard(opened, row, skip=skip, start=start):
            some.append(sample)
            if len(some) == PICTURES_AT_ONCE:
                yield self._block(start, url, some, skip, skip_damaged=skip_damaged)
                start, some = start + len(some), []
        yield self._block(start, url, some, skip, skip_damaged=skip_damaged, last=True)

    def _block(
        self, start: int, url: str, samples: list[Sample], skip: Ledger, *, skip_damaged: bool, last: bool = False
    ) -> Block:
        refuse_damage(skip, url, skip_damaged=skip_damaged)
        lost = [Loss(reason, shard, count=count) for (reason, shard), count in skip.drops.items()]
        skip.drops.clear()
        stop = start + len(samples)
        if self.what == "texts":
            lost += [Loss("missing caption", url, plain(s.key)) for s in samples if not s.captions]
            return Block(start, stop, url, [s for s in samples if s.captions], lost, None, last)
        decoding = Decoding(samples, self.release.transform, scaled=self.decode == "scaled")
        return Block(start, stop, url, samples, lost, decoding, last)

    def made(self, block: Block, part: str) -> Made:
        """The vectors and rows of a block. Raises UserError for vectors that are not finite, or not of unit norm."""
        skip, samples, vectors = Ledger(), block.samples, dict[str, NDArray[Any]]()
        lost = list(block.lost)
        if block.decoding is not None:
            samples, pixels = block.decoding.result(block.url, skip)
            reasons = zip(block.samples, block.decoding.reasons, strict=True)
            lost += [Loss(reason, block.url, plain(s.key)) for s, reason in reasons if reason]
            if samples:
                vectors["img_emb"] = self._sound(self.release.embed_pixels(pixels), block, samples)
        if self.what != "images" and samples:
            said = [first_caption(s.captions) for s in samples]
            vectors["text_emb"] = self._sound(self.release.embed_texts(said), block, samples)
        return Made(block.start, block.stop, vectors, rows_of(samples, block.url, part), lost)

    def _sound(self, made: Tensor, block: Block, samples: list[Sample]) -> NDArray[Any]:
        """Vectors of unit norm of `samples`, in the store's dtype."""
        vectors = np.asarray(made, np.float32)
        refuse_unlike_unit(vectors, self.release.name, lambda row: f"{plain(samples[row].key)} of {block.url}")
        return vectors.astype(self.dtype)

    def empty(self) -> dict[str, NDArray[Any]]:
        """[0, D] of each kind of vectors, in the store's dtype."""
        make = {"img_emb": self.release.embed_images, "text_emb": self.release.embed_texts}
        return {kind: np.asarray(make[kind]([]), np.float32).astype(self.dtype) for kind in KINDS[self.what]}


def rows_of(samples: list[Sample], url: str, part: str) -> dict[str, list[str]]:
    """What is known of some samples of a shard, by column: [n] each."""
    keys = [plain_utf8(s.key) for s in samples]
    return {
        "id": [f"{part}/{key}" for key in keys],
        "key": keys,
        "image_path": keys,
        "caption": [plain_utf8(first_caption(s.captions)) for s in samples],
        "captions": [as_json(s.captions) for s in samples],
        "shard": [located(url)] * len(samples),
        "url": [plain_utf8(s.metadata["url"]) if isinstance(s.metadata.get("url"), str) else "" for s in samples],
        "metadata": [as_json(s.metadata) for s in samples],
    }


def as_json(tree: Any) -> str:
    """JSON with every character as it is."""
    return plain_utf8(json.dumps(tree, ensure_ascii=False))


def plain_utf8(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which no file of texts takes."""
    return text.encode("utf-8", "replace").decode()


def first_caption(captions: Mapping[str, str]) -> str:
    """The English caption if there is one, else the first."""
    return captions.get("en") or next(iter(captions.values()), "")


END = object()


def in_thread(make: Iterator[T], count: int) -> Generator[T, None, None]:
    """The same things, made in a thread, of which at most `count` wait; what is raised there is raised here."""
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(count)
    stop = threading.Event()

    def put(thing: Any, error: BaseException | None = None) -> bool:
        while not stop.is_set():
            try:
                waiting.put((thing, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for thing in make:
                if not put(thing):
                    return
        except BaseException as error:
            put(END, error)
        else:
            put(END)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            thing, error = waiting.get()
            if error is not None:
                raise error
            if thing is END:
                return
            yield thing
    finally:
        stop.set()
        thread.join(5)  # one that waits for a store that is gone is left alone
