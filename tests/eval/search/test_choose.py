"""Choosing a kind: limits as they are typed, and the fastest of what keeps within them, on vectors with structure."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.index import Index, Vectors
from eval.index.ivf import Ivf
from eval.index.pq import Pq
from eval.search import choose as module
from eval.search.build import build_gallery, kind_asked
from eval.search.choose import Budget, Candidate, choose, tuned
from eval.search.frontier import best, frontier, frontier_of, label, page
from eval.search.recall import by_query, exact, overlap
from vlp.errors import UserError
from vlp.models.release import Release

DIM = 32


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Pictures around 40 centres, and captions, which lie elsewhere: beside them, as those of two towers do."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, DIM))
    images = centres[rng.integers(0, 40, 3000)] + 0.7 * rng.normal(size=(3000, DIM))
    texts = centres[rng.integers(0, 40, 96)] + 0.7 * rng.normal(size=(96, DIM)) + 2 * np.eye(DIM)[0]
    return tuple((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (images, texts))  # type: ignore[return-value]


def test_docstring_examples() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("text", ["", "2", "GB", "2 sheep", "-1GB", "nanGB", "infGB"])
def test_sizes_that_are_none_are_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match="a number with a unit, such as 2GB"):
        module.bytes_of(text)


def test_a_kind_and_limits_exclude_each_other() -> None:
    with pytest.raises(UserError, match="give one"):
        kind_asked("ivf", (), memory="2GB", recall=None, latency="")
    with pytest.raises(UserError, match=r"--recall is 1\.5"):
        kind_asked("", (), memory="", recall=1.5, latency="")
    assert kind_asked("", (), memory="2GB", recall=0.9, latency="5ms") == Budget(2e9, 0.9, 0.005)


def test_exact_search_in_blocks_is_that_of_numpy(data: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval.search import recall

    monkeypatch.setattr(recall, "BLOCK", 700)
    images, texts = data
    live = np.arange(5, 3000, 2)
    truth = live[np.argsort(-(texts @ images[live].T), axis=1, kind="stable")[:, :10]]
    assert overlap(exact(images, live, texts), truth) > 0.999
    assert overlap(np.full((1, 2), -1), np.array([[3, -1]])) == 0


@pytest.mark.slow
def test_the_choice_keeps_within_its_limits_and_the_rest_is_told(data: tuple) -> None:
    images, texts = data
    kind, measured = choose(images, texts, Budget(recall=0.9))
    chosen = next(one for one in measured if one.kind == module_tree(kind))
    assert chosen.recall >= 0.9
    assert all(one.queries_per_s <= chosen.queries_per_s for one in measured if one.recall >= 0.9)
    assert {one.kind["name"] for one in measured} == {"flat", "hnsw", "ivf", "ivf_sq8", "ivf_pq", "opq", "rabitq"}
    flat = next(one for one in measured if one.kind["name"] == "flat")
    assert flat.recall > 0.999
    assert flat.bytes == pytest.approx(3000 * (DIM * 4 + 8), rel=0.01)
    small, _ = choose(images, texts, Budget(memory=flat.bytes / 2, recall=0.9))
    assert next(one for one in measured if one.kind == module_tree(small)).bytes < flat.bytes / 2
    with pytest.raises(UserError, match=r"the smallest, .* takes .* MB; allow more memory") as caught:
        choose(images, texts, Budget(memory=1000.0))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"the nearest, .* reaches recall"):
        choose(images, texts, Budget(latency_s=1e-9))


def test_an_effort_is_tuned_to_the_least_that_reaches_the_recall(data: tuple) -> None:
    """By halving within a ladder, against every effort measured one after the other."""
    images, texts = data
    made = filled_with(Ivf(cells=32), images)
    truth = exact(images, np.arange(len(images)), texts)
    for wanted in (0.5, 0.9, 0.99):
        chosen = tuned(made, texts, truth, Budget(recall=wanted)).kind
        each = []
        for kind in Ivf(cells=32).ladders()[0]:
            made.kind = kind
            some = by_query(made.search(texts, 10).ids, truth)
            each.append((some.mean() - 1.28 * some.std() / np.sqrt(len(some)) >= wanted, kind))
        assert chosen == next(kind for reaches, kind in each if reaches)
    made = filled_with(Pq(pieces=4), images)  # nothing to turn up: what is there stays
    assert tuned(made, texts, truth, Budget(recall=1.0)).kind == Pq(pieces=4)


def test_what_is_too_large_is_never_built(data: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts = data
    built: list[str] = []
    empty = Index.empty

    def noted(kind: Index, dim: int) -> Vectors:
        built.append(type(kind).__name__)
        return empty(kind, dim)

    monkeypatch.setattr(Index, "empty", noted)
    choose(images, texts, Budget(memory=3000 * (DIM + 8) + 20_000.0, recall=0.5))  # one byte a dimension
    assert set(built) == {"IvfSq8"}


def filled_with(kind: Index, images: np.ndarray) -> Vectors:
    made = kind.empty(DIM)
    made.train(images)
    made.add(images, np.arange(len(images)))
    return made


def module_tree(kind: object) -> dict:
    from eval.search.build import tree_of

    return tree_of(kind)  # type: ignore[arg-type]


def test_a_frontier_has_what_nothing_of_its_kind_beats() -> None:
    one = Candidate({"name": "ivf", "probes": 1}, 0.5, 0.001, 10, 100, False)
    worse = replace(one, kind={"name": "ivf", "probes": 2}, recall=0.4, latency_s=0.002)
    better = replace(one, kind={"name": "ivf", "probes": 4}, recall=0.9, latency_s=0.003, fits=True)
    assert frontier([better, worse, one]) == [one, better]
    other = replace(one, kind={"name": "flat"}, recall=0.3)
    assert best([better, worse, one, other], {}) == [better, other]
    html = page([better, worse, one], better.kind, "<b>")
    assert "<polyline" in html
    assert "chosen" in html
    assert "<b>" not in html.split("<main>")[1]


def test_a_build_within_limits_says_what_it_chose(release: Release, shards: Path, tmp_path: Path) -> None:
    made = build_gallery(release, str(shards), tmp_path / "index", kind=Budget(memory=1e6, recall=0.9))
    assert made.about["kind"]["name"] in {label(one).split()[0] for one in frontier_of(made.files / "frontier.json")}
    assert made.about["measured"]["of"] == "captions"
    assert made.about["measured"]["recall"] >= 0.9
    assert (made.files / "frontier.html").is_file()
    with pytest.raises(UserError, match="allow more memory"):
        build_gallery(release, str(shards), tmp_path / "other", kind=Budget(memory=10.0))
    assert not (tmp_path / "other").exists()
