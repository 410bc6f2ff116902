"""The routes of the service."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, FastAPI, Form, HTTPException, Query, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import APIKeyHeader
from pydantic import ValidationError

from eval.index import Ints
from eval.search.gallery import Hit
from eval.search.recall import fallen
from eval.search.refine import FOLD
from eval.service.batching import Batcher, Part, Question
from eval.service.current import Current, Version
from eval.service.fetching import fetched
from eval.service.gate import Gate
from eval.service.matches import knn_match, match
from eval.service.measures import Measures
from eval.service.page import policy, service_page
from eval.service.refusals import invalid, sentence, user_error
from eval.service.settings import Settings
from eval.service.shapes import Columns, Health, Knn, KnnMatch, Matches, Problem
from vlp import __version__
from vlp.errors import UserError
from vlp.legible import printable
from vlp.pictures import Limits, Refused, decode

log = logging.getLogger("vlp.service")
FAR = 1e6  # weights are compared with each other: none needs to be larger
FOLDING = f"cosine from which on near-identical matches are folded into the best of them, such as {FOLD}"
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "a body that cannot be read"},
    401: {"model": Problem, "description": "no key, or another one"},
    408: {"model": Problem, "description": "the request took too long to arrive"},
    413: {"model": Problem, "description": "a body larger than the service takes"},
    421: {"model": Problem, "description": "a host that is not this one"},
    422: {"model": Problem, "description": "a question that cannot be asked; the sentence says why"},
    429: {"model": Problem, "description": "too many questions; ask again later"},
    503: {"model": Problem, "description": "the index cannot answer now"},
}
WHERE = "what the matches fulfil, such as width > 100 AND style = 'flat': SQL over the columns that /columns lists"
LIKE = "key of a picture of the index to look for, as matches have it"
Weight = Annotated[float, Form(ge=-FAR, le=FAR, allow_inf_nan=False)]
with_key = Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="only where the service has a key"))
router = APIRouter(responses=PROBLEMS, dependencies=[with_key])
open_router = APIRouter()


class Service:
    """An index, what asks it, and what counts the questions."""

    def __init__(self, current: Current, settings: Settings) -> None:
        self.current, self.settings, self.measures = current, settings, Measures()
        self.limits = Limits(most_pixels=settings.most_pixels)
        self.decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="vlp-decode")
        self.filterers = ThreadPoolExecutor(2, thread_name_prefix="vlp-filter")
        self.fetchers = ThreadPoolExecutor(4, thread_name_prefix="vlp-fetch")
        gather = settings.gather_ms / 1000
        self.batcher = Batcher(most=settings.batch, gather=gather, seen=self.measures.batch.observe)

    def text(self, text: str, weight: float) -> Part:
        """A part in words. Raises HTTPException for one that is too long."""
        if len(text) > self.settings.most_text:
            raise HTTPException(
                422, f"a text has {len(text):,} characters; at most {self.settings.most_text:,} are read"
            )
        return Part(weight, text=printable(text))

    async def picture(self, version: Version, data: bytes, weight: float) -> Part:
        """A part that is a picture, decoded in a thread for a version's model. Raises HTTPException if it cannot be."""

        def prepared() -> Any:
            return version.release.transform(decode(data, self.limits))

        try:
            return Part(weight, pixels=await asyncio.get_running_loop().run_in_executor(self.decoders, prepared))
        except Refused as error:
            raise HTTPException(422, f"the picture cannot be read: {error}; give a PNG, JPEG or WebP") from None

    async def picture_at(self, version: Version, url: str, weight: float) -> Part:
        """A part that is a picture of the web. Raises HTTPException where none may be fetched."""
        if not self.settings.fetch_urls:
            raise HTTPException(422, "this service fetches no addresses; send the picture itself")
        most, patience = self.settings.most_body, self.settings.patience / 2
        data = await asyncio.get_running_loop().run_in_executor(self.fetchers, fetched, url, most, patience)
        return await self.picture(version, data, weight)

    async def like(self, version: Version, key: str, weight: float) -> Part:
        """A part that is a picture of the index, by its key. Raises UserError where it has none."""

        def known() -> tuple[Any, bytes]:
            row = version.gallery.with_key(key)
            vector = version.gallery.vector(row)
            small = b"" if vector is not None else dict(version.gallery.rows.at(np.array([row])))[row]["thumbnail"]
            return vector, small

        vector, small = await asyncio.get_running_loop().run_in_executor(self.decoders, known)
        return await self.picture(version, small, weight) if vector is None else Part(weight, vector=vector)

    async def among(self, version: Version, where: str) -> Ints | None:
        """The ids that fulfil `where`, found in a thread; None for "". Raises HTTPException or UserError."""
        if not where.strip():
            return None
        most, seconds = self.settings.most_where, self.settings.filter_seconds
        if len(where) > most:
            raise HTTPException(422, f"the filter has {len(where):,} characters; at most {most:,} are read")
        ask = partial(version.gallery.filters.ids, where, seconds=seconds)
        return await asyncio.get_running_loop().run_in_executor(self.filterers, ask)

    async def answer(
        self, version: Version, parts: Sequence[Part], k: int, *, where: str = "", fold: float | None = None
    ) -> list[Hit]:
        """The matches. Raises HTTPException for a question without parts or with too many, or too large a K.

        And UserError for a filter that cannot be answered.
        """
        if not parts:
            raise HTTPException(422, "the question is empty; give a text or a picture")
        if len(parts) > self.settings.most_parts:
            raise HTTPException(
                422, f"the question has {len(parts)} parts; at most {self.settings.most_parts} are read"
            )
        if k > self.settings.most_k:
            raise HTTPException(422, f"k is {k:,}; at most {self.settings.most_k:,} matches are given")
        among = await self.among(version, where)
        return await self.batcher.ask(Question(version, tuple(parts), k, among, fold, self.settings.most_seen))

    async def watch(self) -> None:
        """Take up new versions of the index until cancelled."""
        while True:
            self.measures.index(self.current.version.gallery, self.current.swaps)
            await asyncio.sleep(self.settings.look_every)
            try:
                await asyncio.to_thread(self.current.look)
            except Exception:  # the version before goes on answering
                log.exception("a new version of the index could not be opened")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _matches(version: Version, hits: Sequence[Hit], pictures: bool, start: float) -> JSONResponse:
    rows = [match(hit, pictures=pictures) for hit in hits]
    seconds = round(time.perf_counter() - start, 6)
    count, of = len(version.gallery.vectors), version.gallery.of
    return JSONResponse({"matches": rows, "seconds": seconds, "pictures": count, "of": of})


