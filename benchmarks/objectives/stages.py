"""Screen, race, report: which recipes are trained, and what is said of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.objectives import judging
from benchmarks.objectives.judging import Judged, Scored, mean_scored
from benchmarks.objectives.recipes import CONDITIONS, DEMO, PLAIN, RECIPES, Condition, Recipe, filled, together
from benchmarks.objectives.runs import LOG, WORK, Done, Failed, Run, call, finished, train_all
from vlp.errors import UserError
from vlp.files import write_whole

Row = dict[str, Any]
TESTS = ("test_style", "test_concept", "test_style_concept")
TEACHER_SEED = 100  # no other run has it


@dataclass(frozen=True)
class Sizes:
    """How much is trained."""

    screen: int = 40_000
    """pairs of each run of the screen"""
    race: int = 100_000
    report: int = 250_000
    best: int = 8
    """recipes that the race takes from the screen"""
    finalists: int = 2
    """recipes that the report takes from the race"""
    seeds: int = 3
    shards: str = "bundled:emoji/train"
    extra: tuple[str, ...] = ()
    """flags of every run"""


QUICK = Sizes(
    screen=256,
    race=384,
    report=512,
    best=3,
    seeds=2,
    shards="bundled:emoji/val",
    extra=(
        *("--training.batch", "128", "--model.image.norm", "layer"),
        *("--model.image.widths", "16", "16", "32", "32", "--model.text.hidden", "48", "--model.bpe.vocab", "600"),
    ),
)


@dataclass(frozen=True)
class Bench:
    """What was asked for, and how it is trained."""

    sizes: Sizes
    jobs: int
    recipes: Mapping[str, Recipe]
    """those that are compared; `demo` and `infonce` are among them"""
    work: Path = WORK
    """folder of the runs"""
    teacher: str = ""
    """folder of the model that teaches, and of its embeddings of the training set"""
    stored: str = ""

    def run(self, stage: str, name: str, seed: int, pairs: int, condition: Condition = "as is") -> Run:
        """A run of one of the recipes."""
        run = Run(stage, name, condition, seed, pairs, ())
        return self.with_words(run, self.recipes[name].words)

    def with_words(self, run: Run, words: Sequence[str]) -> Run:
        """The run with its presets and flags, those of its condition and of the sizes among them."""
        own = filled(words, self.teacher, self.stored)
        shards = ("--data.shards", self.sizes.shards)
        return replace(run, work=self.work, words=(*own, *shards, *self.sizes.extra, *CONDITIONS[run.condition]))

    def seeds(self, first: int) -> range:
        """As many seeds as are trained, from the first one."""
        return range(first, first + self.sizes.seeds)

    def train(self, runs: Iterable[Run]) -> dict[Run, Done | Failed]:
        """Train all of them."""
        return train_all(list(runs), self.jobs)


Results = dict[Run, Done | Failed]


def screen(bench: Bench) -> tuple[list[Row], list[str]]:
    """A row for each recipe and condition, one seed against three of `demo`; and the recipes, best as is first."""
    runs = []
    for condition in CONDITIONS:
        runs += [bench.run("screen", DEMO, seed, bench.sizes.screen, condition) for seed in bench.seeds(0)]
    for name, recipe in bench.recipes.items():
        if name != DEMO:
            asked = [c for c in dict.fromkeys(("as is", recipe.claims)) if c in CONDITIONS]
            runs += [bench.run("screen", name, 0, bench.sizes.screen, condition) for condition in asked]
    results = bench.train(runs)
    base = {c: finished(results, lambda r, c=c: r.recipe == DEMO and r.condition == c) for c in CONDITIONS}
    pool = judging.noise([np.array([done.mrr for done in some]) for some in base.values()])
    rows = [row for run in runs if run.recipe != DEMO and (row := screened(results[run], base, pool, bench))]
    as_is = {row["recipe"]: row["gain"] for row in rows if row["condition"] == "as is" and not row.get("failed")}
    return [*demo_rows("screen", base), *rows], sorted(as_is, key=lambda name: -as_is[name])


def screened(result: Done | Failed, base: Mapping[Condition, Sequence[Done]], pool: Any, bench: Bench) -> Row:
    """One run against the mean of `demo`'s under the same condition: a place in the order, and no test."""
    if isinstance(result, Failed) or not base[result.run.condition]:
        return failure(result)
    demos = base[result.run.condition]
    peer = mean_scored([done.scored["val"] for done in demos])
    drawn = judging.resampled(result.scored["val"], peer, pool, 1, spread=(1 + 1 / len(demos)) ** 0.5)
    gain = result.mrr - peer.mrr
    return {
        **about("screen", [result], demos, peers=[mean(done.mrr for done in demos)]),
        "gain": gain,
        "interval": list(judging.interval(drawn)),
        "least": judging.least_gain(float(drawn.std()), 1),
    }


