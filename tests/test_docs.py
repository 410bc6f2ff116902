"""The documentation is true: its code runs, its commands parse, and every test, file and link that it names exists."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import train
from vlp import cli
from vlp.config import parse

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *(ROOT / f for f in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"))]
SPLITS = {"test_style", "test_concept", "test_style_concept", "test_attr"}  # of the bundled data
ROOMS = ("vlp", "eval", "data_pipelines", "tests", "benchmarks", "docs")
TORCHRUN = re.compile(r"^(?:OMP_NUM_THREADS=\d+ )?(?:torchrun|accelerate launch|python)\b.* train\.py ")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@cache
def functions(file: Path) -> frozenset[str]:
    """The test functions of a file."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def code_spans(page: Path) -> list[str]:
    """What stands between backticks, outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8")))


def commands(page: Path) -> Iterator[list[str]]:
    """Every command `vlp ...` of a page's blocks, as words: comments and second columns left out, lines joined."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    for line in re.findall(r"(?m)^(?:    |)((?:vlp|torchrun|accelerate|python|OMP_NUM_THREADS).*)$", text):
        line = TORCHRUN.sub("vlp train ", re.split(r"   +|  #", line)[0])
        if re.match(r"vlp [a-z]", line):
            yield shlex.split(line)[1:]


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    lines = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@cache
def help_of(command: str) -> str:
    """What `vlp COMMAND --help` prints, and of `vlp eval` what `--help-all` adds."""
    out = io.StringIO()
    for flag in ("--help", "--help-all") if command == "eval" else ("--help",):
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            cli.run([*command.split(), flag])
    return out.getvalue()


@every_page
def test_every_test_that_is_named_exists(page: Path) -> None:
    """Anywhere; and those that follow a link to a test file are in that file."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {name for file in files for name in (file.stem, *functions(file))}
    assert {span for span in code_spans(page) if re.fullmatch(r"test_[a-z0-9_.]+", span)} - known <= SPLITS
    for file, rest in re.findall(r"\]\((\S+/test_\w+\.py)\)([^;|\n]*)", page.read_text(encoding="utf-8")):
        assert set(re.findall(r"`(test_\w+)`", rest)) <= functions((page.parent / file).resolve()), file


@every_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    paths = [span for span in code_spans(page) if re.fullmatch(rf"({'|'.join(ROOMS)})/[\w./-]+", span)]
    modules = re.findall(r"python -m ((?:benchmarks|vlp|eval|data_pipelines)[\w.]*)", page.read_text(encoding="utf-8"))
    paths += [module.replace(".", "/") for module in modules]
    missing = [path for path in paths if not any((ROOT / f"{path}{end}").exists() for end in ("", ".py"))]
    assert not missing


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith(("http:", "https:")):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), link
            assert not anchor or anchor in headings(target), link


@every_page
def test_every_command_has_the_flags_that_are_given(page: Path) -> None:
    """`vlp train` is parsed with its presets, values and all; other commands are asked for their flags."""
    for words in commands(page):
        if words[0] == "train":
            parse(train.RunConfig, [word for word in words[1:] if not word.startswith("PRESET")], "vlp train", "")
            continue
        name = next(name for name in (" ".join(words[:2]), words[0]) if name in cli.COMMANDS)
        flags = [word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)]
        unknown = [flag for flag in flags if not flag.startswith(("--help", "--tasks.")) and flag not in help_of(name)]
        assert not unknown, (name, unknown)


def test_flags_of_training_are_taken_with_their_values() -> None:
    """Those of all pages, but for those whose value is a placeholder: N, my_lab.focal."""
    flags = re.compile(r"--(data|model|loss|teacher|training|augment|eval)\.\S+ ")
    spans = [span for page in PAGES for span in code_spans(page) if flags.match(span)]
    given = [span for span in spans if not re.search(r"\b[A-Z]\b|my_lab", span)]
    assert len(given) >= 10
    for span in given:
        parse(train.RunConfig, ["demo", *shlex.split(span)], "vlp train", "")


def test_the_tree_of_the_architecture_is_that_of_the_files() -> None:
    """docs/architecture.md names every module, and only what there is; of menus (one component a file) the folder."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = text.split("## Rooms")[1].split("## ")[0]
    files = [
        path.relative_to(ROOT) for room in ("vlp", "eval", "data_pipelines") for path in (ROOT / room).rglob("*.py")
    ]
    menus = {"kinds", "image", "text", "losses", "optimizers", "schedules", "sinks", "augment", "filters", "sources"}
    menus |= {
        "emoji",
        "teachers",
        "tasks",
        "datasets",
        "index",
        "corruptions",
        "rules",
        "choosers",
        "plans",
        "negatives",
    }
    modules = {path.stem for path in files if path.stem != "__init__" and path.parent.name not in menus}
    folders = {path.relative_to(ROOT).name for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_dir()}
    assert modules <= set(re.findall(r"\w+", tree))
    assert set(re.findall(r"(\w+)/", tree)) <= folders | set(ROOMS)
    assert set(re.findall(r"(\w+)\.py", tree)) <= {path.stem for path in files} | {"train"}


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of docs/python.md, block after block, on a tiny budget; its matches are the best of all."""
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(block.replace("20_000", "1_024"), names)
    out = Path(str(names["OUT"]))
    assert [samples for samples, _ in names["losses"]] == [1024]  # type: ignore[attr-defined]
    assert {"report.html", "search.html", "stats.html", "model", "infonce", "index"} <= {p.name for p in out.iterdir()}
    report, scores = names["report"], names["scores"]
    for name, value in scores.items():  # type: ignore[attr-defined]
        assert value == pytest.approx(report["metrics"][f"val/{name}"], abs=1e-6)  # type: ignore[index]
    gallery, texts, answer = names["gallery"], np.asarray(names["texts"]), names["answer"]
    hits = [hit.key for hit in answer.hits]  # type: ignore[attr-defined]
    every = gallery.search(names["model"], texts[:1], len(gallery.vectors))[0]  # type: ignore[attr-defined]
    assert hits == [hit.key for hit in sorted(every, key=lambda hit: -hit.score)[:5]]
    assert hits == [hit.key for hit in names["hits"]]  # type: ignore[attr-defined]
    assert [len(names[name]) for name in ("greener", "pears", "distinct")] == [5] * 3  # type: ignore[arg-type]
    assert [hit.key for hit in names["exact"]] == hits  # type: ignore[attr-defined]
    assert names["counts"].number.sum() == len(gallery.vectors)  # type: ignore[attr-defined]
