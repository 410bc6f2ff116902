"""`vlp index build`: embed the pictures of a shard set (or take a folder of embeddings) and index them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from data_pipelines.ledger import Ledger
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.encode import data_sha256, embedded_pictures, left_out, located
from eval.embeddings.store import EmbeddingStore
from eval.index import Index
from eval.search.gallery import FORMAT, ROWS_PER_GROUP, Gallery, one_shard
from vlp.config import build, component, component_name, did_you_mean, to_tree
from vlp.errors import UserError
from vlp.files import sha256, write_whole
from vlp.legible import plain
from vlp.lock import locked
from vlp.pictures import Limits, Refused, decode, opened

if TYPE_CHECKING:
    import pyarrow as pa

    from vlp.models.release import Release

THUMBNAIL = 96  # pixels
Part = tuple["pa.Table", NDArray[np.float32]]
FILES = ("index.faiss", "rows.parquet", "index.faiss.removed.npy")


def refuse_other_folder(out: Path) -> None:
    """Raise UserError if `out` holds something that is not an index."""
    if out.exists() and any(out.iterdir()) and not (out / "index.toml").is_file():
        raise UserError(f"{out} is there already and is not an index; choose another folder")


def build_gallery(
    release: Release,
    spec: str,
    out: Path,
    *,
    kind: Index,
    thumbnail: int | None = None,
    skip_damaged: bool = False,
    skip: Ledger | None = None,
) -> Gallery:
    """Embed the pictures of `spec` (or take a folder of embeddings), index them, and write the folder as a whole.

    thumbnail: the longer side of the small pictures that are kept, pixels; 0 keeps none, hits are then read from their
    shards; None: 96 for shards, none for embeddings, whose pictures would have to be read again. What cannot be read is
    counted in `skip`. Raises UserError if `out` is something other than an index, if another program writes it, if the
    disk is full, or, unless `skip_damaged`, if a shard is damaged.
    """
    refuse_other_folder(out)
    with locked(out.parent, f".{out.name}.lock", what=out):
        skip = Ledger() if skip is None else skip
        if (Path(spec) / "img_emb").is_dir():
            parts, digest = _from_store(Path(spec), release, thumbnail or 0)
        else:
            side = THUMBNAIL if thumbnail is None else thumbnail
            parts, digest = _from_shards(release, spec, side, skip_damaged=skip_damaged, skip=skip)
        about = {
            "model": {"id": release.id, "name": release.name, "beside": _beside(release.name, out)},
            "data": {"spec": located(spec), "sha256": digest, "left_out": skip.by_reason()},
        }
        return _write_gallery(parts, out, kind=kind, about=about)


def _write_gallery(parts: list[Part], out: Path, *, kind: Index, about: dict[str, Any]) -> Gallery:
    import tomli_w

    tables, arrays = zip(*parts, strict=True)
    images = np.concatenate(arrays)
    kind.check(len(images))
    vectors = kind.empty(images.shape[1])
    vectors.train(images)
    vectors.add(images, np.arange(len(images)))

    temporary = out.with_name(f".{out.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)  # of a build that was killed
    temporary.mkdir(parents=True)
    try:
        write_whole(temporary / "index.faiss", vectors.save)
        write_whole(temporary / "rows.parquet", lambda path: _write_rows(list(tables), path))
        whole = {
            "format": FORMAT,
            "count": len(images),
            "dim": images.shape[1],
            "metric": "cosine",
            "kind": {"name": component_name(kind, Index), **to_tree(kind)},
            **about,
            "sha256": {file: sha256(temporary / file) for file in FILES if (temporary / file).is_file()},
        }
        write_whole(temporary / "index.toml", tomli_w.dumps(whole))
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Gallery.open(out)


def _beside(model: str, out: Path) -> str:
    """Relative path from the index to the model's folder; "" when the model is a name and no folder."""
    return os.path.relpath(Path(model).resolve(), out.resolve()) if Path(model).is_dir() else ""


def _write_rows(tables: list[pa.Table], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.concat_tables(tables), path, row_group_size=ROWS_PER_GROUP)


def _table(keys: list[str], captions: list[str], shards: list[str], thumbnails: list[bytes]) -> pa.Table:
    import pyarrow as pa

    rows = {"key": keys, "captions": captions, "shard": shards, "thumbnail": thumbnails}
    kinds = {"key": pa.string(), "captions": pa.string(), "shard": pa.string(), "thumbnail": pa.binary()}
    return pa.table(rows, schema=pa.schema(kinds))


def _from_shards(
    release: Release, spec: str, thumbnail: int, *, skip_damaged: bool, skip: Ledger
) -> tuple[list[Part], str]:
    """Rows and vectors of every shard, and the sha256 of the data."""
    shards = ShardSet.open(spec)
    parts: list[Part] = []
    embedded = embedded_pictures(release, shards, skip, skip_damaged=skip_damaged, what="indexing pictures")
    for url, samples, vectors in embedded:
        small = [shrunk(s.image, thumbnail) if thumbnail else b"" for s in samples]
        said = [json.dumps(s.captions, ensure_ascii=False) for s in samples]
        parts.append((_table([s.key for s in samples], said, [located(url)] * len(samples), small), vectors))
    if not parts:
        raise UserError(f"{spec} has no readable picture to index; check it with: vlp shards verify {spec}")
    return parts, data_sha256(shards)


def _from_store(folder: Path, release: Release, thumbnail: int) -> tuple[list[Part], str]:
    """Rows and vectors of a folder of embeddings, and the sha256 of its data where the folder tells."""
    store = EmbeddingStore.open(folder)
    if store.model not in (release.id, ""):
        raise UserError(
            f"{folder} was embedded by the model {store.model[:12]}, not by {release.id[:12]} ({release.name})"
        )
    return list(_stored_parts(store, thumbnail)), store.data


