"""`vlp shards build`: any Source -> filters, every drop counted -> tars under temporary names -> manifest, last."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, make_dataclass, replace
from glob import has_magic
from itertools import islice
from pathlib import Path
from typing import Any, cast

from data_pipelines.commands.merge import Piece
from data_pipelines.filters import Filters, kinds
from data_pipelines.sample import Sample
from data_pipelines.shards.manifest import Manifest
from data_pipelines.shards.shard_set import PACKED_TARS, is_remote
from data_pipelines.sources import Source, Unusable
from data_pipelines.sources.datasets import SAVED
from data_pipelines.writing.resumable_folder import Outcome, fill
from data_pipelines.writing.tar_writer import Packed
from vlp.config import component, component_name, to_tree
from vlp.config.bounds import Count, Whole, check
from vlp.config.components import component_names
from vlp.errors import UserError
from vlp.legible import plain


@dataclass(frozen=True)
class Shards:
    """How samples are cut into tars."""

    shard_size: Count = 1000
    """samples in a shard"""
    shard_bytes: Count = 512 * 2**20
    """a shard is closed when it has this many bytes, whatever its number of samples"""
    threads: Whole = 0
    """threads that decode pictures to see whether they can be; 0: one for each core"""
    part: str = ""
    """i/n: only the i-th of n equal parts, in a folder of its own, for `vlp shards merge`; empty: everything"""
    name: str = ""
    """name of the set in its manifest; empty: the folder's"""


def build(source: Source, out: Path, *, filters: Filters | None = None, shards: Shards | None = None) -> list[Manifest]:
    """The manifests of the shards of `source`: in `out`, or in a folder of `out` for each part of the source.

    Finished parts and shards of an interrupted build are kept. Raises UserError if something else is in `out`, and if
    the disk is full.
    """
    shards, filters = shards or Shards(), filters or Filters()
    fields = {key: value for key, value in to_tree(source).items() if key not in source.incidental}
    what = {"source": {"name": component_name(source, Source), **fields}, "filters": filters.recorded}
    sizes: dict[str, Any] = {"shard_size": shards.shard_size, "shard_bytes": shards.shard_bytes}
    piece = Piece.parse(shards.part) if shards.part else None
    if piece and filters.looks_for_repeats:
        raise UserError("--part looks at one part of the source only, and duplicates lie in others too; leave one out")
    if piece:
        sizes["part"] = shards.part
    return [
        _build_part(source, part, out / part, recipe=what | sizes, filters=filters, cut=shards, piece=piece)
        for part in source.parts()
    ]


def _build_part(
    source: Source,
    part: str,
    folder: Path,
    *,
    recipe: dict[str, Any],
    filters: Filters,
    cut: Shards,
    piece: Piece | None,
) -> Manifest:
    first, every = (piece.number - 1, piece.of) if piece else (0, 1)

    def outcomes(taken: int) -> Iterator[Outcome]:
        return _outcomes(islice(source.items(part), first + taken * every, None, every), filters, cut.threads)

    return fill(
        folder / piece.folder if piece else folder,
        outcomes,
        recipe=recipe,
        name=cut.name or "/".join(filter(None, (folder.parent.name, folder.name) if part else (folder.name,))),
        about=lambda: source.about(part),
        cut=cut,
        repeats=filters.looks_for_repeats,
        rename=_numbered if source.keys_repeat else None,
        given=source.inputs(part),
    )


def _numbered(packed: Packed, n: int) -> Packed:
    """The sample under another key: `a_2` for the second of its shard whose key is `a`."""
    return replace(cast(Sample, packed), key=f"{packed.key}_{n}")


def _outcomes(items: Iterator[Sample | Unusable], filters: Filters, threads: int) -> Iterator[Outcome]:
    """What becomes of each item, in order; a few are decoded ahead, so memory stays bounded."""
    count = threads or os.cpu_count() or 1

    def outcome(item: Sample | Unusable) -> Outcome:
        if isinstance(item, Unusable):
            return Outcome(item.where, None, item.reason)
        if not item.sayable:
            return Outcome(item.key, None, "undecodable caption")
        fate, traits = filters.judge(item)
        return Outcome(item.key, None, fate) if isinstance(fate, str) else Outcome(item.key, fate, traits=traits)

    with ThreadPoolExecutor(count) as pool:
        ahead: deque[Future[Outcome]] = deque()
        for item in items:
            ahead.append(pool.submit(outcome, item))
            if len(ahead) > 4 * count:
                yield ahead.popleft().result()
        for future in ahead:
            yield future.result()


