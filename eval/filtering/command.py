"""`vlp shards filter`: which samples of a shard set stay, by rules over stored embeddings, with counts by reason."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional, arg

from data_pipelines.shards.decision import FILE, Decision, write_rows
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings.encode import data_sha256, located
from eval.embeddings.store import EmbeddingStore
from eval.filtering.examples import Shown, write_examples
from eval.filtering.kept import FOLDER, Kept
from eval.filtering.others import digest
from eval.filtering.pool import BLOCK, Flags, Pool, name_of, open_pool
from eval.filtering.rules import NOBODY, STAYS, Rule, Verdict
from eval.filtering.words import COLUMNS, Named, rules_of, settings_help
from vlp.errors import UserError
from vlp.files import full_disk
from vlp.lock import locked

if TYPE_CHECKING:
    import pyarrow as pa

NO_VECTOR = "no vector"
NAMED_AT_ONCE = 1 << 20  # samples


def filtered(spec: str, embeddings: Path, out: Path, rules: Sequence[Named], *, skip_missing: bool = False) -> Decision:
    """Decide which samples of `spec` stay, rule after rule, and write it into `out`.

    `skip_missing`: samples without a vector are left out instead of refused. A finished folder of the same is left as
    it is; one that was interrupted goes on. Raises UserError if `out` holds something else, if the embeddings do not
    fit the shards or the rules, or if nothing stays; then nothing is left of `out` that was not there before.
    """
    store = EmbeddingStore.open(embeddings)
    recipe = {
        "shards": data_sha256(ShardSet.open(spec)) or spec,
        "embeddings": digest(store),
        "rules": [[one.tree(), one.rule.inputs()] for one in rules],
        "skip_missing": skip_missing,
        "block": BLOCK,
    }
    if (done := _finished(out, recipe)) is not None:
        return done
    with _folder(out), locked(out), full_disk(out, lambda: "what was computed is kept"):
        kept = Kept.of(out, recipe)
        with kept.going_on():
            done = _decided(spec, store, out, rules, kept=kept, recipe=recipe)
        shutil.rmtree(kept.folder)  # nothing of it is mapped any more
    return done


def _decided(
    spec: str, store: EmbeddingStore, out: Path, rules: Sequence[Named], *, kept: Kept, recipe: Mapping[str, Any]
) -> Decision:
    pool = open_pool(spec, store, kept, skip_missing=recipe["skip_missing"])
    _refuse(pool, rules)
    verdicts = _verdicts(pool, rules, kept)
    return _written(out, pool, rules, verdicts, about={"recipe": recipe, **_about(spec, store)})


def _verdicts(pool: Pool, rules: Sequence[Named], kept: Kept) -> list[Verdict]:
    """What each rule says of the samples that the ones before it keep. Raises UserError if nothing stays."""
    stays, verdicts = pool.has_vector.copy(), list[Verdict]()
    for number, one in enumerate(rules):
        verdicts.append(_judged(one, pool, stays, kept.below(f"{number}")))
        left = int(stays.sum())
        stays &= ~verdicts[-1].out
        if not stays.any():
            raise UserError(f"nothing stays: the rule {one.name} leaves out all of the {left:,} samples; loosen it")
    return verdicts


def _about(spec: str, store: EmbeddingStore) -> dict[str, Any]:
    return {"shards": located(spec), "embeddings": str(store.folder.resolve()), "model": store.model}


def _finished(out: Path, recipe: Mapping[str, Any]) -> Decision | None:
    """What is in `out` already, if it is finished. Raises UserError if it is something else."""
    if (out / FILE).is_file():
        done = Decision.open(out)
        if done.about.get("recipe") == recipe:
            return done
        raise UserError(f"{out} already holds another decision; choose another folder, or remove this one")
    if out.exists() and (not out.is_dir() or any(path.name not in OURS for path in out.iterdir())):
        raise UserError(f"{out} holds something else; choose another folder")
    return None


OURS = (FOLDER, ".lock", "samples", "examples.html")


@contextmanager
def _folder(out: Path) -> Iterator[None]:
    """A context in which `out` is made; it goes if nothing is in it afterwards."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if not any(out.iterdir()):
            out.rmdir()


