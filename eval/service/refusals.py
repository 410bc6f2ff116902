"""What is wrong with a request, in one sentence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from eval.service.batching import BatchFailed
from vlp.legible import plain

log = logging.getLogger("vlp.service")


def sentence(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors in a sentence."""
    if not errors:
        return "the request cannot be read"
    first = errors[0]
    where = ".".join(plain(part, 40) for part in first["loc"] if part not in ("body", "query")) or "the body"
    return f"{where}: {plain(first['msg'])}"


async def user_error(request: Request, error: Exception) -> Response:
    """422 with the sentence; 503 where the index itself could not answer."""
    if isinstance(error, BatchFailed):  # it may name folders
        log.error("the index cannot answer: %s", error)
        return JSONResponse({"detail": "the index cannot answer now; the service's log says why"}, 503)
    return JSONResponse({"detail": plain(error)}, 422)


async def invalid(request: Request, error: Exception) -> Response:
    """422 for a request that is not as the OpenAPI document says."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    return JSONResponse({"detail": sentence(errors)}, 422)
