"""`vlp shards build`: any Source -> filters, every drop counted -> tars under temporary names -> manifest, last."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, make_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from data_pipelines import manifest
from data_pipelines.filters import Filters
from data_pipelines.manifest import Manifest, Shard
from data_pipelines.sample import Sample
from data_pipelines.sources import Source, Unreadable
from data_pipelines.tar_writer import TarWriter
from vlp.config import component, component_name, to_tree
from vlp.errors import UserError

JOURNAL = "building.json"
MOST_EXAMPLES = 20  # inputs named for each reason
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Shards:
    """How samples are cut into tars."""

    shard_size: int = 1000
    """samples in a shard"""
    shard_bytes: int = 512 * 2**20
    """a shard is closed when it has this many bytes, whatever its number of samples"""
    threads: int = 0
    """threads that decode pictures to see whether they can be; 0: one for each core"""
    name: str = ""
    """name of the set in its manifest; empty: the folder's"""


@dataclass
class _Progress:
    """What is finished, so that the same command can go on behind it."""

    recipe: str
    taken: int = 0  # items of the source that were dealt with
    shards: list[Shard] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def text(self) -> str:
        """The progress as JSON."""
        return json.dumps({**vars(self), "shards": [asdict(s) for s in self.shards]}, ensure_ascii=False)

    def drop(self, reason: str, where: str) -> None:
        self.counts[reason] += 1
        named = self.examples.setdefault(reason, [])
        if len(named) < MOST_EXAMPLES:
            named.append(where)


def build(source: Source, out: Path, *, filters: Filters | None = None, shards: Shards | None = None) -> list[Manifest]:
    """The manifests of the shards of `source`: in `out`, or in a folder of `out` for each part of the source.

    Finished parts and shards of an interrupted build are kept. Raises UserError if `out` holds something else, and if
    the disk is full.
    """
    shards, filters = shards or Shards(), filters or Filters()
    fields = {key: value for key, value in to_tree(source).items() if key not in source.incidental}
    what = {"source": {"name": component_name(source, Source), **fields}, "filters": asdict(filters)}
    sizes = {"shard_size": shards.shard_size, "shard_bytes": shards.shard_bytes}
    recipe = json.dumps(what | sizes, sort_keys=True, default=str)
    return [
        _build_part(source, part, out / part, recipe=recipe, filters=filters, cut=shards) for part in source.parts()
    ]


