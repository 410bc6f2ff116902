"""A folder that fills with shards: where it goes on, and when it does not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.sample import Sample
from data_pipelines.shards import manifest
from data_pipelines.shards.manifest import Manifest
from data_pipelines.writing.resumable_folder import JOURNAL, Outcome, fill
from vlp.errors import UserError


@dataclass(frozen=True)
class Cut:
    shard_size: int = 2
    shard_bytes: int = 1 << 30


def outcome(n: int, key: str = "") -> Outcome:
    if n % 5 == 4:
        return Outcome(f"row {n}", None, "missing caption")
    return Outcome(f"row {n}", Sample(key or f"s{n}", b"picture %d" % n, "png", {"en": f"text {n}"}))


def filled(folder: Path, outcomes: Iterable[Outcome], *, recipe: Any = "r", **more: Any) -> tuple[Manifest, list[int]]:
    """The manifest, and from which places on the outcomes were asked for."""
    asked: list[int] = []
    every = list(outcomes)

    def rest(taken: int) -> Iterator[Outcome]:
        asked.append(taken)
        for one in every[taken:]:
            if one.where == "break":
                raise RuntimeError("the source broke")
            yield one

    settings = {"name": "x", "about": dict, "cut": Cut(), **more}
    return fill(folder, rest, recipe={"of": recipe}, **settings), asked


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_interrupted_folder_goes_on_after_its_last_whole_tar_to_the_same_bytes(tmp_path: Path) -> None:
    outcomes = [outcome(n) for n in range(13)]
    filled(tmp_path / "whole", outcomes)
    for stop in range(1, 13):
        folder = tmp_path / f"cut{stop}"
        with pytest.raises(RuntimeError, match="broke"):
            filled(folder, [*outcomes[:stop], Outcome("break", None)])
        whole_tars = len(list(folder.glob("*.tar")))
        done, asked = filled(folder, outcomes)
        assert len(asked) == 1
        assert asked[0] <= stop
        assert sum(one.packed is not None for one in outcomes[: asked[0]]) == 2 * whole_tars
        assert files(folder) == files(tmp_path / "whole")
        assert done.counts == {"missing caption": 2}
        assert done.examples == {"missing caption": ["row 4", "row 9"]}


def test_a_finished_folder_is_left_alone_and_another_recipe_refused(tmp_path: Path) -> None:
    done, _ = filled(tmp_path / "a", map(outcome, range(6)))
    before = files(tmp_path / "a")
    assert filled(tmp_path / "a", [Outcome("break", None)]) == (done, [])
    with pytest.raises(UserError, match="already holds other shards"):
        filled(tmp_path / "a", map(outcome, range(6)), recipe="another")
    assert files(tmp_path / "a") == before


def test_the_beginning_of_another_build_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        filled(tmp_path / "a", [outcome(0), outcome(1), outcome(2), Outcome("break", None)])
    with pytest.raises(UserError, match="holds the beginning of another build"):
        filled(tmp_path / "a", [outcome(0)], recipe="another")
    (tmp_path / "a/00000.tar").write_bytes(b"changed")
    with pytest.raises(UserError, match="was changed since this build was interrupted"):
        filled(tmp_path / "a", map(outcome, range(6)))


def test_a_key_that_a_shard_has_is_counted_or_renamed(tmp_path: Path) -> None:
    twice = [outcome(0, "k"), outcome(1, "k"), outcome(2, "k")]
    done, _ = filled(tmp_path / "counted", twice)
    assert (done.samples, done.counts) == (1, {"duplicate key": 2})
    named, _ = filled(
        tmp_path / "renamed",
        twice,
        cut=Cut(shard_size=9),
        rename=lambda one, n: replace(one, key=f"{one.key}_{n}"),
    )
    assert (named.samples, named.counts, named.about["renamed_keys"]) == (3, {}, 2)


def test_nothing_to_write_is_one_sentence_and_leaves_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing was left to write into .*missing caption: 2"):
        filled(tmp_path / "a", [outcome(4), outcome(9)])
    assert not (tmp_path / "a" / manifest.FILE).exists()


def test_the_journal_is_whole_json_while_there_is_one(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        filled(tmp_path / "a", [*map(outcome, range(4)), Outcome("break", None)])
    tree = json.loads((tmp_path / "a" / JOURNAL).read_text())
    assert [row["samples"] for row in tree["shards"]] == [2, 2]
    filled(tmp_path / "a", map(outcome, range(4)))
    assert not (tmp_path / "a" / JOURNAL).exists()
