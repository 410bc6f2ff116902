"""Captions that are wrong: each kind on what it changes and what it leaves alone, and on their way into a batch."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_pipelines.captions import normalised
from data_pipelines.loading.loader import Loader
from data_pipelines.negatives import Negatives
from data_pipelines.negatives.attribute import Attribute
from data_pipelines.negatives.count import Count
from data_pipelines.negatives.none import NoNegatives
from data_pipelines.negatives.swap import Swap
from data_pipelines.settings import Workers
from data_pipelines.stream import Stream
from vlp.config import build
from vlp.config.components import component, component_names
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop

WriteTar = Callable[[Path, Iterable[tuple[str, bytes]]], Path]
KINDS = [component(Negatives, name) for name in component_names(Negatives)]
CAPTIONS = (
    "a red cat on a blue mat",
    "An orange ball",
    "man: dark skin tone",
    "Three dogs, TWO cats and 4 mice",
    "猫在狗的左边",
    "三只红色的猫和两个人",
    "mat",
    "",
)


def every(kind: Negatives, caption: str, draws: int = 200) -> set[str]:
    return {text for seed in range(draws) for text in kind.of(caption, random.Random(seed))}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("caption", CAPTIONS)
def test_wrong_captions_differ_from_the_caption_and_from_each_other(kind: type[Negatives], caption: str) -> None:
    wanted = 0 if kind is NoNegatives else 4
    for seed in range(20):
        made = kind(count=wanted).of(caption, random.Random(seed))
        assert made == kind(count=wanted).of(caption, random.Random(seed))
        assert len({normalised(text) for text in (*made, caption)}) == 1 + len(made)
        assert len(made) <= wanted


def test_swapped_captions_have_the_same_words_in_another_order() -> None:
    for caption in CAPTIONS[:4]:
        made = every(Swap(), caption)
        assert made
        assert all(Counter(text) == Counter(caption) for text in made)
    assert every(Swap(), "a red cat on a mat") == {"a cat red on a mat", "a red mat on a cat", "a mat cat on a red"}
    assert every(Swap(), "猫在狗的左边") == {"狗在猫的左边"}
    for caption in ("cat and dog", "猫和狗", "cat, dog", "the mat", "cat cat", "红心"):
        assert every(Swap(), caption) == set(), caption


def test_numbers_from_two_to_ten_become_others_in_both_languages() -> None:
    words = {"two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
    assert every(Count(), "three dogs") == {f"{word} dogs" for word in words - {"three"}}
    assert every(Count(), "3 dogs") == {f"{n} dogs" for n in range(2, 11) if n != 3}
    assert every(Count(), "三只狗") == {f"{n}只狗" for n in "两四五六七八九十"}
    assert "Two dogs" in every(Count(), "Three dogs")
    left = ("one dog", "a twofold", "3.5 m", "10:30", "第三个", "十二个人", "25 dogs", "二维码", "two-headed", "3D")
    for caption in left:
        assert every(Count(), caption) == set(), caption


def test_attributes_become_their_siblings_and_articles_follow() -> None:
    assert every(Attribute(), "man: dark skin tone") >= {"woman: dark skin tone", "man: medium-light skin tone"}
    tones = ("medium-light", "medium", "medium-dark", "dark")
    assert every(Attribute(families=("tone",)), "hand: light skin tone") == {f"hand: {t} skin tone" for t in tones}
    made = every(Attribute(), "An orange ball")
    assert "A blue ball" in made
    assert "an orange ball" in {text.lower() for text in every(Attribute(), "a blue ball")}
    assert every(Attribute(), "大型的狗") == {"小型的狗"}
    assert every(Attribute(families=("size",)), "a big red dog") == {"a small red dog"}
    assert every(Attribute(families=(), words={"pet": "cat, dog, 猫"}), "cat") == {"dog", "猫"}
    for caption in ("redo", "Greenland", "左撇子"[1:], "the whiteboard"):
        assert every(Attribute(), caption) == set(), caption


def test_bad_settings_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r'has "color"; did you mean "colour"'):
        Attribute(families=("color",))
    with pytest.raises(UserError, match="give two words or more"):
        Attribute(words={"pet": "cat"})
    with pytest.raises(UserError, match=r'data\.negatives\.name is "none"'):
        build(Stream, {"shards": "x", "negatives": {"name": "none", "count": 2}})


def tokenizer(texts: list[str]) -> Tensor:
    longest = max(map(len, texts))
    return torch.tensor([[*map(ord, t), *[0] * (longest - len(t))] for t in texts], dtype=torch.int64)


def said(row: Tensor) -> str:
    return "".join(map(chr, row[row > 0].tolist()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_tar: WriteTar, picture: Callable[[int], bytes]) -> Path:
    folder = tmp_path_factory.mktemp("negatives")
    for shard in range(2):
        files = []
        for n, caption in enumerate(CAPTIONS[:-1]):
            record = json.dumps({"captions": {"en": caption}}).encode()
            files += [(f"{shard}{n}.png", picture(n)), (f"{shard}{n}.json", record)]
        write_tar(folder / f"{shard}.tar", files)
    return folder


def opened(stream: Stream, *, size: int = 1, state: object = None) -> list[Loader]:
    return [  # type: ignore[return-value]
        stream.open(
            transform=RandomCrop(size=8),
            tokenizer=tokenizer,
            global_batch=6,
            rank=r,
            size=size,
            seed=2,
            state=state,  # type: ignore[arg-type]
        )
        for r in range(size)
    ]


def drawn(loaders: list[Loader], batches: int) -> list[tuple[str, str, tuple[str, ...]]]:
    """Of each row: its key, its caption, and its wrong captions, which are there as `keep` says."""
    rows = []
    for _ in range(batches):
        for loader in loaders:
            batch = next(iter(loader))
            assert batch.negatives is not None
            assert batch.negatives_keep is not None
            assert batch.negatives.shape[:2] == batch.negatives_keep.shape == (len(batch), 2)
            for key, text, wrong, keep in zip(
                batch.keys, batch.text, batch.negatives, batch.negatives_keep, strict=True
            ):
                texts = [said(one) for one in wrong]
                assert all((one == said(text)) != kept for one, kept in zip(texts, keep.tolist(), strict=True))
                rows.append((key, said(text), tuple(one for one, kept in zip(texts, keep, strict=True) if kept)))
    return rows


def test_wrong_captions_follow_from_seed_epoch_and_sample_on_any_layout(folder: Path) -> None:
    stream = Stream(
        shards=str(folder), captions=replace(Stream().captions, weights={"en": 1.0}), negatives=Swap(count=2)
    )
    want = drawn(opened(stream), 9)  # three epochs
    assert {wrong for key, _, wrong in want if key == "06"} == {()}  # "mat" cannot be swapped
    assert {wrong for key, _, wrong in want if key == "04"} == {("狗在猫的左边",)}
    assert len({wrong for key, _, wrong in want if key == "03"}) > 1  # another one in each epoch
    two = opened(stream, size=2)
    assert drawn(two, 4) == want[:24]
    state = [loader.state_dict() for loader in two]
    workers = replace(stream, workers=Workers(count=2, start_method="fork"))
    resumed = opened(workers, size=3, state=state)
    assert drawn(resumed, 5) == want[24:]
    for loader in resumed:
        loader.close()
    plain = opened(replace(stream, negatives=NoNegatives()))[0]
    captions = [said(text) for _, batch in zip(range(9), plain, strict=False) for text in batch.text]
    assert captions == [caption for _, caption, _ in want]  # what is drawn beside them changes no caption
