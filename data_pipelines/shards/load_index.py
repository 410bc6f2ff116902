"""The index of a tar: out of the cache, else built by reading the tar, and kept. What was not verified is not kept."""

from __future__ import annotations

import contextlib
from pathlib import Path

from data_pipelines.remote.fetch import Blocks, LocalFile, RemoteFile
from data_pipelines.remote.patience import Unreadable
from data_pipelines.shards import tar_index
from data_pipelines.shards.checks import refuse_strange
from data_pipelines.shards.manifest import ShardRecord
from data_pipelines.shards.tar_index import TarIndex
from vlp.errors import UserError


def load_index(url: str, source: LocalFile, folder: Path) -> TarIndex:
    """The index of a local tar: from the cache, else built now and kept in the cache.

    An .index beside the tar is data from outside, and to check all of it takes as long as to read the tar's headers.
    """
    cached = tar_index.cached_path(url, source.version, folder)
    index = _stored(cached, source.size)
    if index is None:
        refuse_strange(url, source)
        index = tar_index.build(source)
        _keep(index, cached)
    return index


def load_remote_index(
    url: str, source: LocalFile | Blocks, remote: RemoteFile, folder: Path, record: ShardRecord | None
) -> tuple[TarIndex, bool]:
    """The index from the cache, else the one beside the object, else built by reading the object through once.

    Also whether it is the one beside the object: then its places are to be compared with the tar's headers. Only an
    index of the second kind that shows no damage, and as many samples as the manifest's `record` says, is kept.
    """
    cached = tar_index.cached_path(url, remote.version, folder)
    index = _stored(cached, remote.size)
    if index is not None:
        return index, False
    with contextlib.suppress(Unreadable, UserError, ValueError, KeyError, OSError):
        beside = RemoteFile(tar_index.beside(url), remote.patience)
        if beside.size <= max(1 << 20, remote.size):
            index = TarIndex.load(beside.read(0, beside.size))
            if index.tar_bytes == remote.size:
                return index, True
    refuse_strange(url, source)
    index = tar_index.build(source, block=1 << 20 if isinstance(source, Blocks) else 4096)
    promised = record.samples if record is not None and record.sha256 else len(index)
    if not index.lost and len(index) == promised:
        _keep(index, cached)
    return index, False


def _stored(path: Path, size: int) -> TarIndex | None:
    try:
        index = TarIndex.load(path.read_bytes())
    except (OSError, ValueError, KeyError):
        return None
    return index if index.tar_bytes == size else None


def _keep(index: TarIndex, path: Path) -> None:
    with contextlib.suppress(OSError, UserError):  # a read-only or full cache costs time at the next start, no more
        index.save(path)
