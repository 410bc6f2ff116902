"""`vlp index build`: embed the pictures of a shard set (or take a folder of embeddings) and index them."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from tyro.conf import Positional, arg

from data_pipelines.ledger import Ledger
from eval.embeddings.encode import left_out
from eval.index import Index, Ints, Vectors
from eval.search.captioned import KINDS
from eval.search.choose import Budget, as_json, bytes_of, choose, seconds_of, tuned
from eval.search.columns import write_columns
from eval.search.fill import SAVED_EVERY_S, filled
from eval.search.freed import give_back
from eval.search.frontier import frontier_of, page, print_frontier
from eval.search.gallery import Gallery
from eval.search.parts import Parts
from eval.search.recall import exact, kept_queries, recall, said
from eval.search.shares import follow, led
from eval.search.spool import Spool, npy, vectors_of
from eval.search.versions import PROGRESS, discard, next_version, seal
from vlp.config import build, component, component_name, did_you_mean, to_tree
from vlp.errors import UserError
from vlp.files import write_whole

if TYPE_CHECKING:
    from vlp.models.release import Release

RANK = arg(help="which of several processes this is; 0 leads. torchrun and Slurm set it")
OF = arg(help="what is searched: pictures, or their captions, all of them, a row each (of embeddings those it has)")
URI = arg(help="where kind milvus keeps it: http://HOST:19530, or a file that ends in .db. Left out: in OUT")
SHARE = arg(metavar="SHARE", help="choose the kind by measuring, with this recall@10 of real queries at least: 0.95")
SIZE = arg(help="how many processes fill this index together, on one file system")


def build_gallery(
    release: Release,
    spec: str,
    out: Path,
    *,
    kind: Index | Budget,
    of: Literal["pictures", "captions"] = "pictures",
    thumbnail: int | None = None,
    skip_damaged: bool = False,
    skip: Ledger | None = None,
    saved_every_s: float = SAVED_EVERY_S,
    size: int = 1,
) -> Gallery:
    """Embed the pictures of `spec` (or take a folder of embeddings), index them, and write a version of `out`.

    kind: what to build, or the limits within which it is chosen. of: what is searched, pictures or all their captions.
    thumbnail: the longer side of the small pictures that are kept, pixels; 0 keeps none, hits are then read from their
    shards; None: 96 for shards, none for embeddings and captions. size: how many processes fill it; this one leads, the
    others `follow` (eval/search/shares.py).
    What cannot be read is counted in `skip`. A build that was killed goes on, if it is of the same. Raises UserError if
    `out` is something other than an index, if another program writes it, if the disk is full, if no kind keeps within
    the limits, or, unless `skip_damaged`, if a shard is damaged.
    """
    kind = kind.at(out) if isinstance(kind, Index) else kind
    with next_version(out, going_on=True, wait_s=2.0 if size > 1 else 0.0) as folder:
        parts = KINDS[of](release, spec, thumbnail=thumbnail, skip_damaged=skip_damaged, skip=skip)
        asked = tree_of(kind) if isinstance(kind, Index) else kind.tree()
        identity = {"model": release.id, "data": parts.sha256, "of": of, "thumbnail": thumbnail, "kind": asked}
        about = _spooled(release, parts, folder, out, identity)
        vectors, queries = vectors_of(folder), np.load(folder / "queries.npy")
        give_back()
        chosen = kind if isinstance(kind, Index) else _chosen(folder, vectors, queries, kind)
        give_back()
        if size > 1 or chosen.lists_on_disk():
            made = led(chosen, folder, vectors, size)
        else:
            made = filled(chosen, folder, vectors, saved_every_s=saved_every_s)
        truth = exact(vectors, made.live_ids(), queries)
        if isinstance(kind, Budget):
            made = tuned(made, queries, truth, kind)
            _write_page(folder, made.kind, out.name)
        write_version(made, folder, {**about, "model": model_of(release, out)}, truth)
        del made  # else it would be in memory twice
    return Gallery.open(out)


def write_version(made: Vectors, folder: Path, about: dict[str, Any], truth: Ints | None = None) -> None:
    """Write the index, columns and, last, index.toml; rows, vectors and queries are in `folder` already.

    truth: [Q, K] the exact answers to the queries, where they are known.
    """
    vectors, queries = vectors_of(folder), np.load(folder / "queries.npy")
    made.save(folder / made.kind.file)
    write_columns(folder)
    reached = recall(made, vectors, queries, truth)
    measured = about.get("measured", {})
    whole = {
        **about,
        "count": len(made),
        "dim": made.dim,
        "metric": "cosine",
        "kind": tree_of(made.kind),
        "measured": {**measured, "recall": reached, "built": measured.get("built", reached)},
    }
    seal(folder, whole)


def tree_of(kind: Index) -> dict[str, Any]:
    """A kind as index.toml has it."""
    return {"name": component_name(kind, Index), **to_tree(kind)}


def model_of(release: Release, out: Path) -> dict[str, str]:
    """Which model an index is of: its id, its name, and where its folder lies seen from the index, "" for a name."""
    folder = Path(release.name)
    beside = os.path.relpath(folder.resolve(), out.resolve()) if folder.is_dir() else ""
    return {"id": release.id, "name": release.name, "beside": beside}


def _spooled(release: Release, parts: Parts, folder: Path, out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Write rows, vectors and queries, unless a build of the same that was killed has; give back what they are."""
    begun = _progress(folder)
    if identity["data"] and begun.get("identity") == json.loads(json.dumps(identity)):
        return dict(begun["about"])
    discard(folder, out)
    folder.mkdir(exist_ok=True)
    with Spool(folder) as spool:
        for rows, vectors in parts.stream:
            spool.add(rows, vectors)
    if not spool.count:
        raise UserError(f"{parts.spec} holds no vectors; embed shards that have readable pictures")
    if parts.queries is not None:
        queries, measured = parts.queries(), "pictures"
    else:
        queries, measured = kept_queries(release, folder, parts.store)
    write_whole(folder / "queries.npy", npy(queries))
    about = {"of": parts.of, "data": parts.about(), "measured": {"of": measured, "queries": len(queries)}}
    write_whole(folder / PROGRESS, json.dumps({"identity": identity, "about": about}))
    return about


