"""`vlp compare`: numbers are those of the reports, what cannot be compared is refused, and the page says what is so."""

from __future__ import annotations

import csv
import doctest
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval import run
from eval.compare import main
from eval.report import compare_page, comparison
from eval.report.changed import changed_queries
from eval.report.comparison import compared, opened, per_class
from eval.report.results import read_queries
from vlp.errors import UserError
from vlp.legible import plain

ACC = "shapes/subgroup/acc1"
R1 = "shapes/en/image_to_text/recall@1"


@pytest.fixture(scope="module")
def evaluated(
    model_folder: Path, other_model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The evaluations of two models."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name, model in (("first", model_folder), ("second", other_model)):
        assert run.main([str(model), str(shards), "--out", str(folder / name)]) == 0
    return folder / "first", folder / "second"


def altered(folder: Path, to: Path, change: Callable[[dict], object]) -> Path:
    """A copy of an evaluation whose report is another."""
    shutil.copytree(folder, to)
    tree = json.loads((to / "report.json").read_text())
    change(tree)
    (to / "report.json").write_text(json.dumps(tree))
    return to


def test_docstring_examples() -> None:
    assert doctest.testmod(comparison).failed == doctest.testmod(compare_page).failed == 0


def test_differences_are_those_of_the_reports(evaluated: tuple[Path, Path]) -> None:
    models = opened([str(folder) for folder in evaluated])
    tree = compared(models)
    assert set(tree["metrics"]) == set(models[0].metrics)
    for name, metric in tree["metrics"].items():
        (against,) = metric["against_first"]
        assert against["difference"] == pytest.approx(metric["values"][1] - metric["values"][0], abs=2e-6)
        low, high = against["interval"]
        assert low - 1e-9 <= against["difference"] <= high + 1e-9
        assert against["p"] <= against["p_holm"] <= 1
        first, second = (read_queries(folder, [name])[name] for folder in evaluated)
        assert first.keys == second.keys
        assert against["higher"] == (second.values > first.values).sum()
    assert tree["metrics"][ACC]["against_first"][0]["test"] == "McNemar"
    assert tree["metrics"]["shapes/subgroup/mean_per_class_recall"]["against_first"][0]["test"] == "bootstrap"


def test_a_model_against_itself_differs_nowhere(evaluated: tuple[Path, Path]) -> None:
    models = opened([str(evaluated[0])] * 2)
    assert models[1].label == f"{models[0].label} (2)"
    for metric in compared(models)["metrics"].values():
        (against,) = metric["against_first"]
        assert (against["difference"], against["p_holm"], against["verdict"]) == (0, 1, "")


def test_the_order_of_queries_does_not_matter(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    shutil.copytree(evaluated[1], tmp_path / "turned")
    table = pq.read_table(evaluated[1] / "per_query.parquet")
    pq.write_table(table.take(list(range(len(table)))[::-1]), tmp_path / "turned" / "per_query.parquet")
    whole, turned = (
        compared(opened([str(evaluated[0]), str(other)]))["metrics"] for other in (evaluated[1], tmp_path / "turned")
    )
    for name in whole:
        one, two = whole[name]["against_first"][0], turned[name]["against_first"][0]
        assert one["difference"] == pytest.approx(two["difference"], abs=1e-6)
        assert (one["higher"], one["lower"]) == (two["higher"], two["lower"])


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda t: t["data"]["shapes"].update(sha256="f" * 64), '"shapes" was measured on other data'),
        (lambda t: t["data"]["shapes"].update(samples=23), "on samples: 24, .* on 23"),
        (lambda t: t["tasks"]["shapes"][1].update(templates="bare"), "another protocol: templates is .* and bare for"),
        (lambda t: t.update(format="vlp-report-0"), "is no report of this version"),
        (lambda t: t.update(metrics={}), "no metric in common"),
    ],
    ids=["data", "count", "protocol", "version", "nothing"],
)
def test_what_cannot_be_compared_is_one_sentence(
    change: Callable[[dict], object], sentence: str, evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    other = altered(evaluated[1], tmp_path / "other", change)
    with pytest.raises(UserError, match=sentence) as caught:
        main([str(evaluated[0]), str(other)])
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_damaged_are_one_sentence(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        shutil.copytree(evaluated[1], tmp_path / name)
        return tmp_path / name

    (copy("bare") / "per_query.parquet").unlink()
    (copy("cut") / "per_query.parquet").write_bytes(b"PAR1 nothing")
    (copy("none") / "report.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for name, sentence in {
        "bare": "has no per_query.parquet: evaluate again",
        "cut": "per_query.parquet cannot be read",
        "none": "is not a report that can be read",
        "empty": "there is no evaluation in",
    }.items():
        with pytest.raises(UserError, match=sentence):
            main([str(evaluated[0]), str(tmp_path / name)])
    with pytest.raises(UserError, match="two to 4 evaluations are compared, and 1 are given"):
        main([str(evaluated[0])])


def test_a_model_folder_stands_for_the_evaluation_beside_it(
    evaluated: tuple[Path, Path], model_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(model_folder, tmp_path / "run" / "model")
    with pytest.raises(UserError, match="has no evaluation beside it: vlp eval"):
        opened([str(tmp_path / "run" / "model")])
    shutil.copytree(evaluated[0], tmp_path / "run" / "eval")
    assert opened([str(tmp_path / "run" / "model")])[0].folder == tmp_path / "run" / "eval"


def test_the_page_has_every_number_and_asks_for_nothing(
    evaluated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*map(str, evaluated), "--out", str(tmp_path)]) == 0
    page, tree = (tmp_path / "compare.html").read_text(), json.loads((tmp_path / "compare.json").read_text())
    for metric in tree["metrics"].values():
        for value in metric["values"]:
            assert f"<b>{100 * value:.1f}</b>" in page
        difference = compare_page.signed(metric["against_first"][0]["difference"], "share")
        assert f"<b>{difference}</b>" in page
    assert page.count('<svg class="chart"') == 4  # recall over K: two ways in two languages
    assert not re.search(r"https?://|@import|url\(", page)
    assert re.findall(r'src="(?!data:)', page) == []
    out = capsys.readouterr().out
    assert "p is corrected for 14 tests (Holm)" in out
    assert "en/image_to_text/recall@1" in out


def test_queries_that_changed_have_their_own_pictures(evaluated: tuple[Path, Path], samples: list[Sample]) -> None:
    models = opened([str(folder) for folder in evaluated])
    tree = compared(models)
    changed = changed_queries(models, tree, per_class(models, list(tree["metrics"])))
    first, second = (read_queries(folder, [ACC])[ACC] for folder in evaluated)
    (own,) = [one for one in changed if one.title == "shapes: zero-shot by subgroup, acc@1"]
    by_text = {sample.captions["en"]: sample for sample in samples}
    for (label, count, queries), sign in zip(own.sides, (1, -1), strict=True):
        rows = np.flatnonzero(second.values - first.values == sign)
        assert count == len(rows)
        assert len(queries) == min(8, count)
        assert label == models[1 if sign == 1 else 0].label
        for query in queries:
            assert query.uri.startswith("data:image/webp;base64,")
            assert query.truth == by_text[query.text].metadata["subgroup"]
            assert dict(query.answers)[label] == query.truth
    assert not own.note


def test_without_the_data_the_page_says_so(evaluated: tuple[Path, Path], tmp_path: Path) -> None:
    gone = [
        altered(folder, tmp_path / folder.name, lambda t: t["data"]["shapes"]["dataset"].update(root="/no/such/data"))
        for folder in evaluated
    ]
    assert main([*map(str, gone), "--out", str(tmp_path / "out")]) == 0
    assert "The pictures of shapes could not be read" in (tmp_path / "out" / "compare.html").read_text()


def test_names_from_elsewhere_are_shown_and_not_obeyed(
    model_folder: Path, other_model: Path, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script>[/red]\x1b[2J" + "x" * 1000
    some = [replace(s, captions={"en": f"{evil}{i}"}, metadata={"subgroup": evil * (i % 2) or "b"}) for i, s in
            enumerate(samples)]  # fmt: skip
    folder = write(tmp_path / "data", some)
    for name, model in (("a", model_folder), ("b", other_model)):
        assert run.main([str(model), str(folder), "--out", str(tmp_path / name)]) == 0
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<script" not in page
    assert "\x1b" not in page
    assert plain(evil, 32).replace("<", "&lt;").replace(">", "&gt;") in page


def test_many_reports_make_one_table(
    evaluated: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = altered(evaluated[1], tmp_path / "third", lambda t: t["metrics"].pop(R1))
    folders = [str(folder) for folder in (*evaluated, third)]
    reports = [json.loads((Path(folder) / "report.json").read_text())["metrics"] for folder in folders]

    def table(*flags: str) -> str:
        assert main([*folders, "--table", *flags]) == 0
        return capsys.readouterr().out

    rows = list(csv.DictReader(io.StringIO(table("--format", "csv"))))
    for row, report in zip(rows, reports, strict=True):
        assert {name: float(value) for name, value in row.items() if name != "model" and value} == report
    assert rows[2][R1] == ""
    tree = json.loads(table("--format", "json", "--metrics", "*/acc1", "*/mean_per_class_recall"))
    assert tree["metrics"] == [ACC, "shapes/subgroup/mean_per_class_recall"]
    assert [row["values"] for row in tree["rows"]] == [
        [r[ACC], r["shapes/subgroup/mean_per_class_recall"]] for r in reports
    ]
    markdown = table("--metrics", "*/text_to_image/recall@1", "--average").splitlines()
    assert markdown[0].endswith("| shapes/zh/text_to_image/recall@1 | mean |")
    own = [reports[0][f"shapes/{language}/text_to_image/recall@1"] for language in ("en", "zh")]
    assert markdown[2].endswith(f"| {50 * sum(own):.1f} |")


@pytest.mark.parametrize(
    "metrics, sentence",
    [
        (("*/acc1", "*/recall@5"), r"have another measure \(R@5, acc@1\); choose with --metrics"),
        (("*/image_to_text/recall@1",), "no average: .* has not measured shapes/en/image_to_text/recall@1"),
        (("*/nothing",), "no metric is called"),
    ],
    ids=["measures", "missing", "none"],
)
def test_no_average_of_what_cannot_be_averaged(
    metrics: tuple[str, ...], sentence: str, evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    third = altered(evaluated[1], tmp_path / "third", lambda t: t["metrics"].pop(R1))
    with pytest.raises(UserError, match=sentence):
        main([str(evaluated[0]), str(third), "--table", "--average", "--metrics", *metrics])
    other = altered(evaluated[1], tmp_path / "other", lambda t: t["data"]["shapes"].update(sha256="f" * 64))
    with pytest.raises(UserError, match="measured on other data"):
        main([str(evaluated[0]), str(other), "--table"])
