"""`vlp blend`: a model folder between two, and the curve from one to the other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from eval.blend import main
from eval.configuration import read
from eval.run import evaluate
from vlp.cli import run
from vlp.errors import UserError
from vlp.models import release


def test_the_model_between_is_a_model_folder(model_folder: Path, other_model: Path, tmp_path: Path) -> None:
    assert run(["blend", str(model_folder), str(other_model), "--alpha", "0.25", "--out", str(tmp_path / "m")]) == 0
    a, b, between = (release.load(folder) for folder in (model_folder, other_model, tmp_path / "m"))
    for name, weight in between.encoder.state_dict().items():
        if weight.is_floating_point():
            expected = 0.75 * a.encoder.state_dict()[name] + 0.25 * b.encoder.state_dict()[name]
            torch.testing.assert_close(weight, expected)
    assert f"0.25 of {other_model}" in (tmp_path / "m" / "model.toml").read_text()


def test_the_curve_is_what_each_blend_scores(
    model_folder: Path, other_model: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ends are the two models, its middle the model that --out writes."""
    words = ["blend", str(model_folder), str(other_model), str(shards), "--curve", str(tmp_path / "curve")]
    assert run([*words, "--alphas", "0", "0.5", "1", "--out", str(tmp_path / "middle")]) == 0
    tree = json.loads((tmp_path / "curve" / "curve.json").read_text())
    assert tree["alphas"] == [0.0, 0.5, 1.0]
    for i, folder in enumerate((model_folder, tmp_path / "middle", other_model)):
        expected = evaluate(release.load(folder), read(data=[str(shards)]))["metrics"]
        assert {name: values[i] for name, values in tree["metrics"].items()} == pytest.approx(expected, abs=1e-6)
    assert tree["primary"]
    page = (tmp_path / "curve" / "curve.html").read_text()
    assert page.count("<tr>") == 4
    assert "<polyline" in page
    assert "from A (0) to B (1)" in capsys.readouterr().out


def test_bad_input_is_one_sentence_and_writes_nothing(
    model_folder: Path, other_model: Path, shards: Path, tmp_path: Path
) -> None:
    models = [str(model_folder), str(other_model)]
    for words, sentence in (
        ([], None),
        (models[:1], "name two models"),
        (models, "say what to write"),
        ([*models, "--curve", str(tmp_path / "c")], "has no data"),
        ([*models, str(shards), "--out", str(tmp_path / "m")], "give --curve FOLDER too"),
        ([*models, "--alpha", "1.5", "--out", str(tmp_path / "m")], '"alpha" is 1.5, but it should be from 0 to 1'),
    ):
        if sentence is None:
            assert main(words) == 0
            continue
        with pytest.raises(UserError, match=sentence):
            main(words)
    assert not list(tmp_path.iterdir())
