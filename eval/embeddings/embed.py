"""`vlp embed`: a model's embeddings of a shard set, one part per shard, resumable, by any number of ranks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from tyro.conf import Positional, arg

from data_pipelines.ledger import Ledger
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings import store
from eval.embeddings.blocks import Block, Decode, Encoder, in_thread
from eval.embeddings.encode import data_sha256, left_out, located, refuse_damage
from eval.embeddings.shares import Share, device_of, share_of
from eval.embeddings.unfinished import SAVE_S, Unfinished, done_of, remove_finished
from eval.progress_bar import progress_bar
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import plain
from vlp.lock import locked
from vlp.models import release as releases
from vlp.models.release import Release

BLOCKS_AHEAD = 2  # that are read and decoded while one is embedded
UNITS: dict[store.What, str] = {"images": "pictures", "texts": "texts", "both": "pairs"}
ONE = {"images": "picture", "texts": "caption", "both": "picture"}


@dataclass(frozen=True)
class Job:
    """What is embedded, of what, and how; every rank has the same but for its share."""

    encoder: Encoder
    shards: ShardSet
    spec: str
    out: Path
    share: Share
    skip_damaged: bool
    help: bool
    save_s: float

    @property
    def about(self) -> dict[str, Any]:
        """For store.toml."""
        release = self.encoder.release
        return {
            "format": store.FORMAT,
            "parts": len(self.shards),
            "what": self.encoder.what,
            "dtype": self.encoder.dtype,
            "decode": self.encoder.decode,
            "model": {"id": release.id, "name": release.name},
            "data": {"spec": located(self.spec), "sha256": data_sha256(self.shards)},
        }

    def left(self, row: int) -> int:
        """Samples of a shard that are to be done, by its manifest."""
        return max(0, self.shards.counts[row] - done_of(self.out, self.part(row)))

    def part(self, row: int) -> str:
        """The name of the part of a shard."""
        return f"{row:0{len(str(len(self.shards) - 1))}d}"


class Taken(NamedTuple):
    """A block of a part that this process makes, with the part's lock."""

    part: Unfinished
    block: Block
    row: int
    own: bool
    lock: ExitStack


def embed(
    release: Release,
    spec: str,
    out: Path,
    *,
    rank: int = 0,
    size: int = 1,
    what: store.What = "both",
    dtype: Literal["float32", "float16"] = "float32",
    decode: Decode = "exact",
    skip_damaged: bool = False,
    skip: Ledger | None = None,
    help: bool = True,
    save_s: float = SAVE_S,
) -> int:
    """Write the parts of `out` that are missing and fall to this rank; give back how many were written.

    No ranks talk to each other: part i is the work of rank i mod size, and one that is done makes parts of the others
    that nobody makes, unless `help` is False. What cannot be read is written into the part's ledger and counted in
    `skip`. `save_s`: seconds of work that a kill may cost. Raises UserError if `out` was begun with another model,
    other data, another dtype ..., if another program writes a part of a single rank, if the disk is full, if the model
    gives vectors that are none, or, unless `skip_damaged`, if a shard is damaged.
    """
    import tomli_w

    share = Share(rank, size)
    share.check()
    encoder = Encoder(release, what, dtype, decode)
    job = Job(encoder, ShardSet.open(spec), spec, out, share, skip_damaged, help, save_s)
    about = job.about
    with locked(out, wait_s=30.0):  # other ranks come to the same line at the same time
        begun = store.about(out)
        if begun:
            _refuse_other(out, begun, about)
        else:
            write_whole(out / "store.toml", tomli_w.dumps(about))
    return _make(job, Ledger() if skip is None else skip)


def _make(job: Job, skip: Ledger) -> int:
    """Make what is missing, block by block, and give back how many parts were written."""
    whole = store.whole_parts(job.out, job.encoder.what)
    remove_finished(job.out, whole)
    own = [row for row in job.share.own(len(job.shards)) if job.part(row) not in whole]
    known = min(job.shards.counts) >= 0
    total = sum(job.left(row) for row in own) if known else None
    name, unit, written = f"embedding {PurePath(job.spec).name}", UNITS[job.encoder.what], 0
    with ExitStack() as locks, progress_bar(name, total, unit=unit) as advance:
        with closing(in_thread(_taken(job, own, whole, locks), BLOCKS_AHEAD)) as stream:
            for taken in stream:
                block, part = taken.block, taken.part
                if block.start == part.done and not taken.own and known:
                    advance(0, more=job.shards.counts[taken.row] - part.done)
                part.add(job.encoder.made(block, part.part), last=block.last)
                advance(block.stop - block.start)
                if block.last:
                    _finish(job, taken, skip)
                    taken.lock.close()
                    written += 1
    return written


