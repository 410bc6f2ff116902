"""Vectors that were computed once, kept on disk under the sha256 of all that went into them.

What is kept is named by the weights, how the model is built, its preparation of pictures, its precision, the versions
that compute, and the bytes of the pictures or the tokens of the texts: whatever changes asks for another name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipelines.remote.fetch import cache_home
from eval.embeddings.together import Ranks, SharedRelease
from vlp.config import to_tree
from vlp.files import check_writable, write_whole
from vlp.models.release import Release
from vlp.record import versions

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipelines.sample import Sample

log = logging.getLogger("vlp.eval")
LIMIT = 4 << 30  # bytes of all files
KEPT_AFTER_PRUNING = 0.8  # of the limit, so that not every new file asks for it
Tree = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """What was kept under a name."""

    vectors: NDArray[np.float32]  # [n, D]
    about: Tree
    """what else belongs to them, as JSON has it"""


class EmbeddingCache:
    """A folder of vectors that any number of programs share; the files that nobody asked for longest are removed."""

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        """`folder`: None means $VLP_CACHE/embeddings; `limit`: bytes. Raises UserError if it cannot be written to."""
        self.folder, self.limit = folder or cache_home() / "embeddings", limit
        check_writable(self.folder)
        self._bytes = sum(size for _, size, _ in self._files())
        self.hits = self.misses = 0

    def get(self, name: str) -> Kept | None:
        """What is kept under `name`, which then counts as used now; None where there is nothing, or nothing whole."""
        path = self._path(name)
        try:
            digest, _, body = path.read_bytes().partition(b"\n")
        except OSError:
            self.misses += 1
            return None
        if hashlib.sha256(body).hexdigest().encode() != digest:
            log.warning("%s is damaged: it is removed, and its pictures or texts are embedded again", path)
            path.unlink(missing_ok=True)
            self.misses += 1
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        self.hits += 1
        about, _, array = body.partition(b"\n")
        return Kept(np.load(io.BytesIO(array), allow_pickle=False), json.loads(about))

    def put(self, name: str, vectors: NDArray[np.float32], **about: Any) -> None:
        """Keep `vectors` [n, D] and what belongs to them, whole or not at all. Raises UserError for a full disk."""
        array = io.BytesIO()
        np.save(array, np.ascontiguousarray(vectors, np.float32))
        body = json.dumps(about).encode() + b"\n" + array.getvalue()
        write_whole(self._path(name), hashlib.sha256(body).hexdigest().encode() + b"\n" + body, shared=True)
        self._bytes += len(body) + 65
        if self._bytes > self.limit:
            self._prune()

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    def _files(self) -> list[tuple[int, int, Path]]:
        """(when it was used last, bytes, path) of every file."""
        files = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):
                facts = path.stat()
                files.append((facts.st_mtime_ns, facts.st_size, path))
        return files

    def _prune(self) -> None:
        """Remove the files that were not used for longest."""
        files = sorted(self._files())
        self._bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._bytes <= KEPT_AFTER_PRUNING * self.limit:
                break
            path.unlink(missing_ok=True)
            self._bytes -= size


def identity(release: Release) -> str:
    """All that two models must share to give the same vectors, as JSON; "" for a model whose weights have no name."""
    if not release.id:
        return ""
    first = next(release.encoder.parameters())
    tree = {
        "weights": release.id,
        "model": to_tree(release.config) if release.config is not None else type(release.encoder).__name__,
        "preprocessing": {"kind": type(release.transform).__name__, **asdict(release.transform)},
        "precision": [str(first.dtype), release.precision],
        "device": first.device.type,
        "versions": versions(),
    }
    return json.dumps(tree, sort_keys=True, default=str)


def name_of_pictures(model: str, samples: Sequence[Sample]) -> str:
    """The name of the vectors that the model of this identity gives the pictures of `samples`."""
    digest = hashlib.sha256(b"pictures\n" + model.encode())
    for sample in samples:
        digest.update(hashlib.sha256(sample.image).digest())
    return digest.hexdigest()


def name_of_texts(model: str, tokens: Tensor) -> str:
    """The name of the vectors that the model of this identity gives the texts of these tokens [n, L]."""
    digest = hashlib.sha256(b"texts\n" + model.encode() + str(tuple(tokens.shape)).encode())
    digest.update(tokens.contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class CachedRelease(SharedRelease):
    """A model whose texts are embedded once, by all ranks together."""

    cache: EmbeddingCache | None = None
    identity: str = field(default="", repr=False)

    @torch.inference_mode()
    def embed_some(self, texts: Sequence[str]) -> Tensor:
        """As Release's `embed_texts`; taken from the cache where it has them."""
        if self.cache is None or not self.identity or not texts:
            return super().embed_some(texts)
        name = name_of_texts(self.identity, self.tokenizer(list(texts)))
        kept = self.cache.get(name)
        if kept is not None:
            return torch.from_numpy(kept.vectors)
        vectors = super().embed_some(texts)
        self.cache.put(name, vectors.numpy())
        return vectors


def cached(release: Release, cache: EmbeddingCache | None, ranks: Ranks) -> CachedRelease:
    """The same model with its texts embedded by all ranks together, and kept in `cache`."""
    own = {f.name: getattr(release, f.name) for f in fields(Release)}
    return CachedRelease(**own, ranks=ranks, cache=cache, identity=identity(release) if cache is not None else "")
