"""Open shards, a bounded number of them: sample i of shard s is one read away."""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines import tar_index
from data_pipelines.fetch import LocalFile, Unreadable, cache_home
from data_pipelines.tar_index import FORMATS, TarIndex

MOST_OPEN = 256


@dataclass(frozen=True)
class RawSample:
    """A sample as it lies in the tar; `record` is its .json with the .txt as record["txt"]."""

    key: str
    image: bytes
    image_format: str
    record: Mapping[str, Any]


class Shard:
    """One tar and its index. Raises Unreadable where bytes cannot be had."""

    def __init__(self, url: str, *, index_cache: Path | None = None) -> None:
        self.url = url
        self.source = LocalFile(url)
        self.index = load_index(url, self.source, index_cache or cache_home() / "index")

    def __len__(self) -> int:
        return len(self.index)

    def sample(self, i: int) -> RawSample:
        """Sample `i` of the index, in one read where its files lie together."""
        spans: list[list[int]] = self.index.spans[i].tolist()
        held = [s for s in spans if s[1] >= 0]
        start, stop = min(s[0] for s in held), max(s[0] + s[1] for s in held)
        if stop - start <= 2 * sum(s[1] for s in held) + 8192:
            block = self.source.read(start, stop - start)
            parts = [block[o - start : o - start + n] if n >= 0 else None for o, n in spans]
        else:
            parts = [self.source.read(o, n) if n >= 0 else None for o, n in spans]
        if any(p is not None and len(p) < n for p, (_, n) in zip(parts, spans, strict=True)):
            raise Unreadable(f"{self.url} ended early: it was cut after its index was built")
        image, txt, js, label = parts
        assert image is not None
        return RawSample(self.index.keys[i], image, FORMATS[int(self.index.formats[i])], _record(txt, js, label))


def _record(txt: bytes | None, js: bytes | None, label: bytes | None) -> dict[str, Any]:
    """The .json of a sample, with the .txt under "txt" and the .cls under "cls"; broken JSON counts as none."""
    record: Any = {}
    if js is not None:
        try:
            record = json.loads(js)
        except ValueError:
            record = {}
    if not isinstance(record, dict):
        record = {}
    if txt is not None:
        record["txt"] = txt.decode("utf-8", "replace").strip()
    if label is not None and label.strip().isdigit():
        record["cls"] = int(label)
    return dict(record)


def load_index(url: str, source: LocalFile, folder: Path) -> TarIndex:
    """The index beside the tar, else from the cache, else built now and kept in the cache."""
    cached = tar_index.cached_path(url, source.version, folder)
    for path in (Path(tar_index.beside(url)), cached):
        try:
            index = TarIndex.load(path.read_bytes())
        except (OSError, ValueError, KeyError):
            continue
        if index.tar_bytes == source.size:
            return index
    index = tar_index.build(source)
    with contextlib.suppress(OSError):  # a read-only or full cache costs time at the next start, nothing else
        index.save(cached)
    return index


class Shelf:
    """The shards of a stream, opened when first read and closed when many others were read since."""

    def __init__(self, urls: Sequence[str], *, index_cache: Path | None = None) -> None:
        self.urls = urls
        self._index_cache = index_cache
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def __getitem__(self, shard: int) -> Shard:
        held = self._open.get(shard)
        if held is None:
            held = self._open[shard] = Shard(self.urls[shard], index_cache=self._index_cache)
            if len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(shard)
        return held

    def __getstate__(self) -> dict[str, Any]:  # open files stay in the process that opened them
        return {**self.__dict__, "_open": OrderedDict()}
