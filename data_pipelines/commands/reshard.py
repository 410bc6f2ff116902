"""`vlp shards reshard`: the same samples, file for file and byte for byte, in tars of another size or another order.

Or only those of them that a filter keeps.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sqlite3
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tyro.conf import Positional

from data_pipelines.commands.permutation import Shuffled
from data_pipelines.remote.fetch import Blocks, LocalFile
from data_pipelines.remote.patience import Unreadable
from data_pipelines.shards import decision as decisions
from data_pipelines.shards.decision import Decision
from data_pipelines.shards.losses import Facts, estimated
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.open_shards import OpenShards
from data_pipelines.shards.shard_set import ShardSet, is_remote
from data_pipelines.shards.tar_index import sample_files
from data_pipelines.writing.resumable_folder import SCRATCH, Outcome, fill
from data_pipelines.writing.tar_writer import Packed
from vlp.config.bounds import Count, check
from vlp.files import sha256
from vlp.legible import plain

AHEAD = 512  # samples read in the order in which they lie, before they are written in another: what fits into memory
MOST_OPEN = 128
TABLE = "samples.sqlite"  # where each sample lies


@dataclass(frozen=True)
class Reshard:
    """Write the samples of a shard set into new tars: every file byte for byte, another number in each, any order."""

    spec: Positional[str]
    """shards: a folder, glob, brace range or URL of tars, or bundled:emoji/train"""
    out: Positional[Path]
    """the folder to write; it must be new, or have the beginning of the same command"""
    shard_size: Count = 1000
    """samples in a shard"""
    shard_bytes: Count = 512 * 2**20
    """a shard is closed when it has this many bytes, whatever its number of samples"""
    shuffle: int | None = None
    """a seed: all samples are shuffled over all shards, exactly, in bounded memory; none: the order stays"""
    name: str = ""
    """name of the set in its manifest; empty: the old one's, else the folder's"""
    keep: Path | None = None
    """a folder that `vlp shards filter` wrote: only the samples that stay are written, others counted by reason"""


@dataclass(frozen=True)
class Files:
    """The files of one sample, as they lie in a tar."""

    key: str
    files: tuple[tuple[str, bytes], ...]  # (ending with its dot, bytes)

    def members(self) -> tuple[tuple[str, bytes], ...]:
        """(name, bytes) of each, in the old order."""
        return tuple((self.key + ending, data) for ending, data in self.files)


@dataclass(frozen=True)
class _Place:
    """Where the files of one sample lie."""

    row: int  # of the tar
    key: str
    files: tuple[tuple[str, int, int], ...]  # ending, offset, size
    left_out: str = ""  # why it does not stay


class _Old:
    """The shards that are read, and what of them cannot be."""

    def __init__(self, spec: str, decision: Decision | None = None) -> None:
        self.shards, self.decision = ShardSet.open(spec), decision
        self.opened = OpenShards(self.shards)
        self.losses: list[Outcome] = []
        counts, digest, facts = [], hashlib.sha256(), dict[int, Facts]()
        for row, url in enumerate(self.shards.urls):
            try:
                facts[row] = self.opened.facts(row)
            except Unreadable as error:
                unread = Outcome(f"{url}: {error}", None, "unreadable shard")
                self.losses += [unread] * max(1, self.shards.counts[row])
                counts.append(0)
                continue
            samples = facts[row].samples
            counts.append(samples)
            digest.update(f"{url} {facts[row].tar_bytes} {samples} {self.shards.sha256[row]}\n".encode())
        for row, losses in zip(facts, estimated(list(facts.values())), strict=True):
            for reason, lost in sorted(losses.items()):
                self.losses += [Outcome(self.shards.urls[row], None, reason)] * lost
        self.starts = [0, *itertools.accumulate(counts)]
        if decision is not None:
            decision.check(counts)
        self.digest = digest.hexdigest()
        self._open: OrderedDict[int, LocalFile | Blocks] = OrderedDict()

    @property
    def samples(self) -> int:
        return self.starts[-1]

    def places(self, row: int) -> list[_Place]:
        """Where the samples of one tar lie. Raises Unreadable."""
        if self.starts[row] == self.starts[row + 1]:
            return []
        shard = self.opened[row]
        files = sample_files(shard.source, shard.index, block=1 << 20 if is_remote(shard.url) else 4096)
        keys = shard.index.keys
        reasons = self.decision.reasons(row, keys) if self.decision else [""] * len(keys)
        return [_Place(row, key, tuple(spans), why) for key, spans, why in zip(keys, files, reasons, strict=True)]

    def read(self, place: _Place) -> Outcome:
        """The files at `place`, or why they cannot be had or are not wanted."""
        url = self.shards.urls[place.row]
        if place.left_out:
            return Outcome(f"{url}: {place.key}", None, place.left_out)
        try:
            source = self._source(place.row)
            files = tuple((ending, source.read(start, size)) for ending, start, size in place.files)
        except Unreadable as error:
            return Outcome(f"{url}: {place.key}: {error}", None, "unreadable shard")
        if any(len(data) < size for (_, data), (_, _, size) in zip(files, place.files, strict=True)):
            return Outcome(f"{url}: {place.key}", None, "truncated tail")
        return Outcome(f"{url}: {place.key}", Files(place.key, files))

    def _source(self, row: int) -> LocalFile | Blocks:
        if row not in self._open:
            url = self.shards.urls[row]  # a shuffle opens shards again and again: a local one needs no index for that
            self._open[row] = self.opened[row].source if is_remote(url) else LocalFile(url)
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(row)
        return self._open[row]


def reshard(job: Reshard) -> Manifest:
    """The manifest of the new shards. An interrupted run is taken up after its last finished tar.

    Raises UserError if there are no shards or no samples, if something else is in `job.out`, if the old shards changed
    since the run was interrupted, and if the disk is full.
    """
    check(job)
    decision = Decision.open(job.keep) if job.keep else None
    old = _Old(job.spec, decision)
    before = old.shards.manifests
    old_set = {"of": job.spec, "digest": old.digest, "shuffle": job.shuffle}
    if decision is not None:
        old_set["keep"] = sha256(decision.folder / decisions.FILE)
    recipe = {"reshard": old_set, "shard_size": job.shard_size, "shard_bytes": job.shard_bytes}
    names = {one.name for one in before}
    return fill(
        job.out,
        lambda taken: _outcomes(old, job, taken),
        recipe=recipe,
        name=job.name or (names.pop() if len(names) == 1 else job.out.name),
        about=lambda: _about(before, decision),
        cut=job,
        rename=lambda packed, n: replace(cast(Files, packed), key=_numbered(packed, n)),
    )


def _numbered(packed: Packed, n: int) -> str:
    """`a`, then `a_2`, `a_3`; a key that was numbered is not numbered again."""
    return f"{packed.key}_{n}"


def _outcomes(old: _Old, job: Reshard, taken: int) -> Iterator[Outcome]:
    """What becomes of each input after the first `taken`: losses come first, then samples in the new order."""
    yield from old.losses[taken:]
    first = max(0, taken - len(old.losses))
    places = (
        _in_order(old, first) if job.shuffle is None else _shuffled(old, job.out / SCRATCH / TABLE, job.shuffle, first)
    )
    for place in places:
        yield place if isinstance(place, Outcome) else old.read(place)


def _in_order(old: _Old, first: int) -> Iterator[_Place | Outcome]:
    for row in range(bisect_right(old.starts, first) - 1, len(old.shards)):
        skip = max(0, first - old.starts[row])
        try:
            yield from old.places(row)[skip:]
        except Unreadable as error:
            lost = Outcome(f"{old.shards.urls[row]}: {error}", None, "unreadable shard")
            yield from [lost] * (old.starts[row + 1] - old.starts[row] - skip)


def _shuffled(old: _Old, path: Path, seed: int, first: int) -> Iterator[Outcome]:
    """Samples in shuffled order; AHEAD of them are read at a time, in the order in which they lie."""
    table = _table(old, path)
    order = Shuffled(old.samples, seed)
    for start in range(first, old.samples, AHEAD):
        wanted = [order.at(place) for place in range(start, min(start + AHEAD, old.samples))]
        read: dict[int, Outcome] = {}
        for number in sorted(wanted):
            row = bisect_right(old.starts, number) - 1
            place = table.execute("SELECT key, files, left_out FROM places WHERE number = ?", (number,)).fetchone()
            if place is None:
                read[number] = Outcome(old.shards.urls[row], None, "unreadable shard")
            else:
                read[number] = old.read(_Place(row, place[0], tuple(map(tuple, json.loads(place[1]))), place[2]))
        yield from (read[number] for number in wanted)
    table.close()


def _table(old: _Old, path: Path) -> sqlite3.Connection:
    """The table on disk of where every sample lies; made once, also for a run that was interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = sqlite3.connect(path)
    if table.execute("PRAGMA user_version").fetchone()[0] == 2:
        return table
    table.close()
    path.unlink()
    table = sqlite3.connect(path)
    with table:
        table.execute("CREATE TABLE places (number INTEGER PRIMARY KEY, key TEXT, files TEXT, left_out TEXT)")
        for row in range(len(old.shards)):
            try:
                places = old.places(row)
            except Unreadable:
                continue  # its samples are missing from the table, and counted when their turn comes
            rows = ((old.starts[row] + n, p.key, json.dumps(p.files), p.left_out) for n, p in enumerate(places))
            table.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", rows)
        table.execute("PRAGMA user_version = 2")
    return table


