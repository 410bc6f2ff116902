"""A folder that fills with shards: whatever ends the work, the same command goes on behind the last finished tar.

building.json beside the tars is the journal: it is written anew after each tar, and goes when the manifest is there.
"""

from __future__ import annotations

import errno
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_pipelines import manifest
from data_pipelines.manifest import Manifest, Shard
from data_pipelines.tar_writer import Packed, TarWriter
from vlp.errors import UserError

JOURNAL = "building.json"
MOST_EXAMPLES = 20  # inputs named for each reason
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Cut(Protocol):
    """Where a shard ends."""

    @property
    def shard_size(self) -> int:
        """Samples in a shard."""
        ...

    @property
    def shard_bytes(self) -> int:
        """A shard is closed when it has this many bytes."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What becomes of one input: it is written, or counted under a reason."""

    where: str  # names the input to a person
    packed: Packed | None  # None: it is not written
    reason: str = ""  # why not


@dataclass
class Progress:
    """What is finished, so that the same command can go on behind it."""

    recipe: str
    taken: int = 0  # items of the source that were dealt with
    shards: list[Shard] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    renamed: int = 0  # samples that another sample of their shard shares its key with

    def text(self) -> str:
        """The progress as JSON."""
        return json.dumps({**vars(self), "shards": [asdict(s) for s in self.shards]}, ensure_ascii=False)

    def advance(self, to: Progress) -> None:
        """Take over what is counted in `to`."""
        self.counts, self.taken, self.renamed = Counter(to.counts), to.taken, to.renamed

    def drop(self, reason: str, where: str) -> None:
        """Count an input that is left out, and name it if few were."""
        self.counts[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < MOST_EXAMPLES:
            named.append(where)


def fill(
    folder: Path,
    outcomes: Callable[[int], Iterable[Outcome]],
    *,
    recipe: Mapping[str, Any],
    name: str,
    about: Callable[[], Mapping[str, Any]],
    cut: Cut,
    rename: Callable[[Packed, int], Packed] | None = None,
) -> Manifest:
    """The manifest of `folder`, filled with the shards of `outcomes(n)`, the outcomes behind the first n inputs.

    A key that a shard has already makes its sample a loss; with `rename`, the sample under another key (the n-th try).
    A finished folder of the same `recipe` is left as it is; the finished shards of an interrupted one are kept.
    Raises UserError if the folder holds something else, if nothing is left to write, and if the disk is full.
    """
    told = json.dumps(recipe, sort_keys=True, default=str)
    progress = _resume(folder, told)
    if progress is None:
        return manifest.read(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest.write_whole(folder / JOURNAL, progress.text().encode())
        _write_shards(outcomes(progress.taken), folder, progress, cut, rename)
        if not progress.shards:
            raise UserError(_nothing_left(folder, progress))
        renamed = {"renamed_keys": progress.renamed} if progress.renamed else {}
        tree = {**about(), **renamed, "recipe": json.loads(told)}
        done = Manifest(name, tuple(progress.shards), dict(progress.counts), progress.examples, tree)
        done.write(folder)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        kept = sum(shard.samples for shard in progress.shards)
        raise UserError(
            f'the disk is full: "{folder}" holds {len(progress.shards)} finished shards with {kept} samples, which are '
            "kept; free some space and run the same command to go on"
        ) from None
    (folder / JOURNAL).unlink(missing_ok=True)
    return done


def _nothing_left(folder: Path, progress: Progress) -> str:
    reasons = ", ".join(f"{reason}: {count}" for reason, count in progress.counts.most_common())
    return f'nothing was left to write into "{folder}" ({reasons or "the source is empty"})'


def _resume(folder: Path, recipe: str) -> Progress | None:
    """Where to go on; None if the folder is finished. Raises UserError if it holds the shards of another recipe."""
    journal = folder / JOURNAL
    if (folder / manifest.FILE).exists():
        if json.dumps(manifest.read(folder).about.get("recipe"), sort_keys=True) == recipe:
            journal.unlink(missing_ok=True)
            return None
        raise UserError(f'"{folder}" already holds other shards; choose another folder or remove this one')
    if not journal.exists():
        if folder.is_dir() and any(folder.glob("*.tar")):
            raise UserError(f'"{folder}" already holds .tar files without a manifest; choose another folder')
        return Progress(recipe)
    tree = json.loads(journal.read_text(encoding="utf-8"))
    if tree["recipe"] != recipe:
        if not tree["shards"] and not any(folder.glob("*.tar")):
            return Progress(recipe)  # nothing was finished, so nothing is lost
        raise UserError(
            f'"{folder}" holds the beginning of another build; run that command again, or remove the folder'
        )
    kept = [Shard(**row) for row in tree["shards"]]
    for shard in kept:
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise UserError(f"{path} was changed since this build was interrupted; remove the folder and start anew")
    return Progress(recipe, tree["taken"], kept, Counter(tree["counts"]), tree["examples"], tree["renamed"])


def _write_shards(
    outcomes: Iterable[Outcome],
    folder: Path,
    progress: Progress,
    cut: Cut,
    rename: Callable[[Packed, int], Packed] | None,
) -> None:
    """Write what is left; `progress` and the journal are brought up to date at the end of each shard."""
    writer: TarWriter | None = None
    pending = Progress(progress.recipe, counts=Counter(progress.counts), examples=progress.examples)
    pending.taken, pending.renamed = progress.taken, progress.renamed
    try:
        for outcome in outcomes:
            pending.taken += 1
            packed = outcome.packed
            if packed is None:
                pending.drop(outcome.reason, outcome.where)
                continue
            writer = writer or TarWriter(folder / f"{len(progress.shards):05d}.tar")
            if packed.key in writer and rename is not None:
                packed = next(other for n in itertools.count(2) if (other := rename(packed, n)).key not in writer)
                pending.renamed += 1
            if packed.key in writer:
                pending.drop("duplicate key", outcome.where)
                continue
            writer.add(packed)
            if writer.samples >= cut.shard_size or writer.bytes >= cut.shard_bytes:
                _finish(writer, folder, progress, pending)
                writer = None
        if writer is not None:
            _finish(writer, folder, progress, pending)
        progress.advance(pending)
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise


def _finish(writer: TarWriter, folder: Path, progress: Progress, pending: Progress) -> None:
    """Name the tar, then note it: a crash in between costs one shard, which is written again under the same name."""
    progress.shards.append(writer.close())
    progress.advance(pending)
    manifest.write_whole(folder / JOURNAL, progress.text().encode())
    if sys.stderr.isatty():
        print(f"\r{folder}: {len(progress.shards)} shards", end="", file=sys.stderr, flush=True)