def _taken(job: Job, own: list[int], whole: set[str], locks: ExitStack) -> Iterator[Taken]:
    """The blocks of the parts that this process makes: its own, then those of the others that nobody makes."""
    others = job.share.others(len(job.shards)) if job.help else iter(())
    alone = job.share.size == 1 or not job.help
    for row in chain(own, (row for row in others if job.part(row) not in whole)):
        part, lock = job.part(row), locks.enter_context(ExitStack())
        try:
            lock.enter_context(locked(job.out, f".part-{part}.lock", what=job.out))
        except UserError:
            if alone:
                raise
            continue  # another rank makes it
        if store.has_part(job.out, part, job.encoder.what):  # another program wrote it just now
            lock.close()
            continue
        unfinished = Unfinished(job.out, part, save_s=job.save_s)
        for block in job.encoder.blocks(job.shards, row, unfinished.done, skip_damaged=job.skip_damaged):
            yield Taken(unfinished, block, row, row % job.share.size == job.share.rank, lock)


def _finish(job: Job, taken: Taken, skip: Ledger) -> None:
    """Write a part. Raises UserError if nothing of it could be read, or, unless that is allowed, if it is damaged."""
    url, part, lost = job.shards.urls[taken.row], taken.part, Ledger()
    for loss in part.lost():
        lost.drop(loss.reason, loss.shard, loss.count)
    if not job.skip_damaged:
        refuse_damage(lost, url, skip_damaged=False)  # in blocks that a run before this one has kept
        if not part.count:
            raise UserError(
                f"{url} has no readable {ONE[job.encoder.what]}; check it with `vlp shards verify`, or go on without "
                "it: --skip-damaged"
            )
    part.finish(store.KINDS[job.encoder.what], job.encoder.empty)
    skip.merge(lost)


def _refuse_other(out: Path, begun: dict[str, Any], about: dict[str, Any]) -> None:
    """Raise UserError if the store in `out` was begun as another than `about`."""
    if begun.get("format") != store.FORMAT:
        raise UserError(
            f"{out} was begun by another version of vlp ({plain(begun.get('format'))}); choose another folder"
        )
    begun_as, now = (_identity(tree) for tree in (begun, about))
    if begun_as != now:
        differs = next(key for key in now if now[key] != begun_as[key])
        what = f"another {differs} ({begun.get(differs)}, now {about[differs]})"
        raise UserError(f"{out} was begun with {what}; choose another folder")


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for two parts of one store; the names of a model and of data may differ."""
    data = about.get("data", {})
    own = {key: about.get(key) for key in ("format", "parts", "what", "dtype", "decode")}
    return {**own, "model": about.get("model", {}).get("id"), "data": data.get("sha256") or data.get("spec")}


def command(
    model: Annotated[Positional[str], arg(metavar="MODEL")],
    shards: Annotated[Positional[str], arg(metavar="SHARDS")],
    out: Annotated[Positional[Path], arg(metavar="OUT")],
    *,
    what: store.What = "both",
    dtype: Literal["float32", "float16"] = "float32",
    decode: Decode = "exact",
    device: str = "cpu",
    random_weights: bool = False,
    trust: bool = False,
    skip_damaged: bool = False,
    help_others: bool = True,
    rank: int | None = None,
    size: int | None = None,
) -> int:
    """Embed the pictures and captions of a shard set, one part per shard. Run it again to go on where it was.

    Args:
        model: model folder (RUN/model), or an open_clip name such as ViT-B-32:laion2b_s34b_b79k.
        shards: folder with a manifest, glob, brace range, union (a::b) or bundled:NAME.
        out: folder for the parts; clip-retrieval reads it too.
        what: what is embedded; texts are the first captions, the English one where there is one.
        dtype: float32 is exact, float16 takes half the space.
        decode: exact: the pixels of evaluation; scaled: large JPEGs at 1/2, 1/4 or 1/8, faster and a little other.
        device: cpu, cuda (of several ranks on a machine each takes its own), cuda:1 ...
        random_weights: take an open_clip name without a tag, whose weights are random.
        trust: run code that the model's folder names and that is no part of vlp.
        skip_damaged: go on without what a damaged shard has lost, counted and said, instead of refusing it.
        help_others: make parts of other ranks too, when this rank's own are done.
        rank: which worker this is; torchrun, srun and Slurm arrays set it.
        size: how many workers there are.
    """
    share, skip = share_of(os.environ), Ledger()
    loaded = releases.load(model, device_of(device, os.environ), random_weights=random_weights, trust=trust)
    written = embed(
        loaded,
        shards,
        out,
        rank=share.rank if rank is None else rank,
        size=share.size if size is None else size,
        what=what,
        dtype=dtype,
        decode=decode,
        skip_damaged=skip_damaged,
        skip=skip,
        help=help_others,
    )
    _say_store(out, model, f"{out}: {written} parts written{left_out(skip)}")
    return 0


def _say_store(out: Path, model: str, written: str) -> None:
    """What was written, and what the whole store holds, once it is whole."""
    print(written)
    about = store.about(out)
    done = len(store.whole_parts(out, about["what"]))
    if done < about["parts"]:
        print(f"{done} of {about['parts']} parts are there; the others are those of other ranks")
        return
    whole = store.EmbeddingStore.open(out)
    print(f"{whole.count():,} rows in {done} parts{left_out(whole.lost())}")
    print(f"try next:  vlp index build {model} {out} {out}.index")


def main(argv: list[str]) -> int:
    """`vlp embed MODEL SHARDS OUT`."""
    return int(tyro.cli(command, args=argv, prog="vlp embed"))
