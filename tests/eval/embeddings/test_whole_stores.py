"""A store has one row for every sample that can be read, and says of every other one why not; or nothing is written."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.sample import Sample
from eval.embeddings import unfinished
from eval.embeddings.embed import embed, main
from eval.embeddings.store import EmbeddingStore
from eval.index.flat import Flat
from eval.search.build import build_gallery
from tests.data_pipelines.test_broken_corpus import CASES, captions
from vlp.errors import UserError
from vlp.files import DiskFull
from vlp.models.release import Release
from vlp.pictures import Limits, decode


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of damage that readers of shards know, each in a tar of its own."""
    folder = tmp_path_factory.mktemp("broken")
    for number, case in enumerate(CASES.values()):
        (folder / f"{number:03d}.tar").write_bytes(case.tar)
    return folder


def test_a_store_of_broken_shards_has_a_row_for_each_readable_sample(
    release: Release, broken: Path, tmp_path: Path
) -> None:
    embed(release, str(broken), tmp_path, skip_damaged=True)
    store, silent = EmbeddingStore.open(tmp_path), set(captions())
    for part, (name, case) in zip(store.parts, CASES.items(), strict=True):
        keys = store.rows(part)["key"].to_pylist()
        unsaid = name in silent and bool(case.reading)  # its picture can be read: a row without a caption
        assert set(case.keys) <= set(keys), name
        assert len(keys) == len(set(keys)) == len(case.keys) + unsaid, name
        assert len(store.images(part)) == len(store.texts(part)) == len(keys)
        lines = (tmp_path / "ledger" / f"ledger_{part}.jsonl").read_text().splitlines()
        lost = Counter[str]()
        for line in map(json.loads, lines):
            lost[line["reason"]] += line["count"]
            assert line["shard"].startswith(str(broken / f"{int(part):03d}.tar"))
            assert bool(line["key"]) == (line["reason"] == case.reading)
        assert lost == Counter(case.index) + Counter({case.reading: 1} if case.reading and not unsaid else {}), name
    ids = [row for part in store.parts for row in store.rows(part)["id"].to_pylist()]
    assert len(set(ids)) == len(ids) == store.count()
    unsaid_reasons = {case.reading for case in captions().values()}
    lost_pictures = sum(bool(case.reading) and case.reading not in unsaid_reasons for case in CASES.values())
    assert store.lost().dropped == sum(sum(case.index.values()) for case in CASES.values()) + lost_pictures


