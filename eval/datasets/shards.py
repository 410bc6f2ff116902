"""Tar shards, as everything in vlp reads them: any caption path of the .json, classes in a field of it or in a .cls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from eval.datasets import Block, Dataset, Protocol
from eval.embeddings.encode import data_sha256, samples_of

if TYPE_CHECKING:
    from data_pipelines.ledger import Ledger
    from data_pipelines.shards.shard_set import ShardSet


@dataclass(frozen=True, kw_only=True)
class Shards(Dataset):
    """The shard set that `root` names: a folder, glob, brace range, union (a::b), URL or bundled:NAME."""

    label: str = ""
    """field of the .json that holds the class; cls: the .cls member; empty: as the task says"""

    @property
    def shards(self) -> ShardSet:
        """The tars. Raises UserError if there are none."""
        from data_pipelines.shards.shard_set import ShardSet

        return ShardSet.open(self.root)

    @property
    def protocol(self) -> Protocol:
        """Which field is the class."""
        return Protocol(label=self.label)

    @property
    def asks(self) -> str:
        """What the manifests of its folders say (`about.asks`)."""
        from data_pipelines.shards import manifest

        folders = dict.fromkeys(Path(url).parent for url in self.shards.urls if Path(url).is_file())
        manifests = [manifest.read(folder) for folder in folders if (folder / manifest.FILE).is_file()]
        return " ".join(dict.fromkeys(str(m.about["asks"]) for m in manifests if m.about.get("asks")))

    def missing(self) -> str:
        """Nothing: to open shards that are not there says so."""
        return ""

    def blocks(self, skip: Ledger, *, skip_damaged: bool = False) -> Iterator[Block]:
        """The samples of every tar, in order."""
        yield from samples_of(self.shards, skip, skip_damaged=skip_damaged)

    def sha256(self) -> str:
        """Of the manifest's checksums, or of the files where it has none."""
        return data_sha256(self.shards)

    def below(self, folder: str) -> Self:
        """The same: shards are where their specification says."""
        return self
