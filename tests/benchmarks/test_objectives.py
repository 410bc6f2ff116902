"""The recipe bench: its table, its tables of results, and the whole program on tiny runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import train
from benchmarks.objectives import __main__ as program
from benchmarks.objectives import cases, tables
from benchmarks.objectives.measuring import measure
from benchmarks.objectives.recipes import CONDITIONS, DEMO, LEFT_OUT, PLAIN, RECIPES, Recipe, filled, together
from benchmarks.objectives.runs import RESULT, Failed, Run, train_all
from benchmarks.objectives.stages import QUICK, TESTS, Bench, Sizes, with_teacher
from eval.embeddings.split import EmbeddedSplit
from eval.tasks.retrieval import Retrieval
from vlp.config import parse
from vlp.errors import UserError
from vlp.models import release

WHEN = ("before", "after")
ROOT = Path(__file__).parents[2]


@cache
def config(*words: str) -> train.RunConfig:
    return parse(train.RunConfig, list(filled(words, "runs/teacher/model", "runs/teacher/stored")), "vlp train", "")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_run_under_the_condition_that_it_claims_and_changes_something(name: str) -> None:
    flags = CONDITIONS[RECIPES[name].claims]
    own = config(*RECIPES[name].words, *flags)
    assert (own == config(*RECIPES[DEMO].words, *flags)) == (name == DEMO)


def test_every_objective_is_in_the_table_or_left_out_with_a_reason() -> None:
    there = {path.stem for path in (ROOT / "vlp" / "losses").glob("[!_]*.py")}
    named = {recipe.flags[at + 1] for recipe in RECIPES.values() for at in at_loss(recipe.flags)}
    assert there - named - {"multi_positive"} <= set(LEFT_OUT)
    assert named <= there
    assert not set(LEFT_OUT) & set(RECIPES)
    assert PLAIN in RECIPES


def at_loss(flags: tuple[str, ...]) -> list[int]:
    return [at for at, flag in enumerate(flags) if flag == "--loss.name"]


def test_two_recipes_are_one_run_where_one_adds_to_the_other() -> None:
    both = together(RECIPES["macl"], RECIPES["cyclip"])
    assert both is not None
    loss = config("demo", *both).loss
    assert (type(loss).__name__, type(loss.base).__name__) == ("CyCLIP", "MACL")  # type: ignore[attr-defined]
    smoothed = together(RECIPES["cyclip"], RECIPES["smoothed"])
    assert smoothed is not None
    assert config("demo", *smoothed).loss.base.label_smoothing == 0.1  # type: ignore[attr-defined]
    twice = together(RECIPES["cyclip"], RECIPES["contrastive_gap"])
    assert twice is not None
    config("demo", *twice)
    for one, other in (("macl", "siglip"), ("albef", "distill"), ("neighbours", "clusters"), ("moco", "jest")):
        assert together(RECIPES[one], RECIPES[other]) is None
    taught = together(RECIPES["jest"], RECIPES["distill"])
    assert taught is not None
    assert taught.count("--teacher.model") == 1


def test_a_page_is_filled_between_its_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "objectives.md"
    page.write_text("a\n\n<!-- race -->\nold\nrows\n<!-- end of race -->\n\nb\n")
    tables.fill(page, {"race": r"| \1 | new |"})
    assert page.read_text() == "a\n\n<!-- race -->\n| \\1 | new |\n<!-- end of race -->\n\nb\n"
    with pytest.raises(UserError, match="has no <!-- screen -->"):
        tables.fill(page, {"screen": "x"})


def test_the_page_has_a_place_for_every_table() -> None:
    text = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    for mark in ("screen", "race", "report", "case", "pictures"):
        assert f"<!-- {mark} -->" in text
        assert f"<!-- end of {mark} -->" in text
    unnamed = [name for name in (*RECIPES, *LEFT_OUT) if f"`{name}`" not in text]
    assert not unnamed


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_program_runs_once_and_keeps_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--quick", "--only", "macl", "cyclip", "--stage", "report", "--work", str(tmp_path / "work")]
    page = tmp_path / "docs" / "objectives.md"
    page.parent.mkdir()
    marks = ("screen", "race", "report", "pictures")
    page.write_text("".join(f"<!-- {mark} -->\n\n<!-- end of {mark} -->\n" for mark in marks))
    record = tmp_path / "objectives.json"
    assert program.main([*words, "--json", str(record), "--docs", str(page.parent)]) == 0
    rows = json.loads(record.read_text())["rows"]
    assert not [row["failed"] for row in rows if row.get("failed")]
    stages = [row["stage"] for row in rows]
    assert [stages.count(stage) for stage in ("race", "report")] == [4, 4 * 5]
    assert {row["condition"] for row in rows if row["stage"] == "screen"} == set(CONDITIONS)
    raced = [row for row in rows if row["stage"] == "race" and row["recipe"] != DEMO]
    assert all(row["interval"][0] <= row["gain"] <= row["interval"][1] for row in raced)
    assert all(row["seeds"] == [10, 11] for row in raced)
    assert all(row["peak_bytes"] > 1e8 and row["seconds"] > 0 for row in raced)
    assert "(pictures/objectives_cost.png)" in page.read_text()
    assert "+ `macl`" in page.read_text() or "+ `cyclip`" in page.read_text()
    assert {path.name for path in (page.parent / "pictures").iterdir()} == {
        "objectives_gain.png",
        "objectives_cost.png",
    }
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/train.json")}
    capsys.readouterr()
    assert program.main([*words, "--json", str(record)]) == 0
    assert json.loads(record.read_text())["rows"] == rows
    assert "min left" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*/train.json")} == trained
    run = next(path.parent for path in trained)
    check_scores(run / "model")


def check_scores(model: Path) -> None:
    """Reciprocal ranks and the task's recall are of the same ranks: where R@1 is a hit, the reciprocal rank is 1."""
    scored = measure(model, "bundled:emoji/val")
    split = EmbeddedSplit(release.load(model), "bundled:emoji/val", bar=False)
    recalls = Retrieval(languages=("en", "zh"), ks=(1,)).measure(split)
    ways = [
        recalls[f"{language}/{way}/recall@1"] for language in ("en", "zh") for way in ("image_to_text", "text_to_image")
    ]
    assert scored.counts.sum(0).tolist() == [way.queries for way in ways]
    means = scored.sums.sum(0) / scored.counts.sum(0)
    assert (means >= [way.value for way in ways]).all()
    assert (means <= [(1 + way.value) / 2 for way in ways]).all()
    assert scored.mrr == pytest.approx(np.mean(means))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_further_question_is_answered(tmp_path: Path) -> None:
    """With runs too short for the answers to mean anything; shares and areas are what such numbers can be."""
    bench = with_teacher(Bench(replace(QUICK, seeds=1), 2, RECIPES, tmp_path))
    rows = {row["case"]: row for row in cases.run(bench, list(cases.CASES))}
    assert not [row["failed"] for row in rows.values() if row.get("failed") and not row["case"].endswith("jest/jest")]
    areas = [row["ours"] for case, row in rows.items() if case.startswith("case/faults/")]
    assert len(areas) == 6
    assert all(0.3 < area < 0.7 for area in areas)  # 256 pairs teach nobody what is swapped
    choices = [rows[f"case/word_order/{language}/{when}"]["ours"] for language in ("en", "zh") for when in WHEN]
    assert all(0 <= choice <= 1 for choice in choices)
    assert tables.cases(list(rows.values())).count("\n") == len(rows) + 1