@router.get("/search", response_model=Matches)
async def search_text(
    request: Request,
    *,
    text: Annotated[str, Query(description="what to look for, in any language the model knows")] = "",
    like: Annotated[str, Query(description=LIKE)] = "",
    where: Annotated[str, Query(description=WHERE)] = "",
    k: Annotated[int, Query(ge=1, description="how many matches")] = 24,
    pictures: Annotated[bool, Query(description="whether matches have their small pictures")] = True,
    fold: Annotated[float | None, Query(ge=-1, le=1, allow_inf_nan=False, description=FOLDING)] = None,
) -> Response:
    """The pictures nearest to a text, to a picture of the index, or to both."""
    service, start = _service(request), time.perf_counter()
    version = service.current.version
    parts = [service.text(text, 1.0)] if text else []
    parts += [await service.like(version, like, 1.0)] if like else []
    hits = await service.answer(version, parts, k, where=where, fold=fold)
    return _matches(version, hits, pictures, start)


@router.post("/search", response_model=Matches)
async def search(
    request: Request,
    *,
    text: Annotated[str, Form(description="what to look for")] = "",
    image: Annotated[UploadFile | None, Form(description="picture to look for")] = None,
    image_url: Annotated[str, Form(description="address of a picture, where the service fetches any")] = "",
    like: Annotated[str, Form(description=LIKE)] = "",
    more: Annotated[list[str], Form(description="texts that the matches should be more like")] = [],  # noqa: B006
    less: Annotated[list[str], Form(description="texts that the matches should be less like")] = [],  # noqa: B006
    more_image: Annotated[list[UploadFile], Form(description="pictures to be more like")] = [],  # noqa: B006
    less_image: Annotated[list[UploadFile], Form(description="pictures to be less like")] = [],  # noqa: B006
    more_like: Annotated[list[str], Form(description="keys of pictures of the index to be more like")] = [],  # noqa: B006
    less_like: Annotated[list[str], Form(description="keys of pictures of the index to be less like")] = [],  # noqa: B006
    text_weight: Weight = 1.0,
    image_weight: Weight = 1.0,
    strength: Annotated[
        float, Form(ge=0, le=FAR, allow_inf_nan=False, description="weight of each more and less")
    ] = 0.5,
    where: Annotated[str, Form(description=WHERE)] = "",
    k: Annotated[int, Form(ge=1, description="how many matches")] = 24,
    pictures: Annotated[bool, Form(description="whether matches have their small pictures")] = True,
    fold: Annotated[float | None, Form(ge=-1, le=1, allow_inf_nan=False, description=FOLDING)] = None,
) -> Response:
    """The pictures nearest to a question of several parts: the direction of the sum of their weighted unit vectors."""
    service, start = _service(request), time.perf_counter()
    version = service.current.version
    if len([*more, *less, *more_image, *less_image, *more_like, *less_like]) > service.settings.most_parts:
        raise HTTPException(422, f"the question has too many parts; at most {service.settings.most_parts} are read")
    parts = [service.text(text, text_weight)] if text else []
    parts += [service.text(one, strength) for one in more if one] + [
        service.text(one, -strength) for one in less if one
    ]
    if image is not None:
        parts.append(await service.picture(version, await image.read(), image_weight))
    if image_url:
        parts.append(await service.picture_at(version, image_url, image_weight))
    parts += [await service.like(version, like, image_weight)] if like else []
    for keys, weight in ((more_like, strength), (less_like, -strength)):
        parts += [await service.like(version, key, weight) for key in keys if key]
    for files, weight in ((more_image, strength), (less_image, -strength)):
        parts += [await service.picture(version, await file.read(), weight) for file in files]
    hits = await service.answer(version, parts, k, where=where, fold=fold)
    return _matches(version, hits, pictures, start)