def _stored_parts(store: EmbeddingStore, thumbnail: int) -> Iterator[Part]:
    for part in store.parts:
        rows = store.rows(part).to_pylist()
        keys = [str(row.get("key") or row.get("image_path") or i) for i, row in enumerate(rows)]
        captions = [row.get("captions") or json.dumps({"en": row.get("caption") or ""}) for row in rows]
        shards = [str(row.get("shard") or "") for row in rows]
        vectors = np.asarray(store.images(part), np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # float16 parts are of unit norm only nearly
        small = _thumbnails(keys, shards, thumbnail) if thumbnail else [b""] * len(rows)
        yield _table(keys, captions, shards, small), np.asarray(vectors / norms)


def _thumbnails(keys: list[str], shards: list[str], side: int) -> list[bytes]:
    """The small pictures of rows, read from the shards that the rows name. Raises UserError if one is not there."""
    small: dict[tuple[str, str], bytes] = {}
    wanted = set(zip(shards, keys, strict=True))
    for shard in dict.fromkeys(shards):
        if not shard:
            raise UserError("--thumbnail wants pictures, but the rows of these embeddings do not say where theirs are")
        for sample in read_samples(one_shard(shard), skip=Ledger()):
            if (shard, sample.key) in wanted:
                with contextlib.suppress(Refused):
                    small[shard, sample.key] = shrunk(sample.image, side)
    missing = next((row for row in zip(shards, keys, strict=True) if row not in small), None)
    if missing:
        raise UserError(
            f"{missing[0]} is gone or no longer holds {plain(missing[1])}; embed again, or leave --thumbnail out"
        )
    return [small[row] for row in zip(shards, keys, strict=True)]


def shrunk(image: bytes, side: int) -> bytes:
    """The encoded picture itself if browsers know its kind and its longer side is at most `side` pixels.

    Any other becomes a WebP that small. Raises Refused.
    """
    with opened(image, Limits()) as picture:
        if max(picture.size) <= side and picture.format in ("PNG", "JPEG", "WEBP"):
            return image
    whole = decode(image, Limits())
    whole.thumbnail((side, side))
    file = BytesIO()
    whole.save(file, "webp", quality=85)
    return file.getvalue()


def main(argv: list[str]) -> int:
    """`vlp index build MODEL SHARDS OUT`."""
    from vlp.models import release

    def command(
        model: Annotated[Positional[str], arg(metavar="MODEL")],
        shards: Annotated[Positional[str], arg(metavar="SHARDS")],
        out: Annotated[Positional[Path], arg(metavar="OUT")],
        *,
        kind: str = "flat",
        option: tuple[str, ...] = (),
        thumbnail: int | None = None,
        device: str = "cpu",
        random_weights: bool = False,
        trust: bool = False,
        skip_damaged: bool = False,
    ) -> int:
        """Index the pictures of a shard set, to be searched by `vlp search`.

        Args:
            model: model folder (RUN/model), or an open_clip name such as ViT-B-32:laion2b_s34b_b79k.
            shards: folder with a manifest, glob, brace range, union (a::b), bundled:NAME, or a folder of `vlp embed`.
            out: folder of the index; it is written as a whole or not at all.
            kind: flat (exact), ivf, hnsw or pq; each is a file in eval/index.
            option: settings of the kind, such as cells=256 probes=32.
            thumbnail: longer side of the small pictures that are kept, pixels; 0 keeps none. Left out: 96 for shards, 0
                for a folder of embeddings, for which they are read from its shards.
            device: cpu, cuda, cuda:1 ...
            random_weights: take an open_clip name without a tag, whose weights are random.
            trust: run code that the model's folder names and that is no part of vlp.
            skip_damaged: go on without what a damaged shard has lost, counted and said, instead of refusing it.
        """
        if thumbnail is not None and thumbnail < 0:
            raise UserError(f"--thumbnail is {thumbnail}, but it should be 0 or more pixels")
        chosen, skip = chosen_kind(kind, option), Ledger()
        made = build_gallery(
            release.load(model, device, random_weights=random_weights, trust=trust),
            shards,
            out,
            kind=chosen,
            thumbnail=thumbnail,
            skip_damaged=skip_damaged,
            skip=skip,
        )
        print(f"{out}: {len(made.vectors):,} pictures, {kind}, {made.vectors.dim} dimensions{left_out(skip)}")
        print(f'try next:  vlp search {out} "a red apple"')
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp index build"))


def chosen_kind(name: str, settings: tuple[str, ...]) -> Index:
    """The kind `name` with these `key=value` settings. Raises UserError for an unknown kind or setting, or a bad value.

    >>> chosen_kind("ivf", ("cells=256",))
    Ivf(cells=256, probes=16, codes='float32')
    """
    options = _options(settings)
    known = [f.name for f in fields(component(Index, name))]
    for key in options:
        if key not in known:
            has = did_you_mean(key, known) if known else "; it has none"
            raise UserError(f'an index of kind {name} has no option "{key}"{has}')
    return build(Index, {"name": name, **options}, "option")


def _options(settings: tuple[str, ...]) -> dict[str, Any]:
    """`cells=256` as TOML would read it; bare words are strings."""
    options: dict[str, Any] = {}
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise UserError(f'"{setting}" is no option of an index; write it as key=value, such as cells=256')
        key = key.strip()
        try:
            options[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[key] = value
    return options
