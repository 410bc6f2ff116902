"""A new version of the index is asked from the next question on; none is dropped, and a broken one changes nothing."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from data_pipelines.sample import Sample
from eval.index.flat import Flat
from eval.search import live
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.service.current import Current
from tests.eval.conftest import write_shards
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.models import release as releases
from vlp.models.release import Release

BEFORE = Path(__file__).parents[2] / "written_before"


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_open_gallery_answers_from_what_it_opened(release: Release, samples: list[Sample], tmp_path: Path) -> None:
    first, second = (write_shards(tmp_path / name, some) for name, some in (("a", samples[:12]), ("b", samples[12:])))
    gallery = build_gallery(release, str(first), tmp_path / "index", kind=Flat())
    query = np.asarray(release.embed_texts(["red circle"]))
    before = gallery.search(release, query, 12)
    build_gallery(release, str(second), tmp_path / "index", kind=Flat())
    assert gallery.search(release, query, 12) == before
    shutil.rmtree(tmp_path / "index")
    assert gallery.search(release, query, 12) == before


def test_versions_are_swapped_without_a_dropped_request(
    release: Release, other_model: Path, samples: list[Sample], tmp_path: Path, serve: Any
) -> None:
    """Two sets without a common picture, and another model at the end: each answer is of one version alone."""
    sets = [write_shards(tmp_path / name, some) for name, some in (("a", samples[:12]), ("b", samples[12:]))]
    folder = tmp_path / "index"
    build_gallery(release, str(sets[0]), folder, kind=Flat())
    stop, statuses, kinds = threading.Event(), set(), set()

    def ask(address: str) -> None:
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.get(f"{address}/search", params={"text": "red circle", "k": "12"})
                statuses.add(answer.status_code)
                kinds.add(frozenset(match["key"] for match in answer.json()["matches"]))

    with serve(folder) as address:
        threads = [threading.Thread(target=ask, args=(address,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for swap, model in enumerate((release, release, releases.load(other_model)), 1):
            build_gallery(model, str(sets[swap % 2]), folder, kind=Flat())
            eventually(lambda swap=swap: requests.get(f"{address}/health").json()["swaps"] == swap)  # type: ignore[misc]
        time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join()
        assert requests.get(f"{address}/health").json()["model"] == releases.load(other_model).id[:12]
    assert statuses == {200}
    assert kinds == {frozenset(s.key for s in samples[:12]), frozenset(s.key for s in samples[12:])}


def test_an_index_of_an_earlier_version_answers_by_key_from_the_small_picture(serve: Any, tmp_path: Path) -> None:
    """It kept no vectors: the picture of the row is embedded again."""
    shutil.copytree(BEFORE, tmp_path / "before")
    gallery = Gallery.open(tmp_path / "before" / "index")
    assert gallery.vector(0) is None
    row = next(gallery.rows.at(np.array([3])))[1]
    with serve(tmp_path / "before" / "index") as address:
        by_key = requests.get(f"{address}/search", {"like": row["key"], "k": "5"}).json()["matches"]
        own = requests.post(f"{address}/search", {"k": "5"}, files={"image": row["thumbnail"]}).json()["matches"]
        assert [match["key"] for match in by_key] == [match["key"] for match in own]
        assert requests.get(f"{address}/health").json()["recall"] is None


def test_a_version_whose_recall_has_fallen_is_told(
    release: Release, shards: Path, serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "index"
    build_gallery(release, str(shards), folder, kind=Flat())
    with serve(folder) as address:
        before = requests.get(f"{address}/health").json()
        assert (before["recall"], before["recall_built"], before["recall_fallen"]) == (1.0, 1.0, False)
        made = build_gallery(release, str(shards), tmp_path / "other" / "index", kind=Flat()).files
        about = (made / "index.toml").read_text()
        (made / "index.toml").write_text(about.replace("recall = 1.0", "recall = 0.75"))
        made.replace(folder / "versions" / "000002")
        write_whole(folder / "index.toml", (folder / "index.toml").read_text().replace("000001", "000002"))
        eventually(lambda: requests.get(f"{address}/health").json()["swaps"] == 1)
        after = requests.get(f"{address}/health").json()
        assert (after["recall"], after["recall_built"], after["recall_fallen"]) == (0.75, 1.0, True)
        eventually(lambda: "vlp_index_recall 0.75" in requests.get(f"{address}/metrics").text)
    assert [record for record in caplog.records if "vlp index compact" in record.message]


def test_an_open_gallery_finds_by_key_what_it_opened(release: Release, samples: list[Sample], tmp_path: Path) -> None:
    first = write_shards(tmp_path / "a", samples[:12])
    gallery = build_gallery(release, str(first), tmp_path / "index", kind=Flat())
    live.remove([samples[4].key], tmp_path / "index")
    later = Gallery.open(tmp_path / "index")
    shutil.rmtree(tmp_path / "index")
    for n in (0, 4, 11):
        vector = gallery.vector(gallery.with_key(samples[n].key))
        assert vector is not None
        assert np.allclose(vector, np.asarray(release.embed_images([samples[n].image]))[0], atol=1e-5)
    for other, key in ((gallery, samples[12].key), (later, samples[4].key)):
        with pytest.raises(UserError, match="has no picture with the key"):
            other.with_key(key)
    assert later.with_key(samples[5].key) == gallery.with_key(samples[5].key)


def test_a_version_that_cannot_be_opened_changes_nothing(
    release: Release, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_gallery(release, str(shards), tmp_path / "index", kind=Flat())
    current = Current(tmp_path / "index")
    before = current.version
    assert not current.look()
    pointer = tmp_path / "index" / "index.toml"
    pointer.write_text(re.sub(r'version = "\d+"', 'version = "000009"', pointer.read_text()))
    assert not current.look()
    assert not current.look()
    assert len([record for record in caplog.records if "version before is still asked" in record.message]) == 1
    shutil.rmtree(tmp_path / "index")
    assert not current.look()
    assert current.version is before
    build_gallery(release, str(shards), tmp_path / "index", kind=Flat())
    assert current.look()
    assert current.version is not before
    assert current.version.release is before.release


def test_an_index_of_another_model_is_refused_before_it_is_served(index: Path, other_model: Path) -> None:
    with pytest.raises(UserError, match=r"was built by the model .* give the model it was built with by --model"):
        Current(index, model=str(other_model))
    with pytest.raises(UserError, match="is not an index"):
        Current(index.parent / "elsewhere")
    assert len(Gallery.open(index).vectors) == len(Current(index).version.gallery.vectors)