def demo_rows(stage: str, base: Mapping[Condition, Sequence[Done]]) -> list[Row]:
    """What `demo` itself reaches under each condition."""
    return [about(stage, some, some) | {"gain": 0.0} for some in base.values() if some]


def about(
    stage: str, own: Sequence[Done], demos: Sequence[Done], peers: Sequence[float] = (), split: str = "val"
) -> Row:
    """The part of a row that needs no statistics; seconds and memory are those beside the other runs.

    peers: scores of `demo` to compare with, where they are not those of `demos`, seed by seed.
    """
    run = own[0].run
    values = [done.scored[split].mrr for done in own]
    peers = peers or [done.scored[split].mrr for done in demos]
    base = record.row(f"{stage}/{run.condition}/{run.recipe}", "MRR", values, peers, DEMO)
    seconds, peak = (median(getattr(done, key) for done in own) for key in ("seconds", "peak_bytes"))
    return {
        **base,
        "ours": mean(values),
        "peer": mean(peers),
        "split": split,
        "stage": stage,
        "recipe": run.recipe,
        "condition": run.condition,
        "seeds": [done.run.seed for done in own],
        "pairs": own[0].pairs,
        "seconds": seconds,
        "slower": seconds / median(done.seconds for done in demos),
        "peak_bytes": peak,
        "larger_bytes": peak - median(done.peak_bytes for done in demos),
    }


def failure(result: Done | Failed) -> Row:
    """A row that says why there are no numbers."""
    run = result.run
    reason = result.reason if isinstance(result, Failed) else "demo did not finish under this condition"
    row = {"case": f"{run.stage}/{run.condition}/{run.recipe}", "unit": "MRR", "ours": None, "peer": None}
    where = {"stage": run.stage, "recipe": run.recipe, "condition": run.condition}
    return {**row, "ratio": None, "ratio_min": None, "ratio_max": None, "peer_name": DEMO, **where, "failed": reason}