KNN_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": Knn.model_json_schema()}}}}


@router.post("/knn-service", response_model=list[KnnMatch], openapi_extra=KNN_BODY)
async def knn_service(request: Request) -> Response:
    """What clip-retrieval's client asks: the same question, the same fields of the answer. It names no content type."""
    service = _service(request)
    try:
        asked = Knn.model_validate_json(await request.body())
    except ValidationError as error:
        raise HTTPException(422, sentence(error.errors(include_url=False))) from None
    version = service.current.version
    holds = "image" if version.gallery.of == "pictures" else "text"
    if asked.modality != holds:
        of = version.gallery.of
        raise HTTPException(422, f'modality is "{asked.modality}", but this index holds {of}; ask for "{holds}"')
    parts = await _knn_parts(service, version, asked)
    fold = FOLD if asked.deduplicate else None
    hits = await service.answer(version, parts, asked.num_images, where=asked.where, fold=fold)
    return JSONResponse([knn_match(hit) for hit in hits])


async def _knn_parts(service: Service, version: Version, asked: Knn) -> list[Part]:
    if asked.embedding_input is not None:
        vector, dim = np.asarray(asked.embedding_input, np.float64), version.gallery.vectors.dim
        largest = float(np.abs(vector).max(initial=0))
        if len(vector) != dim or not np.isfinite(largest) or largest == 0:
            raise HTTPException(422, f"embedding_input should be {dim} finite numbers that are not all 0")
        vector = vector / largest  # so that no square overflows
        return [Part(1.0, vector=np.asarray(vector / np.linalg.norm(vector), np.float32))]
    parts = [service.text(asked.text, 1.0)] if asked.text else []
    if asked.image:
        try:
            data = base64.b64decode(asked.image, validate=True)
        except (ValueError, binascii.Error):
            raise HTTPException(422, "image should be a picture in base64") from None
        parts.append(await service.picture(version, data, 1.0))
    if asked.image_url:
        parts.append(await service.picture_at(version, asked.image_url, 1.0))
    return parts


@router.get("/columns", response_model=Columns)
async def columns(request: Request) -> Response:
    """What a filter may name, in the index that is asked now."""
    service = _service(request)
    filters = service.current.version.gallery.filters
    loop = asyncio.get_running_loop()
    kinds = await loop.run_in_executor(service.filterers, filters.columns)
    values = await loop.run_in_executor(service.filterers, filters.examples)
    rows = [{"name": name, "type": kind, "values": values[name]} for name, kind in kinds.items()]
    return JSONResponse({"columns": rows})


@open_router.get("/health", response_model=Health)
async def health(request: Request) -> Health:
    """Whether the service answers, and from what."""
    current = _service(request).current
    version = current.version
    gallery = version.gallery
    measured = gallery.about.get("measured", {})
    return Health(
        status="ok",
        pictures=len(gallery.vectors),
        of=gallery.of,
        model=version.release.id[:12],
        swaps=current.swaps,
        recall=measured.get("recall"),
        recall_built=measured.get("built"),
        recall_fallen=fallen(measured),
    )


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    return Response(_service(request).measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@open_router.get("/", response_class=HTMLResponse)
async def page(request: Request) -> Response:
    """The page."""
    html = service_page()
    return HTMLResponse(html, headers={"Content-Security-Policy": policy(html)})


@contextlib.asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    tasks = [asyncio.create_task(service.batcher.run()), asyncio.create_task(service.watch())]
    try:
        yield
    finally:  # no request waits any more: the server has answered them all
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pool in (service.batcher.thread, service.decoders, service.fetchers, service.filterers):
            pool.shutdown(wait=False, cancel_futures=True)


def create_app(current: Current, settings: Settings, key: str = "") -> FastAPI:
    """The service over an open index. `key`: what requests have to bring, "" for nothing."""
    app = FastAPI(
        title="vlp serve",
        version=__version__,
        description="Pictures by text, by picture, and by both.",
        lifespan=_life,
        docs_url=None,  # its page loads scripts of other hosts
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        form_limits={"max_fields": 200, "max_files": settings.most_parts + 1, "max_part_size": 100_000},
        redirect_slashes=False,
    )
    app.state.service = service = Service(current, settings)
    app.include_router(router)
    app.include_router(open_router)
    app.add_exception_handler(UserError, user_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_middleware(Gate, settings=settings, key=key, measures=service.measures)
    return app