def _progress(folder: Path) -> dict[str, Any]:
    """What a build that was killed had written down; nothing where it had not come so far."""
    try:
        begun = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return begun if isinstance(begun, dict) else {}


def _chosen(folder: Path, vectors: NDArray[np.float32], queries: NDArray[np.float32], budget: Budget) -> Index:
    """The kind that is best within the limits; that of before, where a build that was killed had chosen."""
    path = folder / "chosen.json"
    if path.is_file() and (folder / "frontier.json").is_file():
        return build(Index, json.loads(path.read_text(encoding="utf-8")), "kind")
    kind, measured = choose(vectors, queries, budget)
    write_whole(folder / "frontier.json", as_json(measured))
    write_whole(path, json.dumps(tree_of(kind)))
    return kind


def _write_page(folder: Path, kind: Index, title: str) -> None:
    measured = frontier_of(folder / "frontier.json")
    write_whole(folder / "frontier.html", page(measured, tree_of(kind), title))


def main(argv: list[str]) -> int:
    """`vlp index build MODEL SHARDS OUT`."""
    from vlp.models import release

    def command(
        model: Annotated[Positional[str], arg(metavar="MODEL")],
        shards: Annotated[Positional[str], arg(metavar="SHARDS")],
        out: Annotated[Positional[Path], arg(metavar="OUT")],
        *,
        of: Annotated[Literal["pictures", "captions"], OF] = "pictures",
        kind: str = "",
        option: tuple[str, ...] = (),
        uri: Annotated[str, URI] = "",
        memory: str = "",
        recall: Annotated[float | None, SHARE] = None,
        latency: str = "",
        thumbnail: int | None = None,
        device: str = "cpu",
        random_weights: bool = False,
        trust: bool = False,
        skip_damaged: bool = False,
        rank: Annotated[int, RANK] = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))),
        size: Annotated[int, SIZE] = int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1"))),
    ) -> int:
        """Index the pictures of a shard set, to be searched by `vlp search`.

        Args:
            model: model folder (RUN/model), or an open_clip name such as ViT-B-32:laion2b_s34b_b79k.
            shards: folder with a manifest, glob, brace range, union (a::b), bundled:NAME, or a folder of `vlp embed`.
            out: folder of the index; a build adds a version to it, which counts when it is whole.
            kind: flat (exact), ivf, ivf_sq8, ivf_pq, opq, rabitq, hnsw, pq, milvus ...: a file in eval/index.
            option: settings of the kind, such as cells=256 probes=32.
            memory: choose the kind by measuring, within so much memory: 2GB.
            latency: choose the kind by measuring, with so much time for a query alone: 5ms.
            thumbnail: longer side of the small pictures that are kept, pixels; 0 keeps none. Left out: 96 for shards, 0
                for a folder of embeddings, for which they are read from its shards.
            device: cpu, cuda, cuda:1 ...
            random_weights: take an open_clip name without a tag, whose weights are random.
            trust: run code that the model's folder names and that is no part of vlp.
            skip_damaged: go on without what a damaged shard has lost, counted and said, instead of refusing it.
        """
        if _followed(out, rank, size=size, thumbnail=thumbnail):
            return 0
        asked, skip = kind_asked(kind, option, uri=uri, memory=memory, recall=recall, latency=latency), Ledger()
        loaded = release.load(model, device, random_weights=random_weights, trust=trust)
        read: dict[str, Any] = {"thumbnail": thumbnail, "skip_damaged": skip_damaged, "skip": skip, "size": size}
        _print(build_gallery(loaded, shards, out, kind=asked, of=of, **read), skip)
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp index build"))


