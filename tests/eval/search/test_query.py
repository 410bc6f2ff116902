"""`vlp search`: text and picture, table, page and sheet, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.search.answer import Answer
from eval.search.build import build_gallery
from eval.search.page import search_page
from eval.search.query import main, sheet
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.fixture(scope="module")
def index(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_gallery(release, str(shards), tmp_path_factory.mktemp("g") / "index", kind=Flat()).folder


def test_a_text_is_answered_with_captions_in_every_language(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [
        str(index),
        "red circle",
        "-k",
        "24",
        "--html",
        str(tmp_path / "f.html"),
        "--grid",
        str(tmp_path / "f.png"),
    ]
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "gold square" in out
    assert "金方块" in out
    page = (tmp_path / "f.html").read_text()
    assert page.count("data:image/png;base64,") == 24
    assert page.count('class="exact"') == 2  # two artists drew the red circle
    assert Image.open(tmp_path / "f.png").size == (5 * 136 + 8, 5 * 136 + 8)


def test_a_picture_of_the_index_is_found_first(
    index: Path, samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "asked.png"
    file.write_bytes(samples[7].image)
    assert main([str(index), "--image", str(file), "-k", "1"]) == 0
    assert "1.000" in capsys.readouterr().out


def test_bad_questions_are_refused(index: Path, other_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of them"):
        main([str(index)])
    with pytest.raises(UserError, match="one of them"):
        main([str(index), "x", "--image", "y.png"])
    with pytest.raises(UserError, match="no picture"):
        main([str(index), "--image", str(tmp_path / "none.png")])
    (tmp_path / "broken.png").write_bytes(b"no picture at all")
    with pytest.raises(UserError, match="cannot be searched for"):
        main([str(index), "--image", str(tmp_path / "broken.png")])
    with pytest.raises(UserError, match="at least 1"):
        main([str(index), "x", "-k", "0"])
    with pytest.raises(UserError, match=r"--grid is sheet\.xyz, but it should end in one of \.png"):
        main([str(index), "x", "--grid", "sheet.xyz"])
    with pytest.raises(UserError, match="was built by the model"):
        main([str(index), "x", "--model", str(other_model)])
    with pytest.raises(UserError, match="is not an index"):
        main([str(tmp_path), "x"])


def test_a_question_is_shown_as_text_and_never_as_markup() -> None:
    html = search_page([Answer(text="<b>bold</b>", note="", picture=b"", hits=[])], "<i>")
    assert "<b>bold" not in html
    assert "&lt;b&gt;bold" in html


def test_an_empty_sheet_is_still_a_picture() -> None:
    assert np.asarray(sheet([])).min() == 255
