"""A shard set as one model sees it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval.embeddings.encode import embedded_pictures
from vlp.errors import UserError

if TYPE_CHECKING:
    from data_pipelines.sample import Sample
    from data_pipelines.shards.shard_set import ShardSet
    from vlp.models.release import Release


class EmbeddedSplit:
    """The pictures of a shard set as one model sees them; embedded once, however many tasks ask."""

    def __init__(self, release: Release, spec: str, *, bar: bool = True) -> None:
        from data_pipelines.ledger import Ledger
        from data_pipelines.shards.shard_set import ShardSet

        self.release = release
        self.spec = spec
        self.shards: ShardSet = ShardSet.open(spec)
        self.samples: list[Sample] = []
        self.skipped = Ledger()
        parts: list[NDArray[np.float32]] = []
        for _, samples, vectors in embedded_pictures(
            release, self.shards, self.skipped, what=f"embedding {Path(spec).name}", bar=bar
        ):
            self.samples += samples
            parts.append(vectors)
        if not parts:
            raise UserError(f"{spec} has no readable picture to evaluate; check it with: vlp shards verify {spec}")
        self.image = np.concatenate(parts)  # [N, D], unit norm

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Every language that captions come in, most frequent first."""
        found: dict[str, int] = {}
        for sample in self.samples:
            for language in sample.captions:
                found[language] = found.get(language, 0) + 1
        return tuple(sorted(found, key=lambda language: (-found[language], language)))