def _followed(out: Path, rank: int, *, size: int, thumbnail: int | None) -> bool:
    """Whether another process leads, whose shares were then filled. Raises UserError for flags that cannot be."""
    if not 0 <= rank < size:
        raise UserError(f"--rank is {rank} and --size {size}, but ranks are numbers from 0 to size - 1")
    if thumbnail is not None and thumbnail < 0:
        raise UserError(f"--thumbnail is {thumbnail}, but it should be 0 or more pixels")
    if rank:
        print(f"{out}: rank {rank} of {size} filled {follow(out, rank)} shares")
    return rank > 0


def _print(made: Gallery, skip: Ledger) -> None:
    if (made.files / "frontier.json").is_file():
        print_frontier(frontier_of(made.files / "frontier.json"), made.about["kind"], Console())
        print(f"page: {made.files / 'frontier.html'}")
    name = made.about["kind"]["name"]
    print(f"{made.folder}: {len(made.vectors):,} {made.of}, {name}, {made.vectors.dim} dimensions{left_out(skip)}")
    print(*said(made.about["measured"]), sep="\n")
    print(f"try next:  vlp search {made.folder} " + ('"a red apple"' if made.of == "pictures" else "--image photo.jpg"))


def kind_asked(
    kind: str, option: tuple[str, ...], *, uri: str = "", memory: str, recall: float | None, latency: str
) -> Index | Budget:
    """The kind that flags name, or the limits that they give. Raises UserError for both, or for bad ones."""
    if recall is not None and not 0 < recall <= 1:
        raise UserError(f"--recall is {recall}, but it should be more than 0 and at most 1")
    if not (memory or latency or recall is not None):
        where = (f"uri={uri}",) if uri else ()
        return chosen_kind(kind or ("milvus" if uri else "flat"), (*option, *where))
    if kind or option or uri:
        raise UserError("--kind says what to build, and --memory, --recall and --latency have it chosen: give one")
    return Budget(bytes_of(memory) if memory else None, recall, seconds_of(latency) if latency else None)


def chosen_kind(name: str, settings: tuple[str, ...]) -> Index:
    """The kind `name` with these `key=value` settings. Raises UserError for an unknown kind or setting, or a bad value.

    >>> chosen_kind("ivf", ("cells=256",))
    Ivf(cells=256, probes=16, on_disk=False, codes='float32')
    """
    options = _options(settings)
    known = [f.name for f in fields(component(Index, name)) if f.init]
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
