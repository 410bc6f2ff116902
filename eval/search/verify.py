"""`vlp index verify`: the checksums of an index, and that its vectors and rows belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import Positional, arg

from eval.index import Index
from eval.search.recall import said
from eval.search.row_file import RowFile
from eval.search.versions import Version
from vlp.config import build, only_ours
from vlp.errors import UserError
from vlp.legible import plain


def problems(folder: Path, *, trust: bool = False) -> list[str]:
    """What is wrong with the version of an index that counts, a sentence each; nothing if all is well.

    Raises UserError if there is no index, or if a file is missing or of another size.
    """
    import pyarrow.parquet as pq

    version = Version.current(folder)
    altered = version.altered()
    if altered:
        return [
            f"{version.files / file} was altered (its sha256 is not the one in index.toml); build the index again"
            for file in altered
        ]
    with only_ours(not trust):
        kind: Index = build(Index, version.about["kind"], "kind")
    vectors = kind.at(folder).load(version.files / kind.file, mapped=True)
    rows = pq.read_metadata(version.files / "rows.parquet").num_rows
    by_number = RowFile(version.files).count()
    ids, live = vectors.stored_ids(), vectors.live_ids()
    wrong = vectors.problems()
    if len(np.unique(ids)) != len(ids):
        wrong.append(f"{folder} holds {len(ids) - len(np.unique(ids)):,} ids twice; build the index again")
    if len(ids) and not 0 <= ids.min() <= ids.max() < rows:
        wrong.append(f"{folder} has {rows:,} rows, but vectors of rows up to {ids.max():,}; build the index again")
    if by_number != rows:
        wrong.append(f"{folder} has {rows:,} rows, but {by_number:,} by their numbers; build the index again")
    if len(live) != version.about.get("count", len(live)):
        wrong.append(f"{folder} should have {version.about['count']:,} vectors, but has {len(live):,}; build it again")
    columns = version.files / "columns.parquet"
    if columns.is_file() and pq.read_metadata(columns).num_rows != rows:
        wrong.append(f"{columns} has not one row for each of {rows:,}; build the index again")
    kept = version.files / "vectors.npy"
    if kept.is_file() and np.load(kept, mmap_mode="r").shape != (rows, vectors.dim):
        wrong.append(f"{kept} has not one vector of width {vectors.dim} for each of {rows:,} rows; build it again")
    return wrong


def main(argv: list[str]) -> int:
    """`vlp index verify INDEX`."""

    def command(index: Annotated[Positional[Path], arg(metavar="INDEX")], *, trust: bool = False) -> int:
        """Compare every file of an index with its checksum, and its vectors with its rows.

        Args:
            index: folder that `vlp index build` wrote.
            trust: run code that the index names and that is no part of vlp.
        """
        wrong = problems(index, trust=trust)
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise UserError(f"{wrong[0]}{more}")
        version = Version.current(index)
        about = version.about
        name = plain(about["kind"]["name"])
        print(
            f"{index}: {about['count']:,} {version.of}, {name}, model {plain(about['model']['id'])[:12]}: all is well"
        )
        print(*said(about.get("measured", {})), sep="\n")
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp index verify"))
