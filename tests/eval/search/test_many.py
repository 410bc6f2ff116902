"""Many queries at once: each answered as if it were alone; a bad line is named, and nothing is half-written."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.search import many
from eval.search.asked import Query
from eval.search.build import build_gallery
from eval.search.compose import composed
from eval.search.gallery import Gallery
from eval.search.many import write_answers
from eval.search.query import main
from vlp.errors import UserError
from vlp.models.release import Release


@pytest.fixture(scope="module")
def gallery(release: Release, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return build_gallery(release, str(shards), tmp_path_factory.mktemp("many") / "index", kind=Flat())


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_texts_line_by_line_are_answered_in_order_whatever_the_blocks(
    gallery: Gallery, release: Release, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [sample.captions[language] for sample in samples for language in ("en", "zh")]
    (tmp_path / "q.txt").write_text("\ufeff" + "\r\n\n".join(texts), encoding="utf-8")
    asked = [str(gallery.folder), "--queries", str(tmp_path / "q.txt"), "-k", "4"]
    assert main([*asked, "--json", str(tmp_path / "a.jsonl")]) == 0
    monkeypatch.setattr(many, "QUERIES_AT_ONCE", 7)
    assert main([*asked, "--json", str(tmp_path / "b.jsonl")]) == 0
    scores = np.asarray(release.embed_texts(texts)) @ np.load(gallery.files / "vectors.npy").T
    for file in ("a.jsonl", "b.jsonl"):
        made = rows(tmp_path / file)
        assert [row["query"] for row in made] == [{"text": text, "k": 4} for text in texts]
        assert [row["line"] for row in made] == [2 * i + 1 for i in range(len(texts))]
        best = np.sort(scores, axis=1)[:, :-5:-1]
        assert np.allclose([[hit["score"] for hit in row["hits"]] for row in made], best, atol=1e-5)


def test_lines_of_json_have_parts_pictures_and_a_k_of_their_own(
    gallery: Gallery,
    release: Release,
    samples: list[Sample],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.png").write_bytes(samples[3].image)
    (tmp_path / "b.png").write_bytes(samples[8].image)
    lines = [
        {"text": "red", "less": "gold", "k": 3},
        {"image": str(tmp_path / "a.png"), "more_image": [str(tmp_path / "b.png")], "strength": 1, "k": 24},
        {"image": str(tmp_path / "a.png"), "text": "blue", "text_weight": 0.2},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert main([str(gallery.folder), "--queries", "-", "-k", "5", "--more", "circle"]) == 0
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    red, gold, circle, blue = np.asarray(release.embed_texts(["red", "gold", "circle", "blue"]))
    a, b = np.asarray(release.embed_images([samples[3].image, samples[8].image]))
    wanted = [
        (composed(np.stack([red, circle, gold]), [1, 0.5, -0.5]), 3),
        (composed(np.stack([a, circle, b]), [1, 1, 1]), 24),
        (composed(np.stack([blue, a, circle]), [0.2, 1, 0.5]), 5),
    ]
    for row, (vector, k) in zip(made, wanted, strict=True):
        expected = gallery.search(release, vector[None], k)[0]
        assert [hit["key"] for hit in row["hits"]] == [hit.key for hit in expected]
        assert [hit["captions"] for hit in row["hits"]] == [hit.captions for hit in expected]
        assert all(hit["shard"].endswith(".tar") for hit in row["hits"])


def test_each_line_has_a_filter_of_its_own_and_folds_within_it(
    gallery: Gallery, release: Release, tmp_path: Path
) -> None:
    lines = [{"text": "red", "where": f"subgroup = '{shape}'"} for shape in ("circle", "square", "circle")]
    (tmp_path / "q").write_text("\n".join(map(json.dumps, [*lines, {"text": "red"}])))
    asked = [str(gallery.folder), "--queries", str(tmp_path / "q"), "-k", "24", "--json", str(tmp_path / "o")]
    assert main(asked) == 0
    red = np.asarray(release.embed_texts("red"))
    every = [hit.key for hit in gallery.search(release, red, 24)[0]]
    for row, shape in zip(rows(tmp_path / "o"), ("circle", "square", "circle", ""), strict=True):
        assert [hit["key"] for hit in row["hits"]] == [key for key in every if shape in key]
    assert main([*asked, "--where", "subgroup = 'circle'", "--fold", "--fold-at", "-1"]) == 0
    for row, shape in zip(rows(tmp_path / "o"), ("circle", "square", "circle", "circle"), strict=True):
        (hit,) = row["hits"]
        assert [hit["key"], *hit["alike"]] == [key for key in every if shape in key]


BAD = [
    ('{"text": "a"}\n{"txt": "b"}', r'line 2 of .*q: there is no field "txt"; did you mean "text"'),
    ('{"text": "a"}\n\nb', r"line 3 of .*: it is not JSON"),
    ('{"text": "a"}\n[1]', r"line 2 of .*: it is \[1\], expected an object"),
    ('{"text": 3}', 'line 1 of .*: "text" is 3, expected a string'),
    ('{"text": "a", "k": true}', '"k" is true, expected a whole number from 1 to 100,000'),
    ('{"text": "a", "k": 0}', "k is 0"),
    ('{"text": "a", "k": 1e99}', '"k" is 1e'),
    ('{"text": "a", "text_weight": NaN}', '"text_weight" is NaN'),
    ('{"text": "a", "strength": -1}', "strength is -1.0"),
    ('{"text": "a", "more": [1]}', '"more" is'),
    ('{"text": " "}', "line 1 of .*: the question is empty"),
    ('{"image": "/none.png"}', "line 1 of .*: there is no picture /none.png"),
    ('{"text": "a", "less": "a", "strength": 1}', "line 1 of .*: the parts of the question cancel each other"),
    ('{"text": "a", "where": "colour = 3"}', "line 1 of .*: the filter names"),
    ("[" * 100_000, ""),
    ('{"text": "a"}\n{"text": ' + "[" * 100_000, "line 2 of .*: it is not JSON"),
    ("a\n" + "x" * 1_000_001, "line 2 of .*: it has more than 1,000,000 bytes"),
    ('a\n{"text": "b"}', "line 2 of .*: it looks like JSON, but the first line is a text"),
    ("a\n\udcff", "line 2 of .*: it is not text in UTF-8"),
    ("\n \n", "q has no queries"),
]


@pytest.mark.parametrize("text, told", BAD, ids=range(len(BAD)))
def test_a_bad_line_is_named_and_nothing_is_written(
    gallery: Gallery, release: Release, tmp_path: Path, text: str, told: str
) -> None:
    (tmp_path / "q").write_bytes(text.encode("utf-8", "surrogateescape"))
    (tmp_path / "o").write_text("of before")
    asked = partial(write_answers, gallery, release, tmp_path / "q", tmp_path / "o", base=Query())
    if not told:
        assert asked() == 1  # a text, whatever it begins with
        return
    with pytest.raises(UserError, match=told) as error:
        asked()
    assert "\n" not in str(error.value)
    assert (tmp_path / "o").read_text() == "of before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o", "q"]


def test_a_picture_that_is_none_is_named_with_its_line(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.png").write_bytes(b"no picture")
    (tmp_path / "q").write_text('{"text": "a"}\n' * 9 + json.dumps({"image": str(tmp_path / "p.png")}))
    monkeypatch.setattr(many, "QUERIES_AT_ONCE", 2)
    with pytest.raises(UserError, match=r"line 10 of .*p\.png cannot be searched for: undecodable picture"):
        main([str(gallery.folder), "--queries", str(tmp_path / "q"), "--json", str(tmp_path / "o")])
    assert not (tmp_path / "o").exists()


def test_what_does_not_go_together_is_refused(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "q").write_text("a")
    given = [str(gallery.folder), "--queries", str(tmp_path / "q")]
    for more, told in (
        (["text"], "leave TEXT and --image out"),
        (["--html", "x.html"], "--html and --grid show one"),
        (["-k", "0"], "-k is 0"),
    ):
        with pytest.raises(UserError, match=told):
            main([*given, *more])
    with pytest.raises(UserError, match="there is no such file"):
        main([str(gallery.folder), "--queries", str(tmp_path / "none")])


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "q").write_text("red\n" * 5_000)
    command = [sys.executable, "-m", "vlp.cli", "search", str(gallery.folder), "--queries", str(tmp_path / "q")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["line"] == 1
        process.stdout.close()
        error = process.stderr.read() if process.stderr is not None else b""
        assert process.wait(120) == 0, error
    assert b"Traceback" not in error
    assert b"BrokenPipe" not in error