@pytest.mark.slow
def test_a_run_that_fails_says_why_and_ends_nothing_else(tmp_path: Path) -> None:
    words = (*RECIPES["macl"].words, *QUICK.extra, "--loss.alpha", "7")
    run = Run("race", "broken", "as is", 0, 256, words, work=tmp_path)
    result = train_all([run], 1)[run]
    assert isinstance(result, Failed)
    assert "alpha" in result.reason


def planted(bench: Bench, gains: dict[str, float]) -> None:
    """Finished runs of every stage, as if they had been trained: `demo` learns with log(pairs), recipes gain this."""
    rng, sizes = np.random.default_rng(0), bench.sizes
    hard = {split: rng.uniform(0.05, 0.35, (300, 4)) for split in ("val", *TESTS)}
    both = together(*(bench.recipes[name] for name in ("macl", "cyclip")))
    assert both is not None
    recipes = {**bench.recipes, "macl + cyclip": Recipe(flags=both)}
    stages = ((0, sizes.screen, "val"), (10, sizes.race, "val"), (20, sizes.report, "val", *TESTS))
    for (name, recipe), condition, (first, pairs, *splits) in product(recipes.items(), CONDITIONS, stages):
        for seed in bench.seeds(first) if condition == "as is" or not first else ():
            run = bench.with_words(Run("", name, condition, seed, pairs, ()), recipe.words)
            run.folder.mkdir(parents=True)
            about = {"seconds": pairs / 1000 * (2 if name == "cyclip" else 1), "peak_bytes": 2**30, "samples": pairs}
            (run.folder / RESULT).write_text(json.dumps(about))
            level = 0.02 * math.log(pairs / sizes.screen) + gains[name] + rng.normal(0, 0.003)
            for split in splits:
                scored = hard[split] + level + rng.normal(0, 0.05, hard[split].shape)
                np.savez(run.folder / f"{split}.npz", sums=scored, counts=np.ones(scored.shape))


