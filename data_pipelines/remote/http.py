"""Answers of web servers, each checked to be what was asked for: status, range and length."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any

from data_pipelines.remote.patience import Changed
from vlp.errors import UserError

CHUNK = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class NoRanges(UserError):
    """A server that gives whole objects alone."""


def check_range(url: str, said: str, asked: tuple[int, int], *, size: int, length: int) -> None:
    """Raise OSError if an answer of `length` bytes, whose Content-Range is `said`, does not begin what was `asked` for.

    Raises Changed if it is of an object that has not `size` bytes.
    """
    start, stop = asked
    match = _RANGE.fullmatch(said.strip())
    if match is None:
        raise OSError(f"the answer to bytes {start}-{stop - 1} does not say which bytes it has ({said!r})")
    first, last = int(match[1]), int(match[2])
    if first != start or last >= stop or length != last - first + 1:
        raise OSError(f"bytes {start}-{stop - 1} were asked for, and {length} bytes came that are said to be {said!r}")
    if match[3] not in ("*", str(size)):
        raise Changed(f"{url} was changed while it was read: it has {match[3]} bytes, and had {size}")


async def ranged(fs: Any, url: str, start: int, stop: int, *, size: int, headers: Mapping[str, str]) -> bytes:
    """Bytes [start, stop) of an object of `size` bytes, or the beginning of them.

    Raises NoRanges if the server has the object and no ranges, OSError for an answer of another kind, an error with a
    status for a refusal.
    """
    asked = {**headers, "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **{**fs.kwargs, "headers": asked}) as answer:
        fs._raise_not_found_for_status(answer, url)
        if answer.status == 206:
            data = bytes(await answer.read())
            check_range(url, answer.headers.get("Content-Range", ""), (start, stop), size=size, length=len(data))
            return data
        _check_whole(answer, size)
        if (start, stop) == (0, size):
            return bytes(await answer.read())
    raise NoRanges(
        f"{url}: the server ignores byte ranges, so that samples cannot be read one by one; set "
        "data.remote.shard_cache to a folder for whole shards, or copy them"
    )


async def whole(fs: Any, url: str, write: Callable[[bytes], object], *, size: int, deadline: float) -> None:
    """Hand over an object of `size` bytes to `write`, piece by piece; each may take `deadline` seconds.

    Raises OSError for an answer of another kind or length, an error with a status for a refusal.
    """
    import aiohttp

    session, length = await fs.set_session(), 0
    limits = aiohttp.ClientTimeout(total=None, sock_connect=deadline, sock_read=deadline)
    asked = {**fs.kwargs, "headers": {"Accept-Encoding": "identity"}, "timeout": limits}
    async with session.get(fs.encode_url(url), **asked) as answer:
        fs._raise_not_found_for_status(answer, url)
        _check_whole(answer, size)
        while data := await asyncio.wait_for(answer.content.read(CHUNK), deadline):
            write(data)
            length += len(data)
    if length != size:
        raise OSError(f"{length} bytes came of {size}")


def _check_whole(answer: Any, size: int) -> None:
    """Raise OSError if a 200 is not the object of `size` bytes, but a page that says something else."""
    length, kind = answer.headers.get("Content-Length", ""), answer.headers.get("Content-Type", "nothing")
    if answer.status != 200 or length != str(size):
        raise OSError(
            f"the object has {size} bytes, and the answer is something else (status {answer.status}, {kind}, "
            f"{length or 'unknown'} bytes)"
        )