def _refuse(pool: Pool, rules: Sequence[Named]) -> None:
    """Raise UserError if a rule does not fit these embeddings."""
    for one in rules:
        if one.rule.needs_texts and not pool.stored.has_texts:
            raise UserError(
                f"{pool.stored.store.folder} has no vectors of captions (text_emb), which the rule {one.name} compares "
                "with pictures; embed the texts too"
            )
        one.rule.refuse(pool)


def _judged(one: Named, pool: Pool, stays: Flags, kept: Kept) -> Verdict:
    """The verdict of a rule; that of before, where this command was interrupted after it."""
    made: list[Verdict] = []

    def verdict() -> Verdict:
        made.append(made[0] if made else one.rule.judge(pool, stays, kept))
        return made[0]

    reason = kept.array("reason", lambda: verdict().reason)
    score = kept.array("score", lambda: verdict().score)
    like = kept.array("like", lambda: verdict().like)
    words = kept.tree("words", lambda: {"reasons": verdict().reasons, "about": dict(verdict().about)})
    return Verdict(tuple(words["reasons"]), np.array(reason), score, like, words["about"])


def _written(
    out: Path, pool: Pool, rules: Sequence[Named], verdicts: Sequence[Verdict], *, about: dict[str, Any]
) -> Decision:
    """Rows, examples and, last, decision.json."""
    counts, told, left = Counter[str](), [], int(pool.has_vector.sum())
    if left < len(pool):
        counts[NO_VECTOR] = len(pool) - left
    for one, verdict in zip(rules, verdicts, strict=True):
        by_reason = {why: int((verdict.reason == n).sum()) for n, why in enumerate(verdict.reasons, 1)}
        counts.update({why: count for why, count in by_reason.items() if count})
        left -= sum(by_reason.values())
        told.append({"rule": one.name, **one.tree(), "left_out": by_reason, "stay": left, **verdict.about})
    _write_rows(out, pool, rules, verdicts)
    sizes = np.diff(pool.starts).tolist()
    named = tuple((name_of(url), size) for url, size in zip(pool.opened.urls, sizes, strict=True))
    done = Decision(out, named, counts, {**about, "rules": told})
    write_examples(done, pool, _shown(pool, rules, verdicts))
    done.write()
    return done


def _shown(pool: Pool, rules: Sequence[Named], verdicts: Sequence[Verdict]) -> list[Shown]:
    """The rules with what came to each of them."""
    shown, stays = list[Shown](), pool.has_vector
    for one, verdict in zip(rules, verdicts, strict=True):
        shown.append(Shown(one.name, one.rule, verdict, stays))
        stays = stays & ~verdict.out
    return shown


def _write_rows(out: Path, pool: Pool, rules: Sequence[Named], verdicts: Sequence[Verdict]) -> None:
    """The rows of every shard; what their samples are like is named for many at once, since it lies in any shard."""
    first, shards = 0, len(pool.opened.urls)
    while first < shards:
        last = max(first + 1, int(np.searchsorted(pool.starts, pool.starts[first] + NAMED_AT_ONCE, side="right")) - 1)
        names = [_names(pool, one.rule, v, first, last) for one, v in zip(rules, verdicts, strict=True)]
        for shard in range(first, last):
            write_rows(out, shard, _rows(pool, rules, verdicts, names, shard))
        first = last


def _names(pool: Pool, rule: Rule, verdict: Verdict, first: int, last: int) -> dict[int, str]:
    """The names of what samples in shards [first, last) are like that a rule leaves out, read shard after shard."""
    rows = slice(int(pool.starts[first]), int(pool.starts[last]))
    like = np.asarray(verdict.like[rows])[verdict.reason[rows] != STAYS]
    return {number: rule.named(pool, number) for number in np.unique(like[like != NOBODY]).tolist()}


