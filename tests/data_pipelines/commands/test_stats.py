"""`vlp shards stats` against numbers that are known because the test made the shards."""

from __future__ import annotations

import doctest
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data_pipelines.commands import stats
from data_pipelines.commands.counting import count, words
from data_pipelines.commands.stats import main, tree
from data_pipelines.commands.stats_page import bars
from data_pipelines.commands.tallies import Histogram
from data_pipelines.shards import manifest
from data_pipelines.shards.shard_set import BUNDLED
from vlp.cli import run
from vlp.errors import UserError


def picture(size: tuple[int, int], kind: str = "PNG", colour: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour, 1, 2)).save(file, kind)
    return file.getvalue()


@pytest.fixture
def shards(tmp_path: Path, write_tar: Callable[..., Path]) -> Path:
    """Two tars, four good samples, one whose picture is none, one without a picture, one without a caption."""
    folder = tmp_path / "set"
    folder.mkdir()
    table = json.dumps({"captions": {"en": ["A red ball.", "a  RED ball"], "zh": "红球 two"}}).encode()
    files = [
        [
            ("a.png", picture((20, 10))),
            ("a.json", table),
            ("b.jpg", picture((30, 30), "JPEG")),
            ("b.txt", b"a red ball"),
        ],
        [("c.webp", picture((20, 10), "WEBP")), ("c.txt", b"it's"), ("d.png", picture((20, 10))), ("d.txt", b"four")],
    ]
    files[1] += [
        ("e.png", b"no picture"),
        ("e.txt", b"five"),
        ("f.txt", b"six"),
        ("g.png", picture((1, 1))),
        ("g.cls", b"3"),
    ]
    for n, members in enumerate(files):
        write_tar(folder / f"{n:05d}.tar", members)
    return folder


def test_every_number_is_the_one_that_was_made(shards: Path) -> None:
    numbers = tree(str(shards), count(str(shards)))
    assert (numbers["samples"], numbers["shards"]) == (6, 2)
    assert numbers["tar_bytes"] == sum(path.stat().st_size for path in shards.glob("*.tar"))
    assert numbers["not_delivered"] == {"missing picture": 1}
    assert (numbers["samples_per_shard"]["least"], numbers["samples_per_shard"]["greatest"]) == (2, 4)
    pictures, captions = numbers["pictures"], numbers["captions"]
    assert pictures["formats"] == {"png": 3, "jpeg": 1, "webp": 1}
    assert pictures["unreadable_headers"] == 1
    assert pictures["sizes"]["most_frequent"] == {"20 x 10": 3, "1 x 1": 1, "30 x 30": 1}
    assert (pictures["width_pixels"]["p50"], pictures["height_pixels"]["greatest"]) == (20, 30)
    assert pictures["aspect_width_over_height"]["greatest"] == 2
    assert pictures["same_file_as_another"] == {"count": 1, "exact": True}
    assert captions["samples_without"] == 1
    assert {code: (one["samples"], one["captions"]) for code, one in captions["languages"].items()} == {
        "en": (5, 6),
        "zh": (1, 1),
    }
    assert captions["languages"]["zh"]["words"]["greatest"] == 3
    assert (captions["captions"], captions["distinct"], captions["repeated"]) == (7, 5, 2)
    assert captions["said_most"]["captions"]["a red ball"] == 3


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("a red ball", 3),
        ("it's half-open – yes!", 3),
        ("一只 cat", 3),
        ("ありがとう", 5),
        ("고양이 두 마리", 3),
        ("बिल्ली घर", 2),
    ],
)
def test_a_word_is_what_it_is_said_to_be(text: str, count: int) -> None:
    assert words(text) == count
    assert doctest.testmod(stats).failed == 0


def test_the_command_writes_a_page_and_json_that_agree(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, numbers = tmp_path / "new/s.html", tmp_path / "new/s.json"
    assert run(["shards", "stats", str(shards / "{00000..00001}.tar"), "--out", str(page), "--json", str(numbers)]) == 0
    held = json.loads(numbers.read_text())
    assert held["samples"] == 6
    html = page.read_text()
    assert "missing picture" in html
    assert "a red ball" in html
    assert (
        html.count("<svg") == 6
    )  # width, height, aspect, bytes, shards, words of en; one caption in zh makes no chart
    assert "http" not in html.replace("http://www.w3.org", ""), "the page fetches something"
    told = capsys.readouterr().out
    assert "6 samples in 2 shards" in told
    assert "missing caption: 1" in told
    with pytest.raises(UserError, match=r"name it s\.html"):
        main([str(shards), "--out", str(tmp_path / "s.png")])


def test_captions_are_escaped_on_the_page(tmp_path: Path, write_tar: Callable[..., Path]) -> None:
    write_tar(tmp_path / "0.tar", [("a.png", picture((2, 2))), ("a.txt", b"<script>alert(1)</script>")])
    assert main([str(tmp_path), "--out", str(tmp_path / "s.html")]) == 0
    assert "<script>" not in (tmp_path / "s.html").read_text()


def test_bundled_shards_and_damaged_ones_are_counted(tmp_path: Path, make_shards: Callable[..., Path]) -> None:
    assert count("bundled:emoji/val").samples == manifest.read(BUNDLED / "emoji/val").samples
    folder = make_shards(tmp_path / "set", [5, 5])
    (folder / "00001.tar").write_bytes((folder / "00001.tar").read_bytes()[:5000])
    lost = count(str(folder)).lost
    assert set(lost) <= {"cut, unknown loss", "truncated tail", "missing picture", "missing caption"}
    assert sum(lost.values()) == 10 - count(str(folder)).samples
    (folder / "00000.tar").write_bytes(b"\0" * 10240)
    (folder / "00001.tar").unlink()
    with pytest.raises(UserError, match="has no sample that can be read"):
        count(str(folder))


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("values", [range(1, 8), range(1, 900), [1, 5000], [3] * 4])
def test_bars_hold_every_value_but_the_outer_ones(values: list[int], logarithmic: bool) -> None:
    numbers = Histogram()
    for value in values:
        numbers.add(value)
    drawn = bars(numbers, logarithmic=logarithmic)
    assert len(drawn) <= 41
    if len(set(values)) == 1:
        assert drawn == []
    else:
        assert sum(bar.count for bar in drawn) >= 0.985 * len(values)
        assert all(one.high == pytest.approx(other.low) for one, other in itertools.pairwise(drawn))
