"""Which tars a specification means, with what the manifest beside them says of each."""

from __future__ import annotations

import fnmatch
import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp.errors import UserError

MANIFEST_FORMAT = "vlp-shards-1"
BUNDLED = Path(__file__).parent.parent / "bundled"
UNKNOWN = -1


def is_remote(url: str) -> bool:
    """Whether `url` is read over a network (it has a scheme, and that is not `file`)."""
    return "://" in url and not url.startswith("file://")


@dataclass(frozen=True)
class ShardSet:
    """Tars in a fixed order; counts and bytes are -1 and sha256 is empty where no manifest tells them."""

    urls: tuple[str, ...]
    counts: tuple[int, ...]
    bytes: tuple[int, ...]
    sha256: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.urls)

    @classmethod
    def open(cls, spec: str) -> ShardSet:
        """The shards that `spec` names.

        A folder (with its manifest.json or img2dataset's *_stats.json, else every *.tar in it), a glob, a brace range
        (`{00000..00041}.tar`), several of those joined by `::`, or `bundled:emoji/train`. Local paths and URLs.
        Raises UserError if nothing matches or the manifest cannot be read.
        """
        parts = [_open_one(part.strip()) for part in spec.split("::") if part.strip()]
        if not parts:
            raise UserError(
                "an empty shard specification was given: expected a folder, glob, brace range or URL of tars"
            )
        join: Any = lambda name: tuple(x for part in parts for x in getattr(part, name))  # noqa: E731
        return cls(join("urls"), join("counts"), join("bytes"), join("sha256"))

    def replace_counts(self, counts: Sequence[int]) -> ShardSet:
        """The same shards with the number of samples of each."""
        return ShardSet(self.urls, tuple(counts), self.bytes, self.sha256)


def _unknown(urls: Sequence[str]) -> ShardSet:
    n = len(urls)
    return ShardSet(tuple(urls), (UNKNOWN,) * n, (UNKNOWN,) * n, ("",) * n)


def _open_one(spec: str) -> ShardSet:
    if spec.startswith("pipe:"):
        raise UserError(f'"{spec}" is a pipe, which cannot be resumed: give the URL itself (s3://, gs://, https://)')
    if spec.startswith("bundled:"):
        spec = str(BUNDLED / spec.removeprefix("bundled:"))
    spec = spec.removeprefix("file://")
    if is_remote(spec):
        return _open_remote(spec)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _folder(path)
    if path.name == "manifest.json" and path.is_file():
        return _folder(path.parent)
    urls = _expand(str(path))
    missing = [u for u in urls if not Path(u).is_file()]
    if not urls or missing:
        what = f"{missing[0]} does not exist" if missing else "nothing matches it"
        raise UserError(f'no shards at "{spec}": {what}; expected a folder, glob or brace range of .tar files')
    return _with_neighbours(_unknown(urls))


def _expand(spec: str) -> list[str]:
    """Paths of a brace range and glob, braces first, each glob in sorted order."""
    import braceexpand

    out: list[str] = []
    for url in braceexpand.braceexpand(spec):
        out += sorted(glob.glob(url)) if glob.has_magic(url) else [url]
    return out


def _folder(path: Path) -> ShardSet:
    manifest = path / "manifest.json"
    if manifest.is_file():
        return parse_manifest(manifest.read_bytes(), base=str(path), where=str(manifest))
    urls = sorted(str(p) for p in path.glob("*.tar"))
    if not urls:
        raise UserError(f'no shards in the folder "{path}": it holds neither a manifest.json nor .tar files')
    return _with_neighbours(_unknown(urls))


def _with_neighbours(shards: ShardSet) -> ShardSet:
    """Facts from the manifests in the tars' own folders, for tars that were named one by one."""
    known: dict[str, tuple[int, int, str]] = {}
    for folder in {Path(u).parent for u in shards.urls}:
        manifest = folder / "manifest.json"
        if manifest.is_file():
            told = parse_manifest(manifest.read_bytes(), base=str(folder), where=str(manifest))
            known.update(zip(told.urls, zip(told.counts, told.bytes, told.sha256, strict=True), strict=True))
    facts = [known.get(u, (UNKNOWN, UNKNOWN, "")) for u in shards.urls]
    return ShardSet(shards.urls, *(tuple(column) for column in zip(*facts, strict=True)))  # type: ignore[arg-type]


def parse_manifest(text: bytes, *, base: str, where: str) -> ShardSet:
    """The shards a manifest lists, as paths under `base`.

    Raises UserError if the text is no manifest of this format.
    """
    try:
        tree = json.loads(text)
        if tree["format"] != MANIFEST_FORMAT:
            raise UserError(f'{where} has format "{tree["format"]}", expected "{MANIFEST_FORMAT}"')
        rows = [(s["file"], int(s["samples"]), int(s["bytes"]), str(s["sha256"])) for s in tree["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where} is not a shard manifest ({error!r}): build it again with `vlp shards build`"
        ) from None
    for file, *_ in rows:
        if file.startswith("/") or ".." in Path(file).parts:
            raise UserError(f'{where} names the shard "{file}", which lies outside its folder')
    if not rows:
        raise UserError(f"{where} lists no shards")
    files, counts, sizes, sums = zip(*rows, strict=True)
    return ShardSet(tuple(f"{base.rstrip('/')}/{f}" for f in files), counts, sizes, sums)


def _open_remote(spec: str) -> ShardSet:
    import braceexpand

    from data_pipelines.remote.fetch import exists, listing, read_small

    if spec.endswith("manifest.json"):
        return parse_manifest(read_small(spec), base=spec.rsplit("/", 1)[0], where=spec)
    if not spec.endswith(".tar"):
        manifest = f"{spec.rstrip('/')}/manifest.json"
        if exists(manifest):
            return parse_manifest(read_small(manifest), base=spec.rstrip("/"), where=manifest)
        spec = f"{spec.rstrip('/')}/*.tar"
    urls: list[str] = []
    for url in braceexpand.braceexpand(spec):
        if any(c in url for c in "*?["):
            folder, _, pattern = url.rpartition("/")
            urls += sorted(u for u in listing(folder) if fnmatch.fnmatch(u.rsplit("/", 1)[-1], pattern))
        else:
            urls.append(url)
    if not urls:
        raise UserError(f'no shards at "{spec}": nothing matches it')
    return _remote_neighbours(_unknown(urls))


def _remote_neighbours(shards: ShardSet) -> ShardSet:
    from data_pipelines.remote.fetch import exists, read_small

    known: dict[str, tuple[int, int, str]] = {}
    for folder in sorted({u.rsplit("/", 1)[0] for u in shards.urls}):
        if exists(f"{folder}/manifest.json"):
            where = f"{folder}/manifest.json"
            told = parse_manifest(read_small(where), base=folder, where=where)
            known.update(zip(told.urls, zip(told.counts, told.bytes, told.sha256, strict=True), strict=True))
    facts = [known.get(u, (UNKNOWN, UNKNOWN, "")) for u in shards.urls]
    return ShardSet(shards.urls, *(tuple(column) for column in zip(*facts, strict=True)))  # type: ignore[arg-type]
