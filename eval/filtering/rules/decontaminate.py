"""Training samples whose picture a test set has: by perceptual hash, and by the vectors of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data_pipelines.picture_hash import ALIKE_BITS, ALIKE_COLOUR
from data_pipelines.remote.patience import Unreadable
from eval.filtering.kept import Kept, Paused
from eval.filtering.others import TestPictures, TestSet, fingerprints, refuse_other_model, test_pictures
from eval.filtering.pool import Flags, Ints, Pool
from eval.filtering.rules import NOBODY, Border, Rule, Verdict, nothing
from eval.picture_hashes import Hashes
from vlp.config.bounds import Share
from vlp.errors import UserError

REASONS = ("picture of a test, by hash", "picture of a test, by vector")
AT_ONCE = 256  # encoded pictures in memory


@dataclass(frozen=True)
class Decontaminate(Rule):
    """Leaves out samples whose picture looks like one of a test set (`vlp eval --against` tells how many there are).

    A picture is one of a test where their difference hashes and mean colours nearly agree, or where the model gives
    both nearly the same vector. The pictures of the shards are read and decoded for their hashes.
    """

    scored: ClassVar[str] = "cosine to the nearest test picture"
    just_stays: ClassVar[Border] = "highest"

    against: tuple[str, ...] = ()
    """test sets, each a folder of embeddings by the same model (`vlp embed`), or shards: then by hashes alone"""
    hashes: bool = True
    """compare hashes"""
    cosine: Share = 0.97
    """pictures whose vectors have at least this cosine are the same; 0: hashes alone decide"""

    def refuse(self, pool: Pool) -> None:
        """No test sets, nothing that is compared, or embeddings of another model."""
        if not self.against:
            raise UserError("the rule decontaminate needs against=TEST: a folder of embeddings, or a shard set")
        stores = [store for store in (TestSet(spec).store for spec in self.against) if store]
        for store in stores:
            refuse_other_model(store, pool.stored)
        if not self.hashes and not (self.cosine and stores):
            raise UserError(
                "the rule decontaminate has hashes=false and no vectors to compare: give a cosine above 0 and against="
                "FOLDER of embeddings (`vlp embed`), or leave hashes on"
            )

    def inputs(self) -> Mapping[str, Any]:
        """The test sets."""
        return {spec: TestSet(spec).digest(hashed=self.hashes) for spec in self.against}

    @cached_property
    def _tests(self) -> TestPictures:
        return test_pictures(self.against, hashed=self.hashes, compared=self.cosine > 0)

    def judge(self, pool: Pool, stays: Flags, kept: Kept) -> Verdict:
        """Hashes first, then vectors; the first test picture of those alike is named, or the nearest one."""
        tests = self._tests
        reason, score, like = nothing(len(pool))
        if tests.vectors:
            for block, some in pool.blocks(stays, "comparing with test vectors"):
                near = kept.array(f"near-{block}", partial(_near, pool, some, tests))
                score[some], like[some] = near["score"], near["like"]
                reason[some[near["score"] >= self.cosine]] = 2
        unread = 0
        if tests.hashes is not None:
            for block, some in pool.blocks(stays, "comparing hashes"):
                row = kept.array(f"hash-{block}", partial(_alike, pool, some, tests.hashes))
                reason[some[row >= 0]], like[some[row >= 0]] = 1, row[row >= 0]
                unread += int((row == UNREAD).sum())
        vectors = sum(len(stored) for _, stored in tests.vectors)
        about = {"test_pictures_hashed": len(tests.keys) - vectors, "test_vectors": vectors}
        about |= {"hash_bits": ALIKE_BITS, "colour": int(ALIKE_COLOUR)}
        return Verdict(REASONS, reason, score, like, {**about, **({"not_hashed": unread} if unread else {})})

    def liked(self, pool: Pool, like: int) -> tuple[str, bytes]:
        """(name, picture) of a test picture."""
        return self._tests.name(like), self._tests.picture(like)

    def named(self, pool: Pool, like: int) -> str:
        """The name of a test picture."""
        return self._tests.name(like)


UNREAD = -2


def _near(pool: Pool, some: Ints, tests: TestPictures) -> NDArray[np.void]:
    return tests.nearest(pool.vectors(some))


def _alike(pool: Pool, some: Ints, hashes: Hashes | None) -> NDArray[np.int64]:
    """[n] for each sample the first test picture that looks like its own; NOBODY, or UNREAD where it has no hash."""
    assert hashes is not None
    rows = np.full(len(some), NOBODY, np.int64)
    for start in range(0, len(some), AT_ONCE):
        numbers = some[start : start + AT_ONCE]
        prints = fingerprints([_picture(pool, int(number)) for number in numbers])
        places = [place for place, made in enumerate(prints) if made is not None]
        rows[[start + place for place, made in enumerate(prints) if made is None]] = UNREAD
        for test, place in sorted(hashes.alike(Hashes.of([made for made in prints if made is not None])), reverse=True):
            rows[start + places[place]] = test
    return rows


def _picture(pool: Pool, number: int) -> bytes:
    shard, place = pool.place(number)
    try:
        return pool.opened.sample(shard, place).image
    except Unreadable as error:
        raise Paused(
            f"{pool.opened.urls[shard]} cannot be read ({error}); the same command goes on where it was"
        ) from None
