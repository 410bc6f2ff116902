"""`vlp embed`: a model's embeddings of a shard set, one part per shard, resumable, by any number of ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from data_pipelines.ledger import Ledger
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings import store
from eval.embeddings.encode import data_sha256, embedded_pictures, left_out, located
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.lock import locked

if TYPE_CHECKING:
    from data_pipelines.sample import Sample
    from vlp.models.release import Release


def embed(
    release: Release,
    spec: str,
    out: Path,
    *,
    rank: int = 0,
    size: int = 1,
    dtype: Literal["float32", "float16"] = "float32",
    skip_damaged: bool = False,
    skip: Ledger | None = None,
) -> int:
    """Write the parts of `out` that are missing and fall to this rank; give back how many were written.

    What cannot be read is counted in `skip`. No ranks talk to each other: part i is the work of rank i mod size. Raises
    UserError if `out` was begun with another model, other data or another dtype, if another program writes one of these
    parts, or, unless `skip_damaged`, if a shard is damaged.
    """
    import tomli_w

    if not 0 <= rank < size:
        raise UserError(f"--rank is {rank} and --size {size}, but ranks are numbers from 0 to size - 1")
    shards = ShardSet.open(spec)
    about = {
        "format": store.FORMAT,
        "parts": len(shards.urls),
        "dtype": dtype,
        "model": {"id": release.id, "name": release.name},
        "data": {"spec": located(spec), "sha256": data_sha256(shards)},
    }
    with locked(out, wait_s=30.0):  # other ranks come to the same line at the same time
        begun = store.about(out)
        if begun:
            _refuse_other(out, begun, about)
        else:
            write_whole(out / "store.toml", tomli_w.dumps(about))
    digits = len(str(len(shards.urls) - 1))
    skip, written = Ledger() if skip is None else skip, 0
    for i in range(rank, len(shards.urls), size):
        part = f"{i:0{digits}d}"
        if not store.has_part(out, part):
            with locked(out, f".part-{part}.lock", what=out):
                if not store.has_part(out, part):  # another program may have written it just now
                    _write_part(release, _only(shards, i), out, part=part, dtype=dtype, skip=skip, damaged=skip_damaged)
                    written += 1
    return written


def _refuse_other(out: Path, begun: dict[str, Any], about: dict[str, Any]) -> None:
    """Raise UserError if the store in `out` was begun as another than `about`."""
    if begun.get("format") == store.WITHOUT_SUMS:
        raise UserError(f"{out} was begun by an earlier version, without checksums; choose another folder")
    begun_as, now = (_identity(tree) for tree in (begun, about))
    if begun_as != now:
        differs = next(key for key in now if now[key] != begun_as[key])
        what = f"another {differs} ({begun.get(differs)}, now {about[differs]})"
        raise UserError(f"{out} was begun with {what}; choose another folder")


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for two parts of one store; the names of a model and of data may differ."""
    data = about.get("data", {})
    own = {key: about.get(key) for key in ("format", "parts", "dtype")}
    return {**own, "model": about.get("model", {}).get("id"), "data": data.get("sha256") or data.get("spec")}


def _only(shards: ShardSet, i: int) -> ShardSet:
    own = slice(i, i + 1)
    return replace(
        shards, urls=shards.urls[own], counts=shards.counts[own], bytes=shards.bytes[own], sha256=shards.sha256[own]
    )


def _write_part(
    release: Release, shards: ShardSet, out: Path, *, part: str, dtype: str, skip: Ledger, damaged: bool
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    samples: list[Sample] = []
    vectors: list[NDArray[np.float32]] = []
    for _, some, embedded in embedded_pictures(release, shards, skip, skip_damaged=damaged, what=f"part {part}"):
        samples += some
        vectors.append(embedded)
    if not samples and not damaged:
        raise UserError(f"{shards.urls[0]} has no readable picture; check it with `vlp shards verify`")
    if not samples:
        vectors.append(np.asarray(release.embed_images([]), np.float32))  # [0, D]
    captions = [first_caption(s.captions) for s in samples]
    texts = np.asarray(release.embed_texts(captions), np.float32)
    rows = {
        "key": [s.key for s in samples],
        "image_path": [s.key for s in samples],
        "caption": captions,
        "captions": [json.dumps(s.captions, ensure_ascii=False) for s in samples],
        "shard": [located(shards.urls[0])] * len(samples),
    }
    table = pa.table(rows, schema=pa.schema({name: pa.string() for name in rows}))
    write_whole(store.file_of(out, "img_emb", part), _npy(np.concatenate(vectors).astype(dtype)))
    write_whole(store.file_of(out, "text_emb", part), _npy(texts.astype(dtype)))
    write_whole(store.file_of(out, "metadata", part), lambda path: pq.write_table(table, path))
    store.finish_part(out, part)


def _npy(array: NDArray[Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array)

    return write


def main(argv: list[str]) -> int:
    """`vlp embed MODEL SHARDS OUT`."""
    from vlp.models import release

    def command(
        model: Annotated[Positional[str], arg(metavar="MODEL")],
        shards: Annotated[Positional[str], arg(metavar="SHARDS")],
        out: Annotated[Positional[Path], arg(metavar="OUT")],
        *,
        dtype: Literal["float32", "float16"] = "float32",
        device: str = "cpu",
        random_weights: bool = False,
        trust: bool = False,
        skip_damaged: bool = False,
        rank: Annotated[int, arg(help="which worker this is; torchrun and Slurm set it")] = int(
            os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
        ),
        size: Annotated[int, arg(help="how many workers there are")] = int(
            os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))
        ),
    ) -> int:
        """Embed the pictures and captions of a shard set, one part per shard. Run it again to go on where it was.

        Args:
            model: model folder (RUN/model), or an open_clip name such as ViT-B-32:laion2b_s34b_b79k.
            shards: folder with a manifest, glob, brace range, union (a::b) or bundled:NAME.
            out: folder for the parts; clip-retrieval reads it too.
            dtype: float32 is exact, float16 takes half the space.
            device: cpu, cuda, cuda:1 ...
            random_weights: take an open_clip name without a tag, whose weights are random.
            trust: run code that the model's folder names and that is no part of vlp.
            skip_damaged: go on without what a damaged shard has lost, counted and said, instead of refusing it.
        """
        skip = Ledger()
        written = embed(
            release.load(model, device, random_weights=random_weights, trust=trust),
            shards,
            out,
            rank=rank,
            size=size,
            dtype=dtype,
            skip_damaged=skip_damaged,
            skip=skip,
        )
        print(f"{out}: {written} parts written{left_out(skip)}")
        print(f"try next:  vlp index build {model} {out} {out}.index")
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp embed"))


def first_caption(captions: dict[str, str]) -> str:
    """The English caption if there is one, else the first."""
    return captions.get("en") or next(iter(captions.values()), "")
