"""A row is found by its number, alone, and what a damaged file says is not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eval.search import row_file
from eval.search.parts import table
from eval.search.row_file import FILE, RowFile
from eval.search.spool import Spool

COUNT = 2500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that came in uneven pieces."""
    out, start = tmp_path_factory.mktemp("rows"), 0
    with Spool(out) as spool:
        for size in (1, 700, 1024, 3, COUNT - 1728):
            spool.add(rows(range(start, start + size)), np.ones((size, 2), np.float32))
            start += size
    return out


def rows(numbers: range) -> pa.Table:
    keys = [f"k{n}" for n in numbers]
    made = table(
        keys,
        [f'{{"en": "caption {n}"}}' for n in numbers],
        ["s.tar"] * len(keys),
        [b"x"] * len(keys),
        ["{}"] * len(keys),
    )
    return made.set_column(3, "thumbnail", pa.array([n.to_bytes(2) * (n % 3) for n in numbers], pa.binary()))


def test_rows_are_those_of_their_numbers(folder: Path) -> None:
    file, rng = RowFile(folder), np.random.default_rng(0)
    for _ in range(5):
        ids = np.unique(rng.integers(0, COUNT, 40))
        got = dict(file.at(ids))
        assert list(got) == ids.tolist()
        for i, row in got.items():
            assert (row["key"], row["thumbnail"]) == (f"k{i}", i.to_bytes(2) * (i % 3))
    assert dict(file.at(np.array([7]), ["key", "absent"])) == {7: {"key": "k7"}}
    assert file.count() == COUNT
    for columns in (None, ["key"]):
        whole = [(start, some["key"].to_pylist()) for start, some in file.tables(columns)]
        assert [start for start, _ in whole] == [0, 1024, 2048]
        assert [key for _, keys in whole for key in keys] == [f"k{n}" for n in range(COUNT)]


def test_groups_that_stay_open_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_file, "MOST_GROUPS", 2)
    file = RowFile(folder)
    for i in (0, 1500, 2400, 0):
        assert dict(file.at(np.array([i])))[i]["key"] == f"k{i}"
        assert len(file._groups) <= 2


def test_damage_is_an_error_and_never_a_crash(folder: Path, tmp_path: Path) -> None:
    """Bits are flipped all over the file: what is read is right, or other text, or an error."""
    whole = (folder / FILE).read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.integers(0, len(whole), 60).tolist():
        data = bytearray(whole)
        data[place] ^= 0x80
        (tmp_path / FILE).write_bytes(data)
        try:
            assert len(dict(RowFile(tmp_path).at(np.arange(0, COUNT, 100)))) == COUNT // 100
        except (OSError, ValueError, LookupError):
            continue