def _build_part(source: Source, part: str, folder: Path, *, recipe: str, filters: Filters, cut: Shards) -> Manifest:
    progress = _resume(folder, recipe)
    if progress is None:
        return manifest.read(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_shards(source.items(part), folder, progress, filters, cut)
        if not progress.shards:
            raise UserError(_nothing_left(folder, progress))
        name = cut.name or "/".join(filter(None, (folder.parent.name, folder.name) if part else (folder.name,)))
        about = {**source.about(part), "recipe": json.loads(recipe)}
        done = Manifest(name, tuple(progress.shards), dict(progress.counts), progress.examples, about)
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


def _nothing_left(folder: Path, progress: _Progress) -> str:
    reasons = ", ".join(f"{reason}: {count}" for reason, count in progress.counts.most_common())
    return f'nothing was left to write into "{folder}" ({reasons or "the source is empty"})'


def _resume(folder: Path, recipe: str) -> _Progress | None:
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
        return _Progress(recipe)
    tree = json.loads(journal.read_text(encoding="utf-8"))
    if tree["recipe"] != recipe:
        raise UserError(
            f'"{folder}" holds the beginning of another build; run that command again, or remove the folder'
        )
    kept = [Shard(**row) for row in tree["shards"]]
    for shard in kept:
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise UserError(f"{path} was changed since this build was interrupted; remove the folder and start anew")
    return _Progress(recipe, tree["taken"], kept, Counter(tree["counts"]), tree["examples"])


def _write_shards(
    items: Iterable[Sample | Unreadable], folder: Path, progress: _Progress, filters: Filters, shards: Shards
) -> None:
    """Write what is left of `items`; `progress` and the journal are brought up to date at the end of each shard."""
    writer: TarWriter | None = None
    pending = _Progress(progress.recipe, counts=Counter(progress.counts), examples=progress.examples)
    pending.taken = progress.taken
    try:
        for item, fate in _judged(islice(iter(items), progress.taken, None), filters, shards.threads):
            pending.taken += 1
            where = item.where if isinstance(item, Unreadable) else item.key
            if isinstance(fate, str):
                pending.drop(fate, where)
                continue
            writer = writer or TarWriter(folder / f"{len(progress.shards):05d}.tar")
            if fate.key in writer:
                pending.drop("duplicate key", where)
                continue
            writer.add(fate)
            if writer.samples >= shards.shard_size or writer.bytes >= shards.shard_bytes:
                _finish(writer, folder, progress, pending)
                writer = None
        if writer is not None:
            _finish(writer, folder, progress, pending)
        progress.counts, progress.taken = Counter(pending.counts), pending.taken
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise


def _finish(writer: TarWriter, folder: Path, progress: _Progress, pending: _Progress) -> None:
    """Name the tar, then note it: a crash in between costs one shard, which is written again under the same name."""
    progress.shards.append(writer.close())
    progress.counts, progress.taken = Counter(pending.counts), pending.taken
    manifest.write_whole(folder / JOURNAL, progress.text().encode())
    if sys.stderr.isatty():
        print(f"\r{folder}: {len(progress.shards)} shards", end="", file=sys.stderr, flush=True)


def _judged(
    items: Iterator[Sample | Unreadable], filters: Filters, threads: int
) -> Iterator[tuple[Sample | Unreadable, Sample | str]]:
    """Each item with what becomes of it, in order; a few are decoded ahead, so memory stays bounded."""
    count = threads or os.cpu_count() or 1

    def fate(item: Sample | Unreadable) -> Sample | str:
        return item.reason if isinstance(item, Unreadable) else filters.apply(item)

    with ThreadPoolExecutor(count) as pool:
        ahead: deque[tuple[Sample | Unreadable, Future[Sample | str]]] = deque()
        for item in items:
            ahead.append((item, pool.submit(fate, item)))
            if len(ahead) > 4 * count:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()


USAGE = """usage: vlp shards build SOURCE OUT [flags]

SOURCE is a kind of input (%s) or a path whose kind can be told: a folder of pictures, a .parquet file,
a COCO captions .json, a folder of img2dataset's tars. `vlp shards build SOURCE --help` lists its flags."""


def main(argv: list[str]) -> int:
    """`vlp shards build`: 0 when every shard and manifest is written. Raises UserError."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE % ", ".join(_kinds()))
        return 0
    import tyro

    name, rest = _kind_of(argv[0]), argv[1:]
    if name != argv[0]:
        rest = ["--path", argv[0], *rest]
    cls = component(Source, name)
    flat = tyro.conf.OmitArgPrefixes
    fields: list[Any] = [
        ("out", tyro.conf.Positional[Path]),
        ("source", flat[cls]),  # type: ignore[valid-type]
        ("filters", flat[Filters], field(default_factory=Filters)),
        ("shards", flat[Shards], field(default_factory=Shards)),
    ]
    job: Any = make_dataclass("Job", fields)
    args = tyro.cli(job, args=rest, prog=f"vlp shards build {argv[0]}", description=cls.__doc__)
    for done in build(args.source, args.out, filters=args.filters, shards=args.shards):
        size = sum(shard.bytes for shard in done.shards) / 1e6
        print(f"{done.name}: {done.samples} samples in {len(done.shards)} shards, {size:.1f} MB")
        for reason, count in sorted(done.counts.items()):
            named = ", ".join(done.examples.get(reason, [])[:3])
            print(f"  left out, {reason}: {count} ({named}{', ...' if count > 3 else ''})")
    return 0


def _kinds() -> list[str]:
    return sorted(path.stem for path in (Path(__file__).parent / "sources").glob("[a-z]*.py"))


def _kind_of(word: str) -> str:
    """The name of the source that `word` names or that reads the path `word`."""
    path = Path(word).expanduser()
    if word in _kinds() or not path.exists():
        return word
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")) and not any(path.glob("*.tar"))):
        return "parquet"
    if path.suffix == ".json":
        return "coco_captions"
    if path.suffix == ".tar" or (path.is_dir() and any(path.glob("*.tar"))):
        return "img2dataset"
    if path.is_dir():
        return "folder"
    raise UserError(f'"{word}" is no folder, .parquet, .json or .tar; name the kind of source: {", ".join(_kinds())}')
