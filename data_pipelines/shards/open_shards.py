"""Open shards, a bounded number of them: sample i of shard s is one read away."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.remote.background import Background
from data_pipelines.remote.fetch import (
    Blocks,
    BlockStore,
    Changed,
    LocalFile,
    Patience,
    RemoteFile,
    Unreadable,
    cache_home,
)
from data_pipelines.remote.patience import Replaced
from data_pipelines.remote.shard_cache import ShardCache
from data_pipelines.shards.checks import Verify, check_headers, verify
from data_pipelines.shards.load_index import load_index, load_remote_index
from data_pipelines.shards.losses import Facts, expected
from data_pipelines.shards.manifest import ShardRecord
from data_pipelines.shards.shard_set import UNKNOWN, ShardSet, is_remote
from data_pipelines.shards.tar_index import FORMATS
from vlp.errors import UserError

MOST_OPEN = 256
FORGET_SECONDS = 30.0


@dataclass(frozen=True)
class Access:
    """How bytes of shards are had: the same in every process."""

    index_cache: Path | None = None  # None: in the cache's home
    shard_cache: ShardCache | None = None
    patience: Patience = field(default_factory=Patience)
    blocks: BlockStore = field(default_factory=lambda: BlockStore(1 << 30))
    verify: Verify = "size"


@dataclass(frozen=True)
class RawSample:
    """A sample as it lies in the tar; `record` is its .json with the .txt as record["txt"]."""

    key: str
    image: bytes
    image_format: str
    record: Mapping[str, Any]
    garbled: bool = False  # its .txt or .json is there, but it is no text or no JSON object


class OpenShard:
    """One tar and its index. Raises Unreadable where bytes cannot be had, Changed where they are not the manifest's."""

    def __init__(self, url: str, access: Access, record: ShardRecord | None = None) -> None:
        self.url = url
        folder = access.index_cache or cache_home() / "index"
        self.source: LocalFile | Blocks
        self.version = ""  # of a remote object
        self._beside = False  # whether the index was given, and files are compared with the tar's headers
        if is_remote(url):
            remote = RemoteFile(url, access.patience)
            self.version = remote.version
            if access.shard_cache is not None:
                self.source = LocalFile(str(access.shard_cache.path(remote, record.sha256 if record else "")))
            else:
                self.source = Blocks(remote, access.blocks)
            self.index, self._beside = load_remote_index(url, self.source, remote, folder, record)
        else:
            self.source = LocalFile(url)
            self.index = load_index(url, self.source, folder)
        if record is not None and access.verify != "none":
            verify(url, self.source, self.index, record, folder, sums=access.verify == "sha256")

    @property
    def nothing(self) -> str:
        """Why a shard without samples has none, to be said after its name."""
        if not self.source.size:
            return "is empty (0 bytes): copy it again"
        reasons = ", ".join(f"{reason}: {n}" for reason, n in self.index.lost.items())
        return f"has {reasons}" if reasons else "has no picture with a caption of the same name"

    def __len__(self) -> int:
        return len(self.index)

    def sample(self, i: int) -> RawSample:
        """Sample `i` of the index, in one read where its files lie together."""
        spans: list[list[int]] = self.index.spans[i].tolist()
        present = [s for s in spans if s[1] >= 0]
        if self._beside:
            check_headers(self.url, self.source, self.index.keys[i], present)
        start, stop = min(s[0] for s in present), max(s[0] + s[1] for s in present)
        if stop - start <= 2 * sum(s[1] for s in present) + 8192:
            block = self.source.read(start, stop - start)
            parts = [block[o - start : o - start + n] if n >= 0 else None for o, n in spans]
        else:
            parts = [self.source.read(o, n) if n >= 0 else None for o, n in spans]
        if any(p is not None and len(p) < n for p, (_, n) in zip(parts, spans, strict=True)):
            raise Unreadable(f"{self.url} ended early: it was cut after its index was built")
        image, txt, js, label = parts
        assert image is not None
        record, garbled = _record(txt, js, label)
        return RawSample(self.index.keys[i], image, FORMATS[int(self.index.formats[i])], record, garbled)


