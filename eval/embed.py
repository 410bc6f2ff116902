"""`vlp embed`: a model's embeddings of a shard set, one part per shard, resumable, by any number of ranks.

The folder has the layout of clip-retrieval (img_emb/*.npy, text_emb/*.npy, metadata/*.parquet), so its tools read ours
and `EmbeddingStore` reads theirs. Ours adds store.toml: which model and which data the vectors are of.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from eval.progress_bar import progress_bar
from vlp.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

    from data_pipelines.ledger import Ledger
    from data_pipelines.sample import Sample
    from data_pipelines.shard_set import ShardSet
    from vlp.models.release import Release

FORMAT = "vlp-embeddings-1"
PICTURES_AT_ONCE = 256
DAMAGE = ("unreadable shard", "corrupt tar", "truncated tail")
log = logging.getLogger("vlp.eval")


def picture_of(sample: Sample, url: str, skip: Ledger) -> Image | None:
    """The picture of a sample in RGB; or None, counted in `skip` and named in the log, when it cannot be decoded."""
    from data_pipelines.decode import Limits, Refused, decode

    try:
        return decode(sample.image, Limits())
    except Refused as error:
        skip.drop(str(error), url)
        log.warning("skipped %s of %s: %s", sample.key, url, error)
        return None


class Embedded(NamedTuple):
    """Some samples of one shard, with the vectors of their pictures."""

    url: str
    samples: list[Sample]
    image: NDArray[np.float32]  # [n, D], unit norm


def embedded_pictures(
    release: Release, shards: ShardSet, skip: Ledger, *, what: str = "embedding pictures", bar: bool = True
) -> Iterator[Embedded]:
    """All samples, some at a time, with the vectors of their pictures.

    Single samples that cannot be read are left out and counted in `skip`. Raises UserError for a shard that is damaged
    or cut short: numbers over an unknown part of the data would mean nothing.
    """
    from data_pipelines.stream import read_samples

    total = sum(shards.counts) if min(shards.counts) >= 0 else None
    with progress_bar(what, total, show=bar) as advance:
        for url in shards.urls:
            held: list[tuple[Sample, Image]] = []
            for sample in read_samples(url, skip=skip):
                advance(1)
                picture = picture_of(sample, url, skip)
                if picture is not None:
                    held.append((sample, picture))
                if len(held) == PICTURES_AT_ONCE:
                    yield _embed(release, url, held)
                    held = []
            if held:
                yield _embed(release, url, held)
            _refuse_damage(skip, url)


def _embed(release: Release, url: str, held: list[tuple[Sample, Image]]) -> Embedded:
    samples, pictures = zip(*held, strict=True)
    return Embedded(url, list(samples), np.asarray(release.embed_images(pictures), np.float32))


def _refuse_damage(skip: Ledger, url: str) -> None:
    for reason, shard in skip.drops:
        if reason in DAMAGE and shard.startswith(url):
            raise UserError(f"{shard} cannot be read to its end ({reason}); find out with: vlp shards verify {url}")


def data_sha256(shards: ShardSet) -> str:
    """One sha256 (hex) of all shards in order: of the manifest's checksums, or of the files where it has none.

    Remote shards without a checksum give "": nothing certain is known of them.
    """
    from vlp.models.release import sha256

    digest = hashlib.sha256()
    for url, known in zip(shards.urls, shards.sha256, strict=True):
        if not known and not Path(url).is_file():
            return ""
        digest.update((known or sha256(Path(url))).encode())
    return digest.hexdigest()


def first_caption(captions: dict[str, str]) -> str:
    """The English caption if there is one, else the first."""
    return captions.get("en") or next(iter(captions.values()), "")


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then move it into place, so that `path` is never half-written.

    Raises UserError when the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno not in (28, 122):  # ENOSPC, EDQUOT
            raise
        raise UserError(f"the disk is full: {path} could not be written; free some space and run again") from None
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class EmbeddingStore:
    """A folder of embeddings, ours or clip-retrieval's."""

    folder: Path
    parts: tuple[str, ...]  # the suffix that a part's three files share, in order
    model: str  # id of the model; "" where the folder does not say (clip-retrieval's does not)
    data: str  # sha256 of the data, or ""

    @classmethod
    def open(cls, folder: Path) -> EmbeddingStore:
        """The store in `folder`. Raises UserError if it is none, or if a part is missing."""
        names = sorted(path.stem.removeprefix("img_emb_") for path in (folder / "img_emb").glob("img_emb_*.npy"))
        if not names:
            raise UserError(f"{folder} holds no embeddings: there is no img_emb/img_emb_*.npy in it")
        about = _about(folder)
        if about and len(names) != about["parts"]:
            raise UserError(
                f"{folder} has {len(names)} of {about['parts']} parts; run the same `vlp embed` again to finish it"
            )
        return cls(folder, tuple(names), about.get("model", {}).get("id", ""), about.get("data", {}).get("sha256", ""))

    def images(self, part: str) -> NDArray[Any]:
        """[n, D] image vectors of one part, mapped from the disk."""
        return np.asarray(np.load(self.folder / "img_emb" / f"img_emb_{part}.npy", mmap_mode="r"))

    def texts(self, part: str) -> NDArray[Any]:
        """[n, D] vectors of the first captions of one part, mapped from the disk."""
        return np.asarray(np.load(self.folder / "text_emb" / f"text_emb_{part}.npy", mmap_mode="r"))

    def rows(self, part: str) -> pa.Table:
        """One row a picture, at least the columns `image_path` or `key`, and `caption`."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "metadata" / f"metadata_{part}.parquet")


def _about(folder: Path) -> dict[str, Any]:
    path = folder / "store.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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

    from data_pipelines.shard_set import ShardSet

    shards = ShardSet.open(spec)
    about = {
        "format": FORMAT,
        "parts": len(shards.urls),
        "dtype": dtype,
        "model": {"id": release.id, "name": release.name},
        "data": {"spec": spec, "sha256": data_sha256(shards)},
    }
    begun = _about(out)
    if begun and begun != about:
        differs = next(key for key in about if about[key] != begun.get(key))
        raise UserError(
            f"{out} was begun with another {differs} ({begun.get(differs)}, now {about[differs]}); "
            "choose another folder"
        )
    write_whole(out / "store.toml", lambda path: path.write_text(tomli_w.dumps(about), encoding="utf-8"))
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
    from data_pipelines.shard_set import ShardSet

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
        """
        written = embed(release.load(model, device), shards, out, rank=rank, size=size, dtype=dtype)
        print(f"{out}: {written} parts written")
        print(f"try next:  vlp index build {model} {out} {out}.index")
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp embed"))
