"""The service answers what the index answers, many at once, and what it does not take is one sentence."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.search.build import build_gallery
from eval.search.compose import composed
from eval.search.gallery import Gallery
from vlp.models.release import Release


def keys(answer: requests.Response) -> list[tuple[str, float]]:
    assert answer.status_code == 200, answer.text
    return [(match["key"], match["score"]) for match in answer.json()["matches"]]


def oracle(index: Path, release: Release, vector: Any, k: int) -> list[tuple[str, float]]:
    hits = Gallery.open(index).search(release, np.atleast_2d(vector), k)[0]
    return [(hit.key, pytest.approx(hit.score, abs=1e-5)) for hit in hits]  # type: ignore[misc]


def test_a_text_gets_what_the_index_answers(address: str, index: Path, release: Release) -> None:
    expected = oracle(index, release, np.asarray(release.embed_texts("红圆")), 7)
    assert keys(requests.get(f"{address}/search", {"text": "红圆", "k": "7"})) == expected
    assert keys(requests.post(f"{address}/search", {"text": "红圆", "k": "7"})) == expected


def test_a_picture_gets_itself_with_its_captions_and_pixels(address: str, samples: list[Sample]) -> None:
    for sample in samples[::5]:
        answer = requests.post(f"{address}/search", {"k": "3"}, files={"image": sample.image})
        own = next(match for match in answer.json()["matches"] if match["key"] == sample.key)
        assert own["score"] == pytest.approx(1, abs=1e-4)
        assert own["captions"] == sample.captions
        assert base64.b64decode(own["image"].partition(",")[2]) == sample.image


def test_a_picture_of_the_index_is_asked_by_its_key(
    address: str, index: Path, release: Release, samples: list[Sample]
) -> None:
    """Its stored vector is the question: alone, beside a text, and as what matches should be more or less like."""
    pictures = np.asarray(release.embed_images([samples[n].image for n in (2, 7, 11)]))
    own, more, less = (samples[n].key for n in (2, 7, 11))
    for answer in (
        requests.get(f"{address}/search", {"like": own, "k": "6"}),
        requests.post(f"{address}/search", {"like": own, "k": "6"}),
    ):
        assert keys(answer) == oracle(index, release, pictures[0], 6)
    text = np.asarray(release.embed_texts("红圆"))
    both = composed(np.concatenate([text, pictures[:1]]), [1.0, 1.0])
    assert keys(requests.get(f"{address}/search", {"like": own, "text": "红圆", "k": "6"})) == oracle(
        index, release, both, 6
    )
    whole = composed(np.concatenate([text, pictures]), [1.0, 0.7, 0.4, -0.4])
    form = {"text": "红圆", "like": own, "image_weight": "0.7", "more_like": more, "less_like": less}
    answer = requests.post(f"{address}/search", {**form, "strength": "0.4", "k": "9"})
    assert keys(answer) == oracle(index, release, whole, 9)
    for name in ("like", "more_like", "less_like"):
        answer = requests.post(f"{address}/search", {name: "../../etc/passwd"})
        assert (answer.status_code, "has no picture with the key" in answer.json()["detail"]) == (422, True)
    answer = requests.post(f"{address}/search", {"text": "x", "more_like": [own] * 5})
    assert answer.status_code == 422


def test_parts_are_added_up_by_their_weights(
    address: str, index: Path, release: Release, samples: list[Sample]
) -> None:
    texts = np.asarray(release.embed_texts(["red circle", "gold square", "blue circle"]))
    pictures = np.asarray(release.embed_images([samples[3].image, samples[8].image]))
    whole = composed(np.concatenate([texts[:2], pictures]), [0.3, 0.8, 0.7, -0.8])
    form = {"text": "red circle", "text_weight": "0.3", "image_weight": "0.7", "more": "gold square", "strength": "0.8"}
    files = {"image": samples[3].image, "less_image": samples[8].image}
    answer = requests.post(f"{address}/search", {**form, "k": "9"}, files=files)
    assert keys(answer) == oracle(index, release, whole, 9)


def test_less_of_something_lowers_its_rank(address: str) -> None:
    """Every picture moves by its own score for the text, so what is most like it moves furthest."""
    plain = dict(keys(requests.post(f"{address}/search", {"text": "red circle", "k": "24"})))
    less = dict(keys(requests.post(f"{address}/search", {"text": "red circle", "less": "gold square", "k": "24"})))
    like = dict(keys(requests.post(f"{address}/search", {"text": "gold square", "k": "24"})))
    norm = (np.array([plain[key] - 0.5 * like[key] for key in less])) / np.array(list(less.values()))
    assert np.allclose(norm, norm[0], atol=1e-3)


def test_a_filter_leaves_the_nearest_of_those_that_fulfil_it(
    address: str, index: Path, release: Release, samples: list[Sample]
) -> None:
    every = oracle(index, release, np.asarray(release.embed_texts("red")), len(samples))
    kept = {s.key for s in samples if s.metadata["subgroup"] == "circle" and s.metadata["artist"] == "artist 1"}
    expected = [(key, score) for key, score in every if key in kept]
    asked = {"text": "red", "where": "subgroup = 'circle' AND artist = 'artist 1'", "k": "50"}
    assert keys(requests.get(f"{address}/search", asked)) == expected
    assert keys(requests.post(f"{address}/search", asked)) == expected
    body = {"text": "red", "where": asked["where"], "num_images": 4}
    rows = requests.post(f"{address}/knn-service", json=body).json()
    assert [(row["id"], row["similarity"]) for row in rows] == expected[:4]
    assert keys(requests.get(f"{address}/search", {**asked, "where": "artist = 'nobody'"})) == []
    columns = {one["name"]: one for one in requests.get(f"{address}/columns").json()["columns"]}
    assert columns["artist"] == {"name": "artist", "type": "text", "values": ["'artist 0'", "'artist 1'"]}
    assert columns["shard"]["values"][0].count("/") == 1  # no path of this machine


def test_clip_retrieval_s_client_is_answered(
    address: str, index: Path, release: Release, samples: list[Sample]
) -> None:
    """It posts JSON without a content type, with fields that mean nothing here."""
    rest = {
        "deduplicate": False,
        "use_safety_model": True,
        "indice_name": "x",
        "aesthetic_weight": 0.5,
        "verbose": False,
    }
    asked = {"text": None, "image": None, "image_url": None, "embedding_input": None, "modality": "image", **rest}
    vector = np.asarray(release.embed_texts("pink square"))[0]
    expected = oracle(index, release, vector, 5)
    for part in ({"text": "pink square"}, {"embedding_input": (3 * vector).tolist()}):
        body = json.dumps({**asked, **part, "num_images": 5, "num_result_ids": 5})
        rows = requests.post(f"{address}/knn-service", data=body).json()
        assert [(row["id"], row["similarity"]) for row in rows] == expected
    body = json.dumps({**asked, "image": base64.b64encode(samples[4].image).decode(), "num_images": 2})
    rows = requests.post(f"{address}/knn-service", data=body).json()
    own = next(row for row in rows if row["id"] == samples[4].key)
    assert own["caption"] == samples[4].captions["en"]
    assert base64.b64decode(own["image"]) == samples[4].image


def test_near_identical_matches_are_folded_where_that_is_asked_for(
    address: str, index: Path, release: Release, samples: list[Sample]
) -> None:
    gallery = Gallery.open(index)
    vector = np.asarray(release.embed_texts("red circle"))
    for fold in (-1.0, 0.5, 0.95):
        expected = gallery.search(release, vector, 5, fold=fold)[0]
        for answer in (
            requests.get(f"{address}/search", {"text": "red circle", "k": "5", "fold": str(fold)}),
            requests.post(f"{address}/search", {"text": "red circle", "k": "5", "fold": str(fold)}),
        ):
            rows = answer.json()["matches"]
            assert [row["key"] for row in rows] == [hit.key for hit in expected]
            assert [row["folded"] for row in rows] == [len(hit.alike) for hit in expected]
            assert [[one["key"] for one in row["alike"]] for row in rows] == [
                [one.key for one in hit.alike] for hit in expected
            ]
    assert sum(row["folded"] for row in rows) >= 1
    body = json.dumps({"text": "red circle", "num_images": 5, "deduplicate": True})
    rows = requests.post(f"{address}/knn-service", data=body).json()
    assert [row["id"] for row in rows] == [hit.key for hit in expected]
    assert requests.post(f"{address}/search", {"text": "x", "fold": "nan"}).status_code == 422


def test_questions_that_come_together_are_answered_together_and_not_mixed_up(
    index: Path, release: Release, samples: list[Sample], serve: Any
) -> None:
    with serve(index, gather_ms=200.0) as address, ThreadPoolExecutor(16) as many:

        def ask(sample: Sample) -> tuple[str, list[tuple[str, float]]]:
            text = f"{sample.captions['en']} {sample.key[-1]}"
            return text, keys(requests.get(f"{address}/search", {"text": text, "k": "4"}))

        for text, found in many.map(ask, samples):
            assert found == oracle(index, release, np.asarray(release.embed_texts(text)), 4)
        lines = requests.get(f"{address}/metrics").text.splitlines()
        numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert float(numbers["vlp_batch_questions_sum"]) == len(samples)
        assert float(numbers["vlp_batch_questions_count"]) <= len(samples) / 3
        assert float(numbers['vlp_requests_total{route="/search",status="200"}']) == len(samples)
        assert float(numbers["vlp_index_pictures"]) == len(samples)


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "png")
    return file.getvalue()


def bad_requests(address: str) -> Iterator[tuple[int, requests.Response]]:
    search, knn = f"{address}/search", f"{address}/knn-service"
    for form in ({}, {"text": "x" * 41}, {"text": "x", "k": "0"}, {"text": "x", "k": "51"}, {"text": "x", "k": "many"}):
        yield 422, requests.post(search, form)
    for form in (
        {"text": "x", "text_weight": "nan"},
        {"text": "x", "text_weight": "inf"},
        {"text": "x", "strength": "-1"},
    ):
        yield 422, requests.post(search, form)
    yield 422, requests.post(search, {"text": "x", "less": "x", "strength": "1"})  # nothing is left of it
    yield 422, requests.post(search, {"text": "x", "more": ["a", "b", "c", "d"]})
    for where in (
        "colour = 1",
        "artist =",
        "1; SELECT 2",
        "read_text('/etc/passwd') = ''",
        "x" * 2001,
        "artist = '\0'",
    ):
        yield 422, requests.get(search, {"text": "x", "where": where})
    yield 422, requests.post(search, {"image_url": "http://127.0.0.1/picture.png"})
    for picture in (b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n", png(101, 100)):
        yield 422, requests.post(search, {"text": "x"}, files={"image": picture})
    yield 413, requests.post(search, files={"image": b"x" * 30_000})
    yield 413, requests.post(knn, data=iter([b"x" * 15_000] * 2))  # in chunks, of a length that nobody says
    yield 400, requests.post(search, data=b"no form", headers={"Content-Type": "multipart/form-data"})
    yield 413, requests.post(knn, data=b'"' + b"x" * 30_000)
    bodies = [b"", b"no json", b"[" * 10_000, b"\xff", b"{}", b"[]", b'{"text": 1}', b'{"embedding_input": [1e999]}']
    bodies += [
        b'{"embedding_input": [0, 1]}',
        b'{"image": "?"}',
        b'{"image": "bm8="}',
        b'{"text": "x", "num_images": 51}',
    ]
    bodies += [b'{"text": "x", "modality": "text"}', b'{"text": "x", "num_images": 1e99}']
    for body in bodies:
        yield 422, requests.post(knn, data=body)
    yield 422, requests.get(search)
    yield 404, requests.get(f"{address}/../../../../etc/passwd")
    yield 404, requests.get(f"{address}/index.toml")
    yield 405, requests.delete(search)


def test_what_is_not_taken_is_one_sentence_with_its_status(address: str) -> None:
    for status, answer in bad_requests(address):
        assert answer.status_code == status, (answer.request.url, answer.request.body, answer.text)
        assert "\n" not in answer.json()["detail"], answer.text
    assert requests.get(f"{address}/search", {"text": "\ud800 \x00 \x1b[31m".encode("utf-8", "surrogatepass")}).ok
    assert requests.get(f"{address}/health").json()["status"] == "ok"


def test_the_document_describes_every_route_and_every_refusal(address: str) -> None:
    document = requests.get(f"{address}/openapi.json").json()
    assert set(document["paths"]) == {"/search", "/knn-service", "/columns", "/health", "/metrics", "/"}
    for name in ("/search", "/knn-service"):
        for operation in document["paths"][name].values():
            assert operation["description"]
            assert {"401", "413", "422", "429", "503"} <= set(operation["responses"])


def test_an_index_of_captions_answers_with_them(
    release: Release, shards: Path, samples: list[Sample], serve: Any, tmp_path: Path
) -> None:
    gallery = build_gallery(release, str(shards), tmp_path / "index", kind=Flat(), of="captions")
    expected = gallery.search(release, np.asarray(release.embed_images([samples[4].image])), 5)[0]
    with serve(tmp_path / "index") as address:
        answer = requests.post(f"{address}/search", {"k": "5"}, files={"image": samples[4].image}).json()
        assert (answer["of"], answer["pictures"]) == ("captions", 48)
        assert [match["captions"] for match in answer["matches"]] == [hit.captions for hit in expected]
        assert requests.get(f"{address}/health").json()["of"] == "captions"
        asked = {"image": base64.b64encode(samples[4].image).decode(), "num_images": 5}
        rows = requests.post(f"{address}/knn-service", data=json.dumps({**asked, "modality": "text"})).json()
        assert [row["caption"] for row in rows] == [next(iter(hit.captions.values())) for hit in expected]
        refused = requests.post(f"{address}/knn-service", data=json.dumps({**asked, "modality": "image"}))
        assert refused.status_code == 422
        assert refused.json()["detail"] == 'modality is "image", but this index holds captions; ask for "text"'