def race(bench: Bench, order: Sequence[str], screen_rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """The best of the screen against `demo`, new seeds; rows, and the recipes, best first."""
    names = [name for name in order if name != DEMO][: bench.sizes.best]
    runs = [bench.run("race", name, seed, bench.sizes.race) for name in (DEMO, *names) for seed in bench.seeds(10)]
    results = bench.train(runs)
    rows = against_demo("race", results, names)
    learning = {
        row["pairs"]: row["ours"] for row in screen_rows if row["recipe"] == DEMO and row["condition"] == "as is"
    }
    learning |= {row["pairs"]: row["ours"] for row in rows if row["recipe"] == DEMO}
    there = [row for row in rows if not row.get("failed") and row["recipe"] != DEMO]
    for row in there:
        equal = judging.at_equal_seconds(row["gain"], row["slower"], learning, row["pairs"])
        row["gain_at_equal_seconds"] = None if math.isnan(equal) else equal
    return rows, [row["recipe"] for row in sorted(there, key=lambda row: -row["gain"])]


def against_demo(stage: str, results: Results, names: Sequence[str], split: str = "val") -> list[Row]:
    """`demo`'s row and one of each recipe: the gain paired by seed and concept, Holm-corrected over all of them."""
    demos = {done.run.seed: done for done in finished(results, lambda run: run.recipe == DEMO)}
    if not demos:
        return [failure(result) for result in results.values()]
    sides: dict[str, tuple[list[Done], list[Done]]] = {}
    every = list(demos.values())
    rows: list[Row] = [about(stage, every, every, split=split) | {"gain": 0.0}]
    for name in names:
        own = [done for done in finished(results, lambda run, n=name: run.recipe == n) if done.run.seed in demos]
        if own:
            sides[name] = own, [demos[done.run.seed] for done in own]
        else:
            rows.append(failure(next(result for run, result in results.items() if run.recipe == name)))
    verdicts = judge({name: tuple(scores(side, split) for side in both) for name, both in sides.items()})
    for name, (own, peers) in sides.items():
        rows.append(about(stage, own, peers, split=split) | verdicts[name].row())
    return rows


def scores(some: Sequence[Done], split: str) -> list[Scored]:
    """What each run scored on a split."""
    return [done.scored[split] for done in some]


def judge(sides: Mapping[str, tuple[list[Scored], ...]]) -> dict[str, Judged]:
    """The verdict on each recipe, (own, demo's) by seed; the noise of seeds is pooled over all of them."""
    by_seed = {name: judging.gains(own, base) for name, (own, base) in sides.items()}
    pool = judging.noise(list(by_seed.values()))
    return judging.judged(
        {
            name: (
                float(by_seed[name].mean()),
                judging.resampled(mean_scored(own), mean_scored(base), pool, len(own)),
            )
            for name, (own, base) in sides.items()
        }
    )


def report(bench: Bench, order: Sequence[str]) -> list[Row]:
    """The best recipes, together too, and InfoNCE against `demo`, on val and on the test splits."""
    best = [name for name in order if name not in (DEMO, PLAIN)][: bench.sizes.finalists]
    words = {name: bench.recipes[name].words for name in (DEMO, PLAIN, *best)}
    if len(best) == 2 and (both := together(*(bench.recipes[name] for name in best))):
        words[" + ".join(best)] = (*RECIPES[DEMO].words, *both)
    elif len(best) == 2:
        print(f"{best[0]} and {best[1]} are two objectives, of which neither adds to another: not trained together")
    runs = [
        bench.with_words(Run("report", name, "as is", seed, bench.sizes.report, (), ("val", *TESTS)), own)
        for name, own in words.items()
        for seed in bench.seeds(20)
    ]
    results = bench.train(runs)
    names = [name for name in words if name != DEMO]
    return [
        row | {"split": split, "case": row["case"] if split == "val" else f"{row['case']}/{split}"}
        for split in ("val", *TESTS)
        for row in against_demo("report", results, names, split)
    ]


def with_teacher(bench: Bench) -> Bench:
    """The bench with a trained teacher and its embeddings of the training set, where a recipe asks for one."""
    if not any(recipe.needs_teacher for recipe in bench.recipes.values()):
        return bench
    run = bench.run("teacher", DEMO, TEACHER_SEED, bench.sizes.report)
    result = bench.train([run])[run]
    if isinstance(result, Failed):
        raise UserError(f"the teacher was not trained: {result.reason}; see {run.folder / LOG}")
    stored = run.folder / "stored"
    if not (run.folder / "stored.done").is_file():
        words = ("embed", str(run.folder / "model"), bench.sizes.shards, str(stored))
        status, _ = call([sys.executable, "-m", "vlp.cli", *words], run.folder / "embed.txt")
        if status:
            raise UserError(f"the teacher's embeddings were not written; see {run.folder / 'embed.txt'}")
        write_whole(run.folder / "stored.done", "")
    return replace(bench, teacher=str(run.folder / "model"), stored=str(stored))