def _record(txt: bytes | None, js: bytes | None, label: bytes | None) -> tuple[dict[str, Any], bool]:
    """The .json of a sample, with the .txt under "txt" and the .cls under "cls"; and whether one could not be read.

    What cannot be read counts as not there: to say half-decoded bytes would teach them.
    """
    record: dict[str, Any] = {}
    garbled = False
    if js is not None:
        try:
            tree = json.loads(js)
            if b"\xed" in js or b"\\ud" in js.lower():  # perhaps half a surrogate pair, which no tokenizer takes
                json.dumps(tree, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            tree = None
        garbled = not isinstance(tree, dict)
        record = dict(tree) if isinstance(tree, dict) else {}
    if txt is not None:
        try:
            record["txt"] = txt.decode().strip()
        except UnicodeDecodeError:
            garbled = True
    if label is not None and len(label) < 20 and label.strip().isdigit():
        record["cls"] = int(label)
    return record, garbled


class OpenShards:
    """The shards of a source, opened when first read and closed when many others were read since."""

    def __init__(self, shards: ShardSet, access: Access | None = None) -> None:
        self.shards, self.access = shards, access or Access()
        self.urls = shards.urls
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._failed: dict[int, tuple[float, Unreadable]] = {}
        self._versions: dict[int, str] = {}  # of each shard when it was first opened
        self._identities: dict[int, str] = {}  # of its index then
        self._expecting: Background | None = None

    def __getitem__(self, shard: int) -> OpenShard:
        """An open shard. Raises Unreadable; a shard that failed is not asked for again at once.

        Raises Changed for one that was replaced since it was first opened.
        """
        opened = self._open.get(shard)
        if opened is None:
            self._refuse_failed(shard)
            try:
                opened = OpenShard(self.urls[shard], self.access, self.shards.record(shard))
                if opened.index.identity != self._identities.setdefault(shard, opened.index.identity):
                    raise Changed(f"{opened.url} was replaced since it was first read")
                if opened.version != self._versions.setdefault(shard, opened.version):
                    raise Changed(f"{opened.url} was replaced since it was first read")
            except Unreadable as error:
                self._failed[shard] = (time.monotonic() + FORGET_SECONDS, error)
                raise
            self._open[shard] = opened
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(shard)
        return opened

    def sample(self, shard: int, i: int) -> RawSample:
        """Sample `i` of a shard. Raises Unreadable; the rest of a remote shard that failed is not asked for at once."""
        opened = self[shard]
        if not is_remote(opened.url):
            return opened.sample(i)
        self._refuse_failed(shard)
        try:
            return opened.sample(i)
        except Unreadable as error:
            self._failed[shard] = (time.monotonic() + FORGET_SECONDS, error)
            raise

    def facts(self, shard: int) -> Facts:
        """What is known of a shard and its losses, for `losses.estimated`. Raises Unreadable."""
        index, count = self[shard].index, self.shards.counts[shard]
        if count == UNKNOWN and index.lost:
            count = expected(self.urls[shard], index, self.access.index_cache or cache_home() / "index")
        return Facts.of(index, count)

    def fingerprints(self) -> list[str]:
        """Of each shard a short digest of its name and of what it is: what its manifest says, else its index."""
        prints = []
        for row, url in enumerate(self.urls):
            record = self.shards.record(row)
            listed = f"{record.sha256 or record.bytes} {record.samples}"
            if record.samples == UNKNOWN and row not in self._identities:
                self[row]
            what = self._identities[row] if record.samples == UNKNOWN else listed
            prints.append(hashlib.sha256(f"{url.rsplit('/', 1)[-1]} {what}".encode()).hexdigest()[:8])
        return prints

    def look_at_sizes(self) -> None:
        """Raise Replaced for a local shard that is not the one that its manifest lists: of those of another size.

        With verify = "sha256" all local shards are looked into.
        """
        for row, (url, size) in enumerate(zip(self.urls, self.shards.bytes, strict=True)):
            if is_remote(url) or size == UNKNOWN or not os.path.exists(url):
                continue
            if os.path.getsize(url) != size or self.access.verify == "sha256":
                try:
                    self[row]
                except Replaced:
                    raise
                except Unreadable:
                    continue  # whoever reads it will count it

    def _refuse_failed(self, shard: int) -> None:
        until, error = self._failed.get(shard, (0.0, None))
        if error is not None and time.monotonic() < until:
            raise type(error)(str(error))

    def check_read_ahead(self, samples: float) -> None:
        """Raise UserError if `samples` of this source, twice over, do not fit the memory for parts of remote shards.

        With less memory parts would be fetched again for every sample. Sources of unknown size are not checked.
        """
        known = [(b, c) for b, c in zip(self.shards.bytes, self.shards.counts, strict=True) if b > 0 and c > 0]
        if not known or self.access.shard_cache is not None or not any(map(is_remote, self.urls)):
            return
        need = 2 * samples * sum(b for b, _ in known) / sum(c for _, c in known)
        if need > self.access.blocks.limit:
            raise UserError(
                f"the windows of one process need {need / 1e6:,.0f} MB of remote shards, read_ahead_bytes allows "
                f"{self.access.blocks.limit / 1e6:,.0f} MB: raise it, set shard_cache, or lower window or lanes"
            )

    def expect(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Begin to fetch the (shard, sample) pairs that are read soon, in the background; local ones need nothing."""
        if not wanted or not any(is_remote(self.urls[s]) for s, _ in wanted[:1]):
            return
        if self._expecting is None:
            self._expecting = Background(2, "vlp-expect")
        self._expecting.submit(self._expect, list(wanted))

    def _expect(self, wanted: list[tuple[int, int]]) -> None:
        for s in sorted({s for s, _ in wanted}):
            try:
                shard = self._open.get(s) or OpenShard(self.urls[s], self.access, self.shards.record(s))
            except Unreadable:
                continue  # whoever reads it will find out, and count
            if isinstance(shard.source, Blocks):
                spans = [shard.index.spans[i] for t, i in wanted if t == s and i < len(shard)]
                if spans:
                    shard.source.expect(*_reach(spans))

    def __getstate__(self) -> dict[str, Any]:  # open files and threads stay in the process that has them
        shards = replace(self.shards, manifests=())  # which workers do not read
        return {**self.__dict__, "shards": shards, "_open": OrderedDict(), "_expecting": None}


def _reach(spans: Sequence[NDArray[np.int64]]) -> tuple[int, int]:
    """First byte and last byte + 1 of the files of some samples."""
    files = np.concatenate(spans)
    files = files[files[:, 1] >= 0]
    return int(files[:, 0].min()), int(files.sum(axis=1).max())
