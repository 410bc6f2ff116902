"""Milvus, asked through pymilvus, which only this file imports: a collection of vectors whose ids are row numbers.

A server, or Milvus Lite for an address that is a file: it runs inside this process, which then holds the file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError
from vlp.legible import plain

MESSAGE_BYTES = 8 << 20  # of vectors in one request
QUERIES = 64  # of one request
MOST = 16_384  # the most matches of a query that Milvus gives
CONNECT_S = 10.0
TOKEN, TOKEN_FOR = "MILVUS_TOKEN", "MILVUS_URI"
"""Environment variables: the token, and the only address that it is sent to"""
QUIET = {"grpc.keepalive_time_ms": 2**31 - 1, "grpc.keepalive_permit_without_calls": 0}
"""Milvus Lite hangs up on a client that asks every few seconds whether it is there"""
_CLIENTS: dict[str, Any] = {}
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Collection:
    """One collection at one address. Every method raises UserError, in one sentence, within `patience_s` seconds."""

    address: str
    name: str
    patience_s: float

    def create(self, dim: int, index: str, settings: dict[str, int]) -> None:
        """Make it, empty, for unit vectors of width `dim`, and with inner product as its score."""
        client = self._client()
        from pymilvus import DataType

        with self._in_words("cannot make a collection"):
            schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", DataType.INT64, is_primary=True)
            schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
            how = client.prepare_index_params()
            said: dict[str, Any] = {"params": settings} if is_file(self.address) else settings  # else Lite ignores them
            how.add_index("vector", index_type=index, metric_type="IP", params=said)
            client.create_collection(self.name, schema=schema, consistency_level="Strong", timeout=self.patience_s)
            client.create_index(self.name, how, timeout=self.patience_s, sync=False)  # of nothing yet: no need to wait
            client.load_collection(self.name, timeout=self.patience_s)

    def open(self, dim: int) -> None:
        """Make it ready to be searched. Raises UserError too if it is gone, or holds vectors of another width."""
        client = self._client()
        with self._in_words("cannot open a collection"):
            there = client.has_collection(self.name, timeout=self.patience_s)
        if not there:
            raise UserError(f"Milvus at {self.address} has no collection {self.name} any more; build the index again")
        with self._in_words("cannot open a collection"):
            fields = client.describe_collection(self.name, timeout=self.patience_s)["fields"]
            widths = [int(field["params"]["dim"]) for field in fields if "dim" in field.get("params", {})]
            if widths == [dim]:
                client.load_collection(self.name, timeout=self.patience_s)
        if widths != [dim]:
            raise UserError(
                f"the collection {self.name} of Milvus at {self.address} holds vectors of width {widths}, not {dim}, "
                "so it is not this index's; build the index again"
            )

    def insert(self, vectors: NDArray[np.float32], first: int) -> None:
        """Add vectors [N, D] under the ids from `first` on."""
        client = self._client()
        rows = max(1, MESSAGE_BYTES // (4 * vectors.shape[1]))
        with self._in_words("took no vectors"):
            for start in range(0, len(vectors), rows):
                some = enumerate(vectors[start : start + rows], first + start)
                client.insert(self.name, [{"id": i, "vector": one} for i, one in some], timeout=self.patience_s)

    def delete_from(self, first: int) -> None:
        """Take out every vector whose id is `first` or more."""
        client = self._client()
        with self._in_words("took no vectors out"):
            client.delete(self.name, filter=f"id >= {first}", timeout=self.patience_s)

    def flush(self) -> None:
        """Have all that was added so far on the disk."""
        client = self._client()
        with self._in_words("did not write a collection"):
            client.flush(self.name, timeout=10 * self.patience_s)

    def count(self, where: str) -> int:
        """How many vectors this is true of."""
        client = self._client()
        with self._in_words("did not count"):
            rows = client.query(self.name, filter=where, output_fields=["count(*)"], timeout=self.patience_s)
        return int(rows[0]["count(*)"])

    def search(
        self, queries: NDArray[np.float32], k: int, where: str, settings: dict[str, int]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """(scores, ids) of each query [Q, D], best first, at most `k` of those that `where` is true of."""
        client = self._client()
        asked = {"metric_type": "IP", "params": settings}
        for start in range(0, len(queries), QUERIES):
            some = queries[start : start + QUERIES].tolist()
            with self._in_words("did not answer"):
                answers = client.search(
                    self.name,
                    some,
                    limit=k,
                    filter=where,
                    search_params=asked,
                    output_fields=["id"],
                    timeout=self.patience_s,
                )
            for hits in answers:
                scores = np.array([hit["distance"] for hit in hits], np.float32)
                yield scores, np.array([hit["id"] for hit in hits], np.int64)

    def drop(self) -> None:
        """Remove it; one that is gone is no matter."""
        client = self._client()
        with self._in_words("did not drop a collection"):
            client.drop_collection(self.name, timeout=self.patience_s)

    def neighbours(self) -> list[str]:
        """The names of all collections at the same address."""
        client = self._client()
        with self._in_words("did not name its collections"):
            return [str(name) for name in client.list_collections(timeout=self.patience_s)]

    def _client(self) -> Any:
        with _LOCK:
            if self.address not in _CLIENTS:
                _CLIENTS[self.address] = _connected(self.address)
            return _CLIENTS[self.address]

    @contextlib.contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        from pymilvus.exceptions import MilvusException

        try:
            yield
        except (MilvusException, OSError, ValueError, RuntimeError) as error:
            said = plain(getattr(error, "message", "") or error, 200).rstrip(". ")
            raise UserError(
                f"Milvus at {self.address} {what} ({said}); see whether it is well, and ask again"
            ) from None


def is_file(address: str) -> bool:
    """Whether this address is a file, of Milvus Lite."""
    return "://" not in address


def check_address(address: str) -> None:
    """Raise UserError if it is neither the address of a server nor a file of Milvus Lite, or if it holds a password."""
    if is_file(address):
        if not address.endswith(".db"):
            raise UserError(
                f'the uri of Milvus is "{plain(address)}", but it should be http://HOST:19530, or a file: NAME.db'
            )
    elif not address.startswith(("http://", "https://")):
        raise UserError(f'the uri of Milvus is "{plain(address)}", but it should begin with http:// or https://')
    elif "@" in address:
        raise UserError(f"the uri of Milvus must hold no password; put it into the environment variable {TOKEN}")


def token_for(address: str) -> str:
    """The token of the environment, for the address of the environment alone: an index says where to connect to."""
    same = os.environ.get(TOKEN_FOR, "").rstrip("/") == address.rstrip("/")
    return os.environ.get(TOKEN, "") if same else ""


def _connected(address: str) -> Any:
    """A client. Raises UserError if a package is missing, or nobody answers."""
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException

        if is_file(address):
            import milvus_lite  # noqa: F401
    except ImportError as error:
        raise UserError(f"an index of kind milvus needs {error.name}; run: pip install 'vlp[milvus]'") from None
    for name in ("pymilvus", "milvus_lite"):  # they log each error with its stack, which is said in a sentence here
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        if is_file(address):
            Path(address).parent.mkdir(parents=True, exist_ok=True)
            return MilvusClient(address, grpc_options=QUIET)
        return MilvusClient(address, token=token_for(address), timeout=CONNECT_S)
    except (MilvusException, OSError, ValueError, RuntimeError) as error:
        if is_file(address):
            raise UserError(
                f"Milvus Lite cannot open {address}: another program has it open (one at a time may), or it is none of "
                "its files; end that program, or build the index on a Milvus server by --uri http://HOST:19530"
            ) from None
        said = plain(getattr(error, "message", "") or error, 200).rstrip(". ")
        hint = "" if token_for(address) else f"; a server that asks for a token: set {TOKEN_FOR} to its uri and {TOKEN}"
        raise UserError(f"no Milvus answers at {address} ({said}); start one, or correct the uri{hint}") from None
