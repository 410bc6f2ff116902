"""A folder that says of every sample of a shard set whether it stays: decision.json, and a parquet file for each shard.

`vlp shards filter` writes it, `vlp shards reshard --keep` reads it; the files say the same to any program that reads
parquet. Rows stand in the order in which samples lie in their tar.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import plain

if TYPE_CHECKING:
    import pyarrow as pa

FILE, FORMAT = "decision.json", "vlp-decision-1"
ROWS = "samples"  # folder of the parquet files


@dataclass(frozen=True)
class Decision:
    """What is decided for the samples of a shard set."""

    folder: Path
    shards: tuple[tuple[str, int], ...]  # name of each tar, and how many samples it has
    counts: Mapping[str, int]  # samples left out, by reason
    about: Mapping[str, Any]  # how it was decided

    @classmethod
    def open(cls, folder: Path) -> Decision:
        """What `write` wrote. Raises UserError if there is none, or if it is of another format."""
        path = folder / FILE
        if not path.is_file():
            raise UserError(f'there is no {FILE} in "{folder}"; run `vlp shards filter` to its end')
        try:
            tree = json.loads(path.read_bytes())
            if tree["format"] != FORMAT:
                raise UserError(f"{path} has format {plain(tree['format'])!r}, expected {FORMAT!r}; filter again")
            shards = tuple((str(row["name"]), int(row["samples"])) for row in tree["shards"])
            return cls(folder, shards, dict(tree["counts"]), dict(tree["about"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({plain(error)!r}); filter again") from None

    @property
    def samples(self) -> int:
        """All samples that were decided on."""
        return sum(count for _, count in self.shards)

    @property
    def left_out(self) -> int:
        """Those that do not stay."""
        return sum(self.counts.values())

    def write(self) -> None:
        """Write decision.json, after the rows of every shard: it says that they are whole."""
        tree = {
            "format": FORMAT,
            "samples": self.samples,
            "stay": self.samples - self.left_out,
            "counts": dict(sorted(self.counts.items())),
            "about": self.about,
            "shards": [{"name": name, "samples": count} for name, count in self.shards],
        }
        write_whole(self.folder / FILE, json.dumps(tree, ensure_ascii=False, indent=1) + "\n")

    def rows(self, row: int) -> pa.Table:
        """Columns key, stays, reason and more, of one shard. Raises UserError if they cannot be read."""
        import pyarrow.parquet as pq

        path = rows_of(self.folder, row)
        try:
            return pq.read_table(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({plain(error)}); filter again") from None

    def reasons(self, row: int, keys: Sequence[str]) -> list[str]:
        """Why each sample of a shard is left out, "" where it stays; `keys` are those that lie in the tar.

        Raises UserError if the tar holds other samples than were decided on.
        """
        rows = self.rows(row)
        if rows["key"].to_pylist() != list(keys):
            raise UserError(
                f"{self.folder} decided on other samples than shard {row} ({plain(self.shards[row][0])}) holds now; "
                "filter these shards again"
            )
        return [str(reason) for reason in rows["reason"].to_pylist()]

    def check(self, counts: Sequence[int]) -> None:
        """Raise UserError if it is about another number of shards, or of samples in one, than `counts` says."""
        for row, count in enumerate(counts):
            if row >= len(self.shards) or count not in (0, self.shards[row][1]):
                break
        else:
            if len(counts) == len(self.shards):
                return
        raise UserError(
            f"{self.folder} decided on {self.samples:,} samples in {len(self.shards):,} shards, but there are "
            f"{sum(counts):,} in {len(counts):,}: these are other shards, so filter them"
        )


def rows_of(folder: Path, row: int) -> Path:
    """The parquet file of one shard."""
    return folder / ROWS / f"{row:06d}.parquet"


def write_rows(folder: Path, row: int, table: pa.Table) -> None:
    """Write the rows of one shard, whole or not at all."""
    import pyarrow.parquet as pq

    write_whole(rows_of(folder, row), lambda path: pq.write_table(table, path))
