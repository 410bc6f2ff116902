"""`vlp embed`: a model's embeddings of a shard set, one part per shard, resumable, by any number of ranks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from eval.embeddings import store
from eval.embeddings.encode import data_sha256, embedded_pictures
from vlp.errors import UserError
from vlp.files import write_whole

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
) -> int:
    """Write the parts of `out` that are missing and fall to this rank; give back how many were written.

    No ranks talk to each other: part i is the work of rank i mod size. Raises UserError if `out` was begun with another
    model, other data or another dtype.
    """
    import tomli_w

    from data_pipelines.shards.shard_set import ShardSet

    if not 0 <= rank < size:
        raise UserError(f"--rank is {rank} and --size {size}, but ranks are numbers from 0 to size - 1")
    shards = ShardSet.open(spec)
    about = {
        "format": store.FORMAT,
        "parts": len(shards.urls),
        "dtype": dtype,
        "model": {"id": release.id, "name": release.name},
        "data": {"spec": spec, "sha256": data_sha256(shards)},
    }
    begun = store.about(out)
    if begun and begun != about:
        differs = next(key for key in about if about[key] != begun.get(key))
        raise UserError(
            f"{out} was begun with another {differs} ({begun.get(differs)}, now {about[differs]}); "
            "choose another folder"
        )
    write_whole(out / "store.toml", tomli_w.dumps(about), shared=True)
    digits = len(str(len(shards.urls) - 1))
    mine = [(f"{i:0{digits}d}", i) for i in range(rank, len(shards.urls), size)]
    missing = [(part, i) for part, i in mine if not (out / "metadata" / f"metadata_{part}.parquet").is_file()]
    for part, i in missing:
        _write_part(release, shards.urls[i], out, part=part, dtype=dtype)
    return len(missing)


def _write_part(release: Release, shard: str, out: Path, *, part: str, dtype: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_pipelines.ledger import Ledger
    from data_pipelines.shards.shard_set import ShardSet

    samples: list[Sample] = []
    vectors: list[NDArray[np.float32]] = []
    for _, some, embedded in embedded_pictures(release, ShardSet.open(shard), Ledger(), what=f"part {part}"):
        samples += some
        vectors.append(embedded)
    if not samples:
        raise UserError(f"{shard} has no readable picture; check it with `vlp shards verify`")
    captions = [first_caption(s.captions) for s in samples]
    texts = np.asarray(release.embed_texts(captions), np.float32)
    table = pa.table(
        {
            "key": [s.key for s in samples],
            "image_path": [s.key for s in samples],
            "caption": captions,
            "captions": [json.dumps(s.captions, ensure_ascii=False) for s in samples],
            "shard": [shard] * len(samples),
        }
    )
    # The metadata go last: a part that has them is whole, whenever the work was cut off.
    write_whole(out / "img_emb" / f"img_emb_{part}.npy", _npy(np.concatenate(vectors).astype(dtype)))
    write_whole(out / "text_emb" / f"text_emb_{part}.npy", _npy(texts.astype(dtype)))
    write_whole(out / "metadata" / f"metadata_{part}.parquet", lambda path: pq.write_table(table, path))


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
        """
        written = embed(
            release.load(model, device, random_weights=random_weights, trust=trust),
            shards,
            out,
            rank=rank,
            size=size,
            dtype=dtype,
        )
        print(f"{out}: {written} parts written")
        print(f"try next:  vlp index build {model} {out} {out}.index")
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp embed"))


def first_caption(captions: dict[str, str]) -> str:
    """The English caption if there is one, else the first."""
    return captions.get("en") or next(iter(captions.values()), "")
