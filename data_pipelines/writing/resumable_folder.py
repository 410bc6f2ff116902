"""A folder that fills with shards: whatever ends the work, the same command goes on after the last finished tar.

building.json beside the tars is the journal: it is written anew after each tar, and goes when the manifest is there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_pipelines.shards import manifest
from data_pipelines.shards.manifest import Manifest, ShardRecord
from data_pipelines.writing.repeats import Repeats, Traits
from data_pipelines.writing.tar_writer import Packed, TarWriter
from vlp.errors import UserError
from vlp.files import full_disk, write_whole
from vlp.lock import LOCK, locked

JOURNAL = "building.json"
SCRATCH = ".scratch"  # folder of what is needed until the manifest is there
MOST_EXAMPLES = 20  # inputs named for each reason


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
    traits: Traits = field(default_factory=Traits)  # by what a repetition is recognised


@dataclass
class BuildProgress:
    """What is finished, so that the same command can go on after it."""

    recipe: str
    given: str = ""  # the inputs, in words; empty: unknown
    taken: int = 0  # items of the source that were dealt with
    shards: list[ShardRecord] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    renamed: int = 0  # samples that another sample of their shard shares its key with

    def text(self) -> str:
        """The progress as JSON."""
        return json.dumps({**vars(self), "shards": [asdict(s) for s in self.shards]}, ensure_ascii=False)

    def advance(self, to: BuildProgress) -> None:
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
    repeats: bool = False,
    given: str = "",
) -> Manifest:
    """The manifest of `folder`, filled with the shards of `outcomes(n)`, the outcomes after the first n inputs.

    A key that a shard has already makes its sample a loss; with `rename`, the sample under another key (the n-th try).
    With `repeats`, an outcome whose traits are those of one that was written is left out, too.
    A finished folder of the same `recipe` is left as it is; the finished shards of an interrupted one are kept.
    `given` describes the inputs in words ("12 files, ..."; empty: unknown), so that other ones are noticed.
    Raises UserError if something else is in the folder, if it is being written, if nothing is left to write, if the
    inputs changed since it was begun, and if the disk is full; of a folder without a finished shard nothing is left.
    """
    record = json.dumps(recipe, sort_keys=True, default=str)
    left = any((folder / name).exists() for name in (LOCK, JOURNAL, SCRATCH))  # by a program that was killed, or runs
    if _resume(folder, record, given) is None and not left:
        return manifest.read(folder)
    new = list(itertools.takewhile(lambda one: not one.exists(), (folder, *folder.parents)))
    try:
        with locked(folder):
            progress = _resume(folder, record, given)
            if progress is None:
                (folder / JOURNAL).unlink(missing_ok=True)
                shutil.rmtree(folder / SCRATCH, ignore_errors=True)
                return manifest.read(folder)
            job = _Job(folder, progress, cut, rename, repeats)
            return _filled(job, outcomes, name=name, about=lambda: {**about(), "recipe": json.loads(record)})
    except BaseException:
        with contextlib.suppress(OSError):  # one of them has something in it
            for one in new:
                one.rmdir()
        raise


@dataclass(frozen=True)
class _Job:
    """A folder that is locked, and how it is filled."""

    folder: Path
    progress: BuildProgress
    cut: Cut
    rename: Callable[[Packed, int], Packed] | None
    repeats: bool


def _filled(
    job: _Job,
    outcomes: Callable[[int], Iterable[Outcome]],
    *,
    name: str,
    about: Callable[[], Mapping[str, Any]],
) -> Manifest:
    folder, progress = job.folder, job.progress
    seen: Repeats | None = None
    try:
        with full_disk(folder, lambda: _kept(progress)):
            write_whole(folder / JOURNAL, progress.text())
            seen = Repeats(folder / SCRATCH, taken=progress.taken) if job.repeats else None
            _Writing(folder, progress, job.cut, job.rename, seen).write(outcomes(progress.taken))
            if not progress.shards:
                raise UserError(_nothing_left(folder, progress))
            renamed = {"renamed_keys": progress.renamed} if progress.renamed else {}
            tree = {**renamed, **({"input": progress.given} if progress.given else {}), **about()}
            done = Manifest(name, tuple(progress.shards), dict(progress.counts), progress.examples, tree)
            done.write(folder)
    except BaseException:
        if not progress.shards:
            (folder / JOURNAL).unlink(missing_ok=True)
        raise
    finally:
        if seen is not None:
            seen.close()
        if not progress.shards:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    (folder / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    return done


def _kept(progress: BuildProgress) -> str:
    samples = sum(shard.samples for shard in progress.shards)
    return f"{len(progress.shards)} finished shards with {samples} samples are kept"


def _nothing_left(folder: Path, progress: BuildProgress) -> str:
    reasons = "; ".join(
        f"{reason}: {count}, such as {progress.examples[reason][0]}" for reason, count in progress.counts.most_common()
    )
    return f'nothing was left to write into "{folder}" ({reasons or "the source is empty"})'


def _resume(folder: Path, recipe: str, given: str) -> BuildProgress | None:
    """Where to go on; None if the folder is finished.

    Raises UserError if the shards of another recipe, or of other inputs, are in it.
    """
    journal = folder / JOURNAL
    if (folder / manifest.FILE).exists():
        about = manifest.read(folder).about
        if json.dumps(about.get("recipe"), sort_keys=True) == recipe:
            _check_input(folder, str(about.get("input", "")), given)
            return None
        raise UserError(f'"{folder}" already holds other shards; choose another folder or remove this one')
    if not journal.exists():
        if folder.is_dir() and any(folder.glob("*.tar")):
            raise UserError(f'"{folder}" already holds .tar files without a manifest; choose another folder')
        return BuildProgress(recipe, given)
    tree = json.loads(journal.read_text(encoding="utf-8"))
    if tree["recipe"] != recipe:
        if not tree["shards"] and not any(folder.glob("*.tar")):
            return BuildProgress(recipe, given)  # nothing was finished, so nothing is lost
        raise UserError(
            f'"{folder}" holds the beginning of another build; run that command again, or remove the folder'
        )
    _check_input(folder, tree.get("given", ""), given)
    kept = [ShardRecord(**row) for row in tree["shards"]]
    for shard in kept:
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise UserError(f"{path} was changed since this build was interrupted; remove the folder and start anew")
    return BuildProgress(recipe, given, tree["taken"], kept, Counter(tree["counts"]), tree["examples"], tree["renamed"])


def _check_input(folder: Path, then: str, now: str) -> None:
    """Raise UserError if the inputs are known, then and now, and differ."""
    if then and now and then != now:
        raise UserError(
            f'the input of "{folder}" changed since it was begun: it was {then} and is {now}; build into another '
            "folder, or remove this one"
        )


@dataclass
class _Writing:
    """Writes outcomes into tars; progress and journal are brought up to date at the end of each."""

    folder: Path
    progress: BuildProgress
    cut: Cut
    rename: Callable[[Packed, int], Packed] | None
    seen: Repeats | None
    writer: TarWriter | None = None

    def write(self, outcomes: Iterable[Outcome]) -> None:
        progress = self.progress
        pending = BuildProgress(progress.recipe, counts=Counter(progress.counts), examples=progress.examples)
        pending.taken, pending.renamed = progress.taken, progress.renamed
        try:
            for outcome in outcomes:
                reason = self._add(outcome, pending)
                pending.taken += 1
                if reason:
                    pending.drop(reason, outcome.where)
                writer = self.writer
                if writer and (writer.samples >= self.cut.shard_size or writer.bytes >= self.cut.shard_bytes):
                    self._finish(writer, pending)
            if self.writer is not None:
                self._finish(self.writer, pending)
            progress.advance(pending)
        except BaseException:
            if self.writer is not None:
                self.writer.abandon()
            raise

    def _add(self, outcome: Outcome, pending: BuildProgress) -> str:
        """Put a sample into the tar; why not, if it is left out."""
        packed = outcome.packed
        if packed is None:
            return outcome.reason
        if self.seen is not None and (reason := self.seen.reason(outcome.traits)):
            return reason
        writer = self.writer = self.writer or TarWriter(self.folder / f"{len(self.progress.shards):05d}.tar")
        if packed.key in writer:
            if self.rename is None:
                return "duplicate key"
            rename = self.rename
            packed = next(other for n in itertools.count(2) if (other := rename(packed, n)).key not in writer)
            pending.renamed += 1
        writer.add(packed)
        if self.seen is not None:
            self.seen.keep(outcome.traits, pending.taken)
        return ""

    def _finish(self, writer: TarWriter, pending: BuildProgress) -> None:
        """Name the tar, then note it: a crash in between costs one shard, which is written again under its name."""
        self.progress.shards.append(writer.close())
        self.writer = None
        if self.seen is not None:
            self.seen.commit()
        self.progress.advance(pending)
        write_whole(self.folder / JOURNAL, self.progress.text())
        if sys.stderr.isatty():
            print(f"\r{self.folder}: {len(self.progress.shards)} shards", end="", file=sys.stderr, flush=True)