def test_what_was_planted_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the files of finished runs to the verdict: a gain pays, none does not, equal seconds give less."""
    bench = Bench(Sizes(), 2, {name: RECIPES[name] for name in (DEMO, PLAIN, "macl", "cyclip")}, tmp_path)
    planted(bench, {DEMO: 0.0, PLAIN: -0.03, "macl": 0.03, "cyclip": 0.0, "macl + cyclip": 0.03})
    words = ["--only", "macl", "cyclip", "--work", str(tmp_path), "--json", str(tmp_path / "record.json")]
    assert program.main([*words, "--stage", "report"]) == 0
    assert "min left" not in capsys.readouterr().out
    rows = {row["case"]: row for row in json.loads((tmp_path / "record.json").read_text())["rows"]}
    verdicts = {name: rows[f"race/as is/{name}"] for name in (PLAIN, "macl", "cyclip")}
    assert [verdicts[name]["pays"] for name in (PLAIN, "macl", "cyclip")] == [False, True, False]
    assert verdicts[PLAIN]["interval"][1] < 0 < verdicts["macl"]["interval"][0]
    assert verdicts["cyclip"]["interval"][0] < 0 < verdicts["cyclip"]["interval"][1]
    cyclip = verdicts["cyclip"]
    assert cyclip["gain_at_equal_seconds"] == pytest.approx(cyclip["gain"] - 0.02 * math.log(2), abs=0.004)
    assert verdicts["macl"]["gain_at_equal_seconds"] == pytest.approx(verdicts["macl"]["gain"])
    assert 0.003 < verdicts["macl"]["least"] < 0.03
    ours, peer = (rows[f"report/as is/{name}/test_concept"]["ours"] for name in ("macl", DEMO))
    assert rows["report/as is/macl/test_concept"]["ratio"] == pytest.approx(ours / peer, rel=0.02)
    assert ours - peer == pytest.approx(rows["report/as is/macl/test_concept"]["gain"])
    assert rows["report/as is/macl + cyclip/test_style"]["gain"] == pytest.approx(0.03, abs=0.01)
    assert rows["screen/small/macl"]["gain"] == pytest.approx(0.03, abs=0.015)
    assert len(rows) == len(CONDITIONS) + 3 + 1 + 4 + 4 * 5
