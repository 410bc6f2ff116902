"""Which tars a specification means, with what the manifest beside them says of each."""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.shards import manifest
from data_pipelines.shards.manifest import Manifest, ShardRecord
from vlp.errors import UserError

BUNDLED = Path(__file__).parent.parent / "bundled"
UNKNOWN = -1
PACKED_TARS = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")  # which cannot be read sample by sample


def is_remote(url: str) -> bool:
    """Whether `url` is read over a network (it has a scheme, and that is not `file`)."""
    return "://" in url and not url.startswith("file://")


@dataclass(frozen=True)
class ShardSet:
    """Tars in a fixed order; counts and bytes are -1 and sha256 is empty where no manifest gives them."""

    urls: tuple[str, ...]
    counts: tuple[int, ...]
    bytes: tuple[int, ...]
    sha256: tuple[str, ...]
    manifests: tuple[Manifest, ...] = ()  # of the folders that the tars lie in, those that have one

    def __len__(self) -> int:
        return len(self.urls)

    @property
    def about(self) -> tuple[Mapping[str, Any], ...]:
        """What the manifest of each folder says of its data."""
        return tuple(one.about for one in self.manifests)

    def record(self, row: int) -> ShardRecord:
        """What the manifest says of one tar, as far as one does."""
        return ShardRecord(self.urls[row], self.counts[row], self.bytes[row], self.sha256[row])

    @classmethod
    def open(cls, spec: str) -> ShardSet:
        """The shards that `spec` names; every manifest is read once.

        A folder (with its manifest.json, else every *.tar in it), a glob, a brace range (`{00000..00041}.tar`), several
        of those joined by `::`, or `bundled:emoji/train`. Local paths and URLs.
        Raises UserError if nothing matches or a manifest cannot be read.
        """
        manifests = _Manifests()
        parts = [_open_one(part.strip(), manifests) for part in spec.split("::") if part.strip()]
        if not parts:
            raise UserError(
                "an empty shard specification was given: expected a folder, glob, brace range or URL of tars"
            )
        return cls.of([row for part in parts for row in part], manifests.read)

    @classmethod
    def of(cls, shards: Iterable[tuple[str, ShardRecord]], manifests: Iterable[Manifest] = ()) -> ShardSet:
        """The set of these tars, each a URL and its record."""
        rows = [(url, one.samples, one.bytes, one.sha256) for url, one in shards]
        urls, counts, sizes, sums = zip(*rows, strict=True)
        return cls(urls, counts, sizes, sums, tuple(manifests))


Listed = list[tuple[str, ShardRecord]]  # URL, record


class _Manifests:
    """The manifests of folders, local and remote, each of them read once."""

    def __init__(self) -> None:
        self._known: dict[str, Manifest | None] = {}

    @property
    def read(self) -> list[Manifest]:
        """Those that there are, in the order in which they were asked for."""
        return [one for one in self._known.values() if one is not None]

    def of(self, folder: str) -> Manifest | None:
        """The manifest in `folder`, None if it has none. Raises UserError if it cannot be read."""
        if folder not in self._known:
            path = f"{folder}/{manifest.FILE}"
            load = _remote_bytes if is_remote(folder) else _local_bytes
            data = load(path)
            self._known[folder] = None if data is None else manifest.parse(data, where=path)
        return self._known[folder]


def _local_bytes(path: str) -> bytes | None:
    return Path(path).read_bytes() if Path(path).is_file() else None


def _remote_bytes(url: str) -> bytes | None:
    from data_pipelines.remote.fetch import exists, read_small

    return read_small(url) if exists(url) else None


def _open_one(spec: str, manifests: _Manifests) -> Listed:
    if spec.startswith("pipe:"):
        raise UserError(f'"{spec}" is a pipe, which cannot be resumed: give the URL itself (s3://, gs://, https://)')
    if spec.startswith("bundled:"):
        spec = str(BUNDLED / spec.removeprefix("bundled:"))
    spec = spec.removeprefix("file://")
    if is_remote(spec):
        return _open_remote(spec, manifests)
    path = Path(spec).expanduser()
    if path.name == manifest.FILE and path.is_file():
        path = path.parent
    if path.is_dir():
        return _folder(path, manifests)
    urls = _expand(str(path), lambda pattern: sorted(glob.glob(pattern)))
    missing = [u for u in urls if not Path(u).is_file()]
    if not urls or missing:
        what = f"{missing[0]} does not exist" if missing else "nothing matches it"
        raise UserError(f'no shards at "{spec}": {what}; expected a folder, glob or brace range of .tar files')
    return _recorded(urls, manifests)


def _folder(path: Path, manifests: _Manifests) -> Listed:
    listed = manifests.of(str(path))
    if listed is not None:
        return _in_folder(str(path), listed)
    urls = sorted(str(p) for p in path.glob("*.tar"))
    packed = [p for ending in PACKED_TARS for p in path.glob(f"*{ending}")]
    if not urls and packed:
        raise UserError(
            f'the tars in the folder "{path}", such as {packed[0].name}, are compressed, and samples of such a tar '
            "cannot be read one by one: unpack them to .tar"
        )
    if not urls:
        raise UserError(f'no shards in the folder "{path}": it has neither a {manifest.FILE} nor .tar files')
    return _recorded(urls, manifests)


def _open_remote(spec: str, manifests: _Manifests) -> Listed:
    if not spec.endswith(".tar"):
        folder = spec.removesuffix(f"/{manifest.FILE}").rstrip("/")
        listed = manifests.of(folder)
        if listed is not None:
            return _in_folder(folder, listed)
        if folder != spec.rstrip("/"):
            raise UserError(f'there is no manifest at "{spec}"')
        spec = f"{folder}/*.tar"
    urls = _expand(spec, _remote_matches)
    if not urls:
        raise UserError(f'no shards at "{spec}": nothing matches it')
    return _recorded(urls, manifests)


def _remote_matches(pattern: str) -> list[str]:
    from data_pipelines.remote.fetch import listing

    folder, _, name = pattern.rpartition("/")
    return sorted(u for u in listing(folder) if fnmatch.fnmatch(u.rsplit("/", 1)[-1], name))


def _expand(spec: str, matches: Callable[[str], list[str]]) -> list[str]:
    """URLs of a brace range and glob, braces first, each glob by what `matches` it."""
    import braceexpand

    return [
        url for part in braceexpand.braceexpand(spec) for url in (matches(part) if glob.has_magic(part) else [part])
    ]


def _in_folder(folder: str, listed: Manifest) -> Listed:
    return [(f"{folder.rstrip('/')}/{one.file}", one) for one in listed.shards]


def _recorded(urls: Sequence[str], manifests: _Manifests) -> Listed:
    """Tars that were named one by one, with their records in the manifests of their own folders."""
    known: dict[str, ShardRecord] = {}
    for folder in dict.fromkeys(_parent(url) for url in urls):
        listed = manifests.of(folder)
        if listed is not None:
            known.update((f"{folder}/{one.file}" if folder != "." else one.file, one) for one in listed.shards)
    return [(url, known.get(url, ShardRecord(url, UNKNOWN, UNKNOWN, ""))) for url in urls]


def _parent(url: str) -> str:
    return url.rpartition("/")[0] or ("/" if url.startswith("/") else ".")
