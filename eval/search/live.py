"""`vlp index add|remove|update|compact`: an index that lives. Each writes a new version; nothing is trained anew.

A row is never taken out of rows.parquet and vectors.npy, whose numbers are the ids, until `compact` writes them anew.
What identifies a picture is its key.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from data_pipelines.ledger import Ledger
from eval.embeddings.encode import left_out
from eval.search import columns as column_file
from eval.search.build import write_version
from eval.search.captioned import KINDS
from eval.search.fill import filled
from eval.search.gallery import Gallery
from eval.search.parts import Parts, with_metadata
from eval.search.recall import grown_queries, kept_queries, said
from eval.search.row_file import FILE
from eval.search.shares import led
from eval.search.spool import Spool, npy, vectors_of
from eval.search.versions import Version, link_or_copy, next_version
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import plain

if TYPE_CHECKING:
    from vlp.models.release import Release

SHOWN = 3  # keys that a sentence names


@dataclass(frozen=True)
class Changed:
    """A new version, and how many pictures came and went."""

    gallery: Gallery
    added: int = 0
    removed: int = 0


def add(release: Release, spec: str, out: Path, *, trust: bool = False, **read: Any) -> Changed:
    """Add the pictures of a shard set or of a folder of embeddings; `read`: thumbnail, skip_damaged, skip, as to build.

    trust: the index's kind may be code that is no part of vlp. Raises UserError if a key is in the index already or
    given twice, if `release` is not the index's model, or as `build_gallery` does; the index is then as it was.
    """
    return _grown(release, _parts(release, spec, out, **read), out, replace=False, trust=trust)


def update(release: Release, spec: str, out: Path, *, trust: bool = False, **read: Any) -> Changed:
    """As `add`, but pictures whose keys are in the index already take the place of those."""
    return _grown(release, _parts(release, spec, out, **read), out, replace=True, trust=trust)


def _parts(release: Release, spec: str, out: Path, **read: Any) -> Parts:
    """The pictures, or the captions, whichever the index is of."""
    return KINDS[Version.current(out).of](release, spec, **{"thumbnail": None, **read})


def remove(keys: Iterable[str], out: Path, *, trust: bool = False) -> Changed:
    """Take the pictures with these keys out. Raises UserError if one is not there; the index is then as it was."""
    wanted = list(dict.fromkeys(keys))
    with next_version(out) as folder:
        gallery = Gallery.open(out, mapped=False, trust=trust)
        ids = _live_by_key(gallery, set(wanted))
        missing = [key for key in wanted if key not in ids]
        if missing:
            raise UserError(f"{out} has no picture with {_named(missing)}; nothing was removed")
        gone = np.array([i for key in wanted for i in ids[key]], np.int64)
        if len(gone) == len(gallery.vectors):
            raise UserError(f"{out} has no other pictures than these {len(gone):,}; remove the folder instead")
        gallery.vectors.remove(gone)
        for file in ("rows.parquet", "vectors.npy", "queries.npy"):
            _needed(gallery, file)
            link_or_copy(gallery.files / file, folder / file)
        for file in (FILE, column_file.FILE):
            if (gallery.files / file).is_file():
                link_or_copy(gallery.files / file, folder / file)
        write_version(gallery.vectors, folder, _kept(gallery))
    return Changed(Gallery.open(out, trust=trust), removed=len(gone))


def compact(out: Path, *, trust: bool = False) -> Changed:
    """Train and fill the index anew with the pictures that are left, whose rows are written anew, too."""
    with next_version(out) as folder:
        gallery = Gallery.open(out, mapped=False, trust=trust)
        live = gallery.vectors.live_ids()
        rows = gallery.rows.tables()
        vectors = _needed(gallery, "vectors.npy")
        with Spool(folder) as spool:
            for start, table in rows:
                inside = live[(live >= start) & (live < start + len(table))]
                spool.add(with_metadata(table.take(inside - start)), vectors[inside])
        _needed(gallery, "queries.npy")
        link_or_copy(gallery.files / "queries.npy", folder / "queries.npy")
        about = _kept(gallery)
        about["measured"] = {key: value for key, value in about["measured"].items() if key != "built"}
        build = led if gallery.vectors.kind.lists_on_disk() else filled
        write_version(build(gallery.vectors.kind, folder, vectors_of(folder)), folder, about)
        gone = len(vectors) - len(live)
    return Changed(Gallery.open(out, trust=trust), removed=gone)


def _grown(release: Release, parts: Parts, out: Path, *, replace: bool, trust: bool) -> Changed:
    with next_version(out) as folder:
        gallery = Gallery.open(out, mapped=False, trust=trust)
        gallery.check_model(release)
        vectors, index = _needed(gallery, "vectors.npy"), gallery.vectors
        before = _live_by_key(gallery)
        seen: set[str] = set()
        gone: list[int] = []
        with Spool(folder) as spool:
            for start, table in gallery.rows.tables():
                spool.add(with_metadata(table), vectors[start : start + len(table)])
            for table, some in parts.stream:
                keys = table["key"].to_pylist()
                if parts.of == "captions":  # those of a picture come together, and are one
                    keys = [key for key, _ in groupby(keys)]
                _check_keys(keys, seen, before, out, replace=replace)
                gone += [i for key in keys for i in before.get(key, ())]
                index.add(some, np.arange(spool.count, spool.count + len(some)), new=True)
                spool.add(table, some)
        if gone:
            index.remove(np.array(gone, np.int64))
        about = _kept(gallery)
        about["measured"] = _measured_by(release, gallery, folder, parts, len(vectors))
        about["more_data"] = [*about.get("more_data", []), parts.about()]
        write_version(index, folder, about)
    return Changed(Gallery.open(out, trust=trust), added=len(seen), removed=len(gone))


def _measured_by(release: Release, gallery: Gallery, folder: Path, parts: Parts, first: int) -> dict[str, Any]:
    """Write the queries of an index that has grown by the rows from `first` on; what the index says of them."""
    _needed(gallery, "queries.npy")
    measured, before = dict(gallery.about["measured"]), np.load(gallery.files / "queries.npy")
    count = len(vectors_of(folder))
    if count > first:
        own = (parts.queries(), "pictures") if parts.queries is not None else None
        more = own or kept_queries(release, folder, parts.store, first=first)
        before = grown_queries(before, measured["of"], more, (count - first) / count)
    write_whole(folder / "queries.npy", npy(before))
    return {**measured, "queries": len(before)}


def _check_keys(keys: Sequence[str], seen: set[str], before: Container[str], out: Path, *, replace: bool) -> None:
    """Remember the keys. Raises UserError if one is given twice, or, unless it may be replaced, there already."""
    twice = [key for i, key in enumerate(keys) if key in seen or key in keys[:i]] if len({*keys}) < len(keys) else []
    twice = twice or [key for key in keys if key in seen]
    if twice:
        raise UserError(f"{_named(twice)} is given twice; give each picture a key of its own")
    there = [key for key in keys if key in before]
    if there and not replace:
        raise UserError(f"{out} has a picture with {_named(there)} already; replace pictures with: vlp index update")
    seen.update(keys)


def _live_by_key(gallery: Gallery, wanted: Container[str] | None = None) -> dict[str, tuple[int, ...]]:
    """The ids of the pictures that may be among the hits, by key; of the `wanted` ones alone, where they are named."""
    live = gallery.vectors.live_ids()
    ids: dict[str, tuple[int, ...]] = {}
    for start, table in gallery.rows.tables(["key"]):
        inside = live[(live >= start) & (live < start + len(table))]
        for i, key in zip(inside.tolist(), table["key"].take(inside - start).to_pylist(), strict=True):
            if wanted is None or key in wanted:
                ids[str(key)] = (*ids.get(str(key), ()), i)
    return ids


def _needed(gallery: Gallery, file: str) -> NDArray[np.float32]:
    """A file of vectors, mapped; of rows nothing. Raises UserError if an earlier version of vlp wrote none."""
    if not (gallery.files / file).is_file():
        raise UserError(f"{gallery.folder} was written by an earlier version of vlp, without {file}; build it again")
    return vectors_of(gallery.files) if file == "vectors.npy" else np.empty((0, gallery.vectors.dim), np.float32)


def _kept(gallery: Gallery) -> dict[str, Any]:
    """What a new version says as the last one did."""
    own = ("model", "of", "data", "more_data", "measured")
    return {key: gallery.about[key] for key in own if key in gallery.about}


def _named(keys: Sequence[str]) -> str:
    few = ", ".join(f'"{plain(key, 60)}"' for key in keys[:SHOWN])
    return f"the key {few}" + (f" and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else "")


def _print(out: Path, done: str, changed: Changed, skip: Ledger) -> None:
    about = changed.gallery.about
    print(f"{out}: {done}; {about['count']:,} {changed.gallery.of} now{left_out(skip)}")
    print(*said(about["measured"]), sep="\n")


def _grow_command(argv: list[str], name: str, change: Callable[..., Changed], words: str) -> int:
    from vlp.models import release

    def command(
        index: Annotated[Positional[Path], arg(metavar="INDEX")],
        shards: Annotated[Positional[str], arg(metavar="SHARDS")],
        *,
        model: str = "",
        thumbnail: int | None = None,
        device: str = "cpu",
        random_weights: bool = False,
        trust: bool = False,
        skip_damaged: bool = False,
    ) -> int:
        """Write a new version of an index with the pictures of a shard set, or of a folder of embeddings.

        Args:
            index: folder that `vlp index build` wrote.
            shards: folder with a manifest, glob, brace range, union (a::b), bundled:NAME, or a folder of `vlp embed`.
            model: where the index's model is now, if it was moved.
            thumbnail: longer side of the small pictures that are kept, pixels, as for `vlp index build`.
            device: cpu, cuda, cuda:1 ...
            random_weights: take an open_clip name without a tag, whose weights are random.
            trust: run code that the model's folder names and that is no part of vlp.
            skip_damaged: go on without what a damaged shard has lost, counted and said, instead of refusing it.
        """
        skip = Ledger()
        path = model or Gallery.open(index, trust=trust).model
        loaded = release.load(path, device, random_weights=random_weights, trust=trust)
        read: dict[str, Any] = {"thumbnail": thumbnail, "skip_damaged": skip_damaged, "skip": skip}
        changed = change(loaded, shards, index, trust=trust, **read)
        _print(index, words.format(changed=changed), changed, skip)
        return 0

    return int(tyro.cli(command, args=argv, prog=f"vlp index {name}"))


def add_main(argv: list[str]) -> int:
    """`vlp index add INDEX SHARDS`."""
    return _grow_command(argv, "add", add, "{changed.added:,} added")


def update_main(argv: list[str]) -> int:
    """`vlp index update INDEX SHARDS`."""
    return _grow_command(argv, "update", update, "{changed.removed:,} replaced by {changed.added:,}")


def remove_main(argv: list[str]) -> int:
    """`vlp index remove INDEX KEY...`."""

    def command(
        index: Annotated[Positional[Path], arg(metavar="INDEX")],
        key: Annotated[Positional[tuple[str, ...]], arg(metavar="KEY")] = (),
        *,
        keys: Path | None = None,
        trust: bool = False,
    ) -> int:
        """Write a new version of an index without some pictures; they stay out in all later versions.

        Args:
            index: folder that `vlp index build` wrote.
            key: keys of pictures, as `vlp search` shows them.
            keys: a file with a key on each line.
            trust: run code that the index names and that is no part of vlp.
        """
        if keys is not None and not keys.is_file():
            raise UserError(f"--keys is {keys}, but there is no such file; give one with a key on each line")
        wanted = [*key, *(keys.read_text(encoding="utf-8").splitlines() if keys else [])]
        if not wanted:
            raise UserError("give keys of pictures to remove, or --keys FILE with one on each line")
        changed = remove(wanted, index, trust=trust)
        _print(index, f"{changed.removed:,} removed", changed, Ledger())
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp index remove"))


def compact_main(argv: list[str]) -> int:
    """`vlp index compact INDEX`."""

    def command(index: Annotated[Positional[Path], arg(metavar="INDEX")], *, trust: bool = False) -> int:
        """Train an index anew on what it holds now, and write it without what was removed.

        Args:
            index: folder that `vlp index build` wrote.
            trust: run code that the index names and that is no part of vlp.
        """
        changed = compact(index, trust=trust)
        _print(index, f"{changed.removed:,} removed rows are gone, and it was trained anew", changed, Ledger())
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp index compact"))