def _rows(
    pool: Pool,
    rules: Sequence[Named],
    verdicts: Sequence[Verdict],
    names: Sequence[Mapping[int, str]],
    shard: int,
) -> pa.Table:
    """The table of one shard: key, stays, reason, like (what it repeats), and the score of each rule."""
    import pyarrow as pa

    start, stop = int(pool.starts[shard]), int(pool.starts[shard + 1])
    reasons = np.where(pool.has_vector[start:stop], "", NO_VECTOR).astype(object)
    like: list[str | None] = [None] * (stop - start)
    columns: dict[str, Any] = {}
    for one, verdict, named in zip(rules, verdicts, names, strict=True):
        own = verdict.reason[start:stop]
        for place in np.flatnonzero(own != STAYS):
            reasons[place] = verdict.reasons[own[place] - 1]
            like[place] = named.get(int(verdict.like[start + place]))
        score = np.asarray(verdict.score[start:stop])
        columns[one.name] = pa.array(score, pa.float32(), mask=np.isnan(score))
    first = [
        pa.array([name_of(pool.opened.urls[shard])] * (stop - start), pa.string()),
        pa.array(pool.opened[shard].index.keys, pa.string()),
        pa.array(reasons == "", pa.bool_()),
        pa.array(reasons, pa.string()),
        pa.array(like, pa.string()),
    ]
    return pa.table({**dict(zip(COLUMNS, first, strict=True)), **columns})


def main(argv: list[str]) -> int:
    """`vlp shards filter SHARDS EMBEDDINGS OUT --rules ...`."""

    def command(
        shards: Annotated[Positional[str], arg(metavar="SHARDS")],
        embeddings: Annotated[Positional[Path], arg(metavar="EMBEDDINGS")],
        out: Annotated[Positional[Path], arg(metavar="OUT")],
        *,
        rules: Annotated[tuple[str, ...], arg(metavar="RULE")],
        skip_missing: bool = False,
    ) -> int:
        """Decide which samples of a shard set stay, by their embeddings. Run it again to go on where it was.

        OUT gets decision.json (counts by reason), a parquet file for each shard (key, reason, scores) and
        examples.html. `vlp shards reshard SHARDS NEW --keep OUT` writes the samples that stay.

        Args:
            shards: folder with a manifest, glob, brace range, union (a::b) or bundled:NAME.
            embeddings: folder of `vlp embed` of these shards, or clip-retrieval's.
            out: folder to write; it must be new, or have the beginning of the same command.
            rules: what stays, one rule after the other, each with its settings: clip_score share=0.3, near_duplicates
                eps=0.05, reference like=FOLDER, decontaminate against=FOLDER; or files with tables [rules.NAME].
            skip_missing: leave out samples that have no vector, counted, instead of refusing them.
        """
        _print(filtered(shards, embeddings, out, rules_of(rules), skip_missing=skip_missing), shards)
        return 0

    try:
        return int(tyro.cli(command, args=argv, prog="vlp shards filter"))
    except SystemExit as end:
        if not end.code:  # after the help
            print(settings_help())
        raise


def _print(done: Decision, shards: str) -> None:
    stay = done.samples - done.left_out
    print(f"{done.folder}: {stay:,} of {done.samples:,} samples stay")
    if count := done.counts.get(NO_VECTOR):
        print(f"  {NO_VECTOR}: {count:,}")
    for one in done.about["rules"]:
        for reason, count in one["left_out"].items():
            print(f"  {one['rule']}: {reason}: {count:,}")
    print(f"page: {done.folder / 'examples.html'}")
    print(f"try next:  vlp shards reshard {shards} {done.folder}.shards --keep {done.folder}")