def _about(before: Sequence[Manifest], decision: Decision | None) -> dict[str, Any]:
    """What the old manifests say of the data, and what was left out when the old shards were made."""
    resharded = [
        {
            "name": one.name,
            "samples": one.samples,
            "shards": len(one.shards),
            "counts": one.counts,
            "examples": one.examples,
            "about": one.about,
        }
        for one in before
    ]
    about = {key: value for key, value in before[0].about.items() if key != "recipe"} if len(before) == 1 else {}
    filtered = {"filtered": decision.about} if decision else {}
    return {**about, **filtered, **({"resharded": resharded} if resharded else {})}


def main(argv: list[str]) -> int:
    """`vlp shards reshard SPEC OUT`: 0 when every shard and the manifest is written. Raises UserError."""
    import tyro

    done = reshard(tyro.cli(Reshard, args=argv, prog="vlp shards reshard"))
    size = sum(shard.bytes for shard in done.shards) / 1e6
    print(f"{done.name}: {done.samples:,} samples in {len(done.shards):,} shards, {size:,.1f} MB")
    if renamed := done.about.get("renamed_keys"):
        print(f"  {renamed:,} keys got a number, because their shard had the key already")
    for reason, count in sorted(done.counts.items()):
        named = ", ".join(plain(where) for where in done.examples.get(reason, [])[:3])
        print(f"  left out, {reason}: {count:,} ({named})")
    return 0
