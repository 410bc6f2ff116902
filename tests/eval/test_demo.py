"""vlp demo on a small corpus with a small model: what it writes, and what a second run does not write again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipelines.sample import Sample
from eval.demo import Tour, main
from vlp.errors import UserError

SPLITS = Tour.read().splits
PRESET = """
[data]
ids = "concept"
captions.weights = { en = 1.0, zh = 1.0 }

[model]
name = "two_towers"
width = 16
image_size = 32

[model.image]
name = "timm"
architecture = "resnet10t"

[model.text]
name = "transformer"
hidden = 32
layers = 1
heads = 2

[training]
samples = 48
batch = 12
log_every = 1
precision = "fp32"
"""


@pytest.fixture(scope="module")
def asked(samples: list[Sample], write: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("demo")
    for split in SPLITS:
        write(folder / "data" / split, samples)
    (folder / "small.toml").write_text(PRESET)
    return [
        *("--out", str(folder / "run"), "--data", str(folder / "data"), "--preset", str(folder / "small.toml")),
        *("--training.seed", "3"),
    ]


@pytest.fixture(scope="module")
def out(asked: list[str]) -> Path:
    assert main(asked) == 0
    return Path(asked[1])


def test_what_a_demo_leaves(out: Path) -> None:
    tree = json.loads((out / "report.json").read_text())
    assert tree["train"]["samples"] == 48
    assert tree["train"]["seconds"] > 0
    assert tree["train"]["samples_per_second"] > 0
    for split in ("test_style", "test_concept", "test_style_concept"):
        for language in ("en", "zh"):
            for way in ("image_to_text", "text_to_image"):
                for k in (1, 5, 10):
                    name = f"{split}/{language}/{way}/recall@{k}"
                    assert len(tree["intervals"][name]) == 2
                    assert tree["candidates"][name] in (12, 24)
    assert tree["train"]["seed"] == 3
    page = (out / "report.html").read_text()
    assert page.count('class="card answer"') == 6
    assert page.count("<polyline") >= 1
    for left in ("config.toml", "metrics.jsonl", "model/model.toml", "index/index.toml"):
        assert (out / left).is_file()


def test_a_second_run_does_only_what_is_missing(
    out: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = [out / "model" / "model.safetensors", out / "verified.json", out / "index" / "index.toml"]
    times = [path.stat().st_mtime_ns for path in kept]
    before = json.loads((out / "report.json").read_text())
    for lost in ("report.json", "report.html"):
        (out / lost).unlink()
    assert main(asked) == 0
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert json.loads((out / "report.json").read_text())["metrics"] == before["metrics"]
    assert (out / "report.html").is_file()
    assert f'search {out / "index"} "a happy cat"' in capsys.readouterr().out


def test_a_report_of_an_earlier_version_is_measured_again(out: Path, asked: list[str]) -> None:
    before = json.loads((out / "report.json").read_text())
    old = {key: value for key, value in before.items() if key not in ("labels", "units", "headlines")}
    (out / "report.json").write_text(json.dumps(old))
    assert main(asked) == 0
    again = json.loads((out / "report.json").read_text())
    assert (again["metrics"], again["labels"]) == (before["metrics"], before["labels"])


def test_other_settings_in_the_same_folder_are_refused(out: Path, asked: list[str]) -> None:
    with pytest.raises(UserError, match="another --out"):
        main([*asked, "--training.samples", "96"])


def test_damaged_data_are_told_before_anything_is_trained(
    samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    for split in SPLITS:
        write(tmp_path / "data" / split, samples)
    with (tmp_path / "data" / "val" / "00001.tar").open("r+b") as file:
        file.seek(700)
        file.write(b"damage")
    with pytest.raises(UserError, match="its bytes were changed"):
        main(["--out", str(tmp_path / "run"), "--data", str(tmp_path / "data")])
    assert not (tmp_path / "run" / "model").exists()


def test_help_shows_the_flags_people_use_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    flags = re.findall(r"^  (--\S+)", capsys.readouterr().out, re.MULTILINE)
    assert 35 <= len(flags) <= 46
    assert {"--out", "--training.samples", "--training.batch", "--data.captions.texts"} <= set(flags)


def test_an_index_that_could_not_be_written_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="index is there already and is not an index"):
        main(["--out", str(tmp_path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]