def test_of_texts_alone_samples_without_a_caption_are_in_the_ledger_and_no_picture_is_decoded(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    some = [samples[0], replace(samples[1], captions={}), replace(samples[2], image=b"none")]
    embed(release, str(write(tmp_path / "s", some)), tmp_path / "store", what="texts")
    store = EmbeddingStore.open(tmp_path / "store")
    assert store.what == "texts"
    assert not (tmp_path / "store" / "img_emb").exists()
    assert store.rows("0")["caption"].to_pylist() == ["red circle", samples[2].captions["en"]]
    assert store.texts("0") == pytest.approx(np.asarray(release.embed_texts(["red circle", "green circle"])), abs=1e-6)
    assert store.lost().by_reason() == {"missing caption": 1}
    with pytest.raises(UserError, match=r"holds vectors of texts only, not of pictures; .* --what both"):
        store.images("0")
    with pytest.raises(UserError, match="holds vectors of texts only"):
        build_gallery(release, str(tmp_path / "store"), tmp_path / "index", kind=Flat())


def test_of_pictures_alone_an_index_is_made_with_captions_for_queries(
    release: Release, shards: Path, tmp_path: Path
) -> None:
    embed(release, str(shards), tmp_path / "images", what="images", dtype="float16")
    embed(release, str(shards), tmp_path / "both", dtype="float16")
    one, two = EmbeddingStore.open(tmp_path / "images"), EmbeddingStore.open(tmp_path / "both")
    assert not (tmp_path / "images" / "text_emb").exists()
    for part in one.parts:
        assert np.array_equal(one.images(part), two.images(part))
        assert one.rows(part).equals(two.rows(part))
    with pytest.raises(UserError, match="holds vectors of pictures only"):
        one.texts("0")
    build_gallery(release, str(tmp_path / "images"), tmp_path / "index", kind=Flat())
    with pytest.raises(UserError, match=r"another what \(images, now both\)"):
        embed(release, str(shards), tmp_path / "images", dtype="float16")


def test_rows_have_an_id_the_url_and_all_that_is_known(
    release: Release, samples: list[Sample], write: Callable[..., Path], tmp_path: Path
) -> None:
    known = {"url": "https://example.org/a.png", "tags": ["a", "ü"], "width": 48}
    some = [replace(samples[0], metadata=known), replace(samples[1], metadata={"url": 7})]
    spec = write(tmp_path / "s", some, per_shard=1)
    embed(release, str(spec), tmp_path / "store")
    rows = [row for part in "01" for row in EmbeddingStore.open(tmp_path / "store").rows(part).to_pylist()]
    key = samples[0].key
    assert list(rows[0]) == ["id", "key", "image_path", "caption", "captions", "shard", "url", "metadata"]
    assert (rows[0]["id"], rows[0]["key"], rows[0]["image_path"]) == (f"0/{key}", key, key)
    assert [row["url"] for row in rows] == [known["url"], ""]
    assert json.loads(rows[0]["metadata"]) == known
    assert json.loads(rows[0]["captions"]) == samples[0].captions
    assert rows[1]["shard"] == str(spec / "00001.tar")


@pytest.mark.parametrize("damage", ["nan", "long"])
def test_vectors_that_are_none_leave_nothing(
    release: Release, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    whole = Release.embed_pixels

    def broken(self: Release, image: Tensor, batch: int = 256) -> Tensor:
        made = whole(self, image, batch).clone()
        made[2] = torch.nan if damage == "nan" else 2 * made[2]
        return made

    monkeypatch.setattr(Release, "embed_pixels", broken)
    with pytest.raises(
        UserError, match="NaN or infinity for 1 of 9, first for" if damage == "nan" else "of length 2, not 1, for"
    ):
        embed(release, str(shards), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.toml"]


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(
    release: Release, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = unfinished.write_whole

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def written(path: Path, content: Any) -> None:
        write(path, full if path.name == "metadata_1.parquet" else content)

    monkeypatch.setattr(unfinished, "write_whole", written)
    with pytest.raises(DiskFull, match=r"metadata_1\.parquet could not be written; .* give the same command again"):
        embed(release, str(shards), tmp_path)
    with pytest.raises(UserError, match="has 1 of 3 parts; run the same `vlp embed` again"):
        EmbeddingStore.open(tmp_path)
    monkeypatch.setattr(unfinished, "write_whole", write)
    assert embed(release, str(shards), tmp_path) == 2
    assert EmbeddingStore.open(tmp_path).count() == 24


def test_a_file_of_a_part_that_is_gone_is_named(release: Release, shards: Path, tmp_path: Path) -> None:
    embed(release, str(shards), tmp_path)
    gone = tmp_path / "text_emb" / "text_emb_1.npy"
    gone.unlink()
    with pytest.raises(UserError, match=r"has 2 of 3 parts: .*text_emb_1\.npy is missing; run the same `vlp embed`"):
        EmbeddingStore.open(tmp_path)
    (tmp_path / "store.toml").unlink()  # as clip-retrieval's is
    with pytest.raises(UserError, match=r"text_emb_1\.npy is missing, though other files of part 1 are there"):
        EmbeddingStore.open(tmp_path)


def test_a_store_of_the_format_before_is_read_and_not_gone_on_with(
    release: Release, shards: Path, tmp_path: Path
) -> None:
    embed(release, str(shards), tmp_path)
    about = tmp_path / "store.toml"
    lines = [line for line in about.read_text().splitlines() if not line.startswith(("what", "decode"))]
    about.write_text("\n".join(lines).replace("vlp-embeddings-3", "vlp-embeddings-2"))
    for ledger in (tmp_path / "ledger").iterdir():
        ledger.unlink()
    (tmp_path / "ledger").rmdir()
    store = EmbeddingStore.open(tmp_path)
    assert (store.what, store.count(), store.lost().dropped) == ("both", 24, 0)
    with pytest.raises(UserError, match="begun by another version of vlp"):
        embed(release, str(shards), tmp_path)


def test_scaled_decoding_is_a_choice_that_changes_little(
    release: Release, write: Callable[..., Path], tmp_path: Path
) -> None:
    photo = (Path(__file__).parents[2] / "photos" / "china.jpg").read_bytes()
    with Image.open(Path(__file__).parents[2] / "photos" / "china.jpg") as picture:
        short = min(picture.size)
    assert min(decode(photo, Limits(), least=32).size) == -(-short // 8)
    assert decode(photo, Limits(), least=short).tobytes() == decode(photo, Limits()).tobytes()
    spec = str(write(tmp_path / "s", [Sample("a", photo, "jpg", {"en": "a temple"})]))
    assert likeness(release, spec, tmp_path / "exact", "exact") > 0.99999
    assert 0.98 < likeness(release, spec, tmp_path / "scaled", "scaled") < 0.99999


def likeness(release: Release, spec: str, out: Path, how: str) -> float:
    """The cosine of a picture's vector with that of evaluation."""
    assert main([release.name, spec, str(out), "--decode", how, "--what", "images"]) == 0
    exact = release.embed_images([Path(__file__).parents[2] / "photos" / "china.jpg"])
    return float(EmbeddingStore.open(out).images("0")[0] @ np.asarray(exact)[0])