USAGE = """usage: vlp shards build SOURCE OUT [flags]

SOURCE is a kind of input (%s) or a path whose
kind can be seen: a folder of pictures, a .parquet file, a COCO captions .json, a folder of img2dataset's tars, a folder
that `datasets` saved.

  vlp shards build ~/pictures shards/mine                          pictures with a .txt of the same name beside each
  vlp shards build table.parquet shards/mine --image image --captions en caption zh caption_zh
  vlp shards build datasets shards/mine --path NAME --split train  a dataset by its name at the hub
  vlp shards build folder ~/pictures shards/mine                   the kind of the source said
  vlp shards build ~/laion shards/mine --min-side 200 --scripts latin --drop-duplicate-pictures

The same command goes on where an interrupted one was. `vlp shards build SOURCE --help` lists the flags of a source and
the filters; manifest.json in OUT counts everything that was left out, by reason."""


def main(argv: list[str]) -> int:
    """`vlp shards build`: 0 when every shard and manifest is written. Raises UserError."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE % ", ".join(component_names(Source)))
        return 0
    import tyro

    name, rest = _kind_of(argv[0]), argv[1:]
    if name != argv[0]:
        rest = ["--path", argv[0], *rest]
    elif len(rest) > 1 and not rest[0].startswith("-") and not rest[1].startswith("-"):  # KIND PATH OUT
        rest = ["--path", *rest]
    cls = component(Source, name)
    flat = tyro.conf.OmitArgPrefixes
    fields: list[Any] = [
        ("out", tyro.conf.Positional[Path]),
        ("source", flat[cls]),  # type: ignore[valid-type]
        ("shards", flat[Shards], field(default_factory=Shards)),
        *((f"filter_{name}", flat[kind], field(default_factory=kind)) for name, kind in kinds().items()),  # type: ignore[valid-type]
    ]
    job: Any = make_dataclass("Job", fields)
    args = tyro.cli(job, args=rest, prog=f"vlp shards build {argv[0]}", description=cls.__doc__)
    filters = Filters(tuple(getattr(args, f"filter_{name}") for name in kinds()))
    for part in (args.source, args.shards, *filters.every):
        check(part)
    for done in build(args.source, args.out, filters=filters, shards=args.shards):
        size = sum(shard.bytes for shard in done.shards) / 1e6
        print(f"{done.name}: {done.samples} samples in {len(done.shards)} shards, {size:.1f} MB")
        if renamed := done.about.get("renamed_keys"):
            print(f"  {renamed:,} keys got a number, because their shard had the key already")
        for reason, count in sorted(done.counts.items()):
            named = ", ".join(plain(where) for where in done.examples.get(reason, [])[:3])
            print(f"  left out, {reason}: {count} ({named}{', ...' if count > 3 else ''})")
    return 0


def _kind_of(word: str) -> str:
    """The name of the source that `word` names or that reads the path `word`."""
    path = Path(word).expanduser()
    if word in component_names(Source):
        return word
    if not path.exists():
        if is_remote(word) or (word.endswith(".tar") and has_magic(word.replace("{", "["))):
            return "img2dataset"
        if path.suffix or len(path.parts) > 1 or word.startswith("~"):
            raise UserError(f'there is nothing at "{word}"; expected a folder, .parquet, .json or .tar')
        return word
    if any((path / name).is_file() for name in SAVED):
        return "datasets"
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")) and not any(path.glob("*.tar"))):
        return "parquet"
    if path.suffix == ".json":
        return "coco_captions"
    tars = (".tar", *PACKED_TARS)
    if path.name.endswith(tars) or (path.is_dir() and any(any(path.glob(f"*{ending}")) for ending in tars)):
        return "img2dataset"
    if path.is_dir():
        return "folder"
    raise UserError(
        f'"{word}" is no folder, .parquet, .json or .tar; name the kind of source: {", ".join(component_names(Source))}'
    )
