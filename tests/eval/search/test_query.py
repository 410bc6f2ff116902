"""`vlp search`: text and picture, table, page and sheet, and clear refusals."""

from __future__ import annotations

import io
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
from PIL import Image

from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.search.answer import Answer
from eval.search.build import build_gallery
from eval.search.compose import composed
from eval.search.gallery import Gallery
from eval.search.page import search_page
from eval.search.query import main, sheet
from eval.search.versions import Version
from vlp.errors import UserError
from vlp.files import sha256
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


def test_parts_are_added_up_by_their_weights(
    index: Path, release: Release, samples: list[Sample], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, sample in (("asked", samples[7]), ("less", samples[9])):
        (tmp_path / f"{name}.png").write_bytes(sample.image)
    flags = ["--image", str(tmp_path / "asked.png"), "--less-image", str(tmp_path / "less.png"), "--more", "gold"]
    flags += ["--more", "circle", "--text-weight", "0.4", "--image-weight", "0.7", "--strength", "0.3", "-k", "9"]
    assert (
        main([str(index), "red", *flags, "--json", str(tmp_path / "o.json"), "--html", str(tmp_path / "o.html")]) == 0
    )
    parts = [
        *release.embed_texts(["red", "gold", "circle"]),
        *release.embed_images([samples[7].image, samples[9].image]),
    ]
    vector = composed(np.stack([np.asarray(part) for part in parts]), [0.4, 0.3, 0.3, 0.7, -0.3])
    expected = Gallery.open(index).search(release, vector[None], 9)[0]
    row = json.loads((tmp_path / "o.json").read_text())
    assert [hit["key"] for hit in row["hits"]] == [hit.key for hit in expected]
    assert [hit["score"] for hit in row["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert row["query"]["more"] == ["gold", "circle"]
    assert "more like gold" in capsys.readouterr().out
    page = (tmp_path / "o.html").read_text()
    assert page.count("data:image/png;base64,") == 10  # nine matches, and the picture that was asked by
    assert "<q>red</q>" in page


def test_folded_matches_say_how_many_they_stand_for(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--fold", "--fold-at", "-1", "-k", "3", "--json", "-", "--html", str(tmp_path / "o.html")]
    assert main([str(index), "red", *flags]) == 0
    (hit,) = json.loads(capsys.readouterr().out)["hits"]  # and there is no table
    assert len({hit["key"], *hit["alike"]}) == 24
    assert "+23 alike" in (tmp_path / "o.html").read_text()


def test_bad_questions_are_refused(index: Path, other_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ask by a text"):
        main([str(index)])
    with pytest.raises(UserError, match="cancel each other"):
        main([str(index), "red", "--less", "red", "--strength", "1"])
    with pytest.raises(UserError, match=r"strength is -1\.0, but it should be a number from 0 to 1,000,000"):
        main([str(index), "red", "--less", "red", "--strength", "-1"])
    with pytest.raises(UserError, match="text_weight is nan"):
        main([str(index), "red", "--text-weight", "nan"])
    with pytest.raises(UserError, match="no picture"):
        main([str(index), "x", "--less-image", str(tmp_path / "none.png")])
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


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


def forge(index: Path, **columns: object) -> None:
    """Give every row of an index these values, with checksums that agree."""
    index = Version.current(index).files
    path = index / "rows.arrow"
    table = pa.ipc.open_file(path).read_all()
    for name, value in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array([value] * len(table), table.schema.types[at]))
    with pa.ipc.new_file(path, table.schema) as file:
        file.write_table(table)
    about = tomllib.loads((index / "index.toml").read_text())
    about["sha256"]["rows.arrow"], about["bytes"]["rows.arrow"] = sha256(path), path.stat().st_size
    (index / "index.toml").write_text(tomli_w.dumps(about))


@pytest.fixture
def own(release: Release, shards: Path, tmp_path: Path) -> Path:
    return build_gallery(release, str(shards), tmp_path / "own", kind=Flat()).folder


def test_a_thumbnail_that_is_a_program_is_not_run(own: Path, tmp_path: Path) -> None:
    forge(own, thumbnail=EPS)
    with pytest.raises(UserError, match=r"the thumbnail of .* cannot be shown: undecodable picture"):
        main([str(own), "red circle", "--grid", str(tmp_path / "f.png")])
    assert main([str(own), "red circle", "--html", str(tmp_path / "f.html")]) == 0
    assert "PS-Adobe" not in (tmp_path / "f.html").read_text()


def test_captions_and_keys_from_elsewhere_are_shown_and_not_obeyed(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"en": "[/red] \x1b[2J\u202e" + "x" * 100_000, **{f"l{i}": "y" for i in range(1000)}}
    forge(own, captions=json.dumps(said), key="k\x1b]0;t\x07" + "z" * 1000)
    assert main([str(own), "[/red]\x1b[2J", "-k", "2", "--html", str(tmp_path / "f.html")]) == 0
    seen, page = capsys.readouterr().out, (tmp_path / "f.html").read_text()
    assert "\x1b" not in seen + page
    assert "[/red]" in seen
    assert len(seen) < 20_000
    assert len(page) < 50_000


@pytest.mark.parametrize("captions", ["[1]", "{", "[" * 100_000, "null"])
def test_rows_that_are_none_are_one_sentence(own: Path, captions: str) -> None:
    forge(own, captions=captions)
    with pytest.raises(UserError, match="has no rows for these matches"):
        main([str(own), "red circle"])


@pytest.mark.parametrize(
    "text",
    ["format = ", "\x00", "", 'format = "vlp-index-1"', 'format = "vlp-index-1"\nsha256 = 3', 'format = ["\\u001b"]'],
)
def test_an_index_toml_that_says_too_little_is_one_sentence(own: Path, text: str) -> None:
    for path in (Version.current(own).files / "index.toml", own / "index.toml"):
        path.write_text(text)
        with pytest.raises(UserError, match="again"):
            main([str(own), "red circle"])


def test_small_pictures_of_other_kinds_are_kept_as_what_browsers_show(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    bmp = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(bmp, "BMP")
    folder = write(tmp_path / "bmp", [Sample("a", bmp.getvalue(), "png", {"en": "red"}), *samples[:2]])
    hits = build_gallery(release, str(folder), tmp_path / "i", kind=Flat()).search(release, np.eye(1, 32), 3)[0]
    small = next(hit for hit in hits if hit.key == "a")
    assert small.thumbnail[:4] == b"RIFF"
    assert small.picture().getpixel((9, 9))[0] > 250
