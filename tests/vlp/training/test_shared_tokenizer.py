from __future__ import annotations

from pathlib import Path

import pytest

from vlp.distributed.background import BackgroundGroup
from vlp.models.tokenizer import Bpe, Tokenizer
from vlp.training.shared_tokenizer import Use, shared_tokenizer

TEXTS = ["a red heart", "a blue heart", "红心"] * 3


class Made:
    """Counts how often a tokenizer is trained."""

    def __init__(self, vocab: int = 270) -> None:
        self.times, self.vocab = 0, vocab

    def __call__(self) -> Tokenizer:
        self.times += 1
        return Bpe(vocab=self.vocab, context=9).train(TEXTS)


def get(run: Path, made: Made, use: Use = "same") -> Tokenizer:
    return shared_tokenizer(run, {"vocab": made.vocab}, made, BackgroundGroup(), use=use)


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    made = Made()
    first, second = get(tmp_path, made), get(tmp_path, made)
    assert made.times == 1
    assert (second.vocab, second.context) == (first.vocab, 9)
    assert second(TEXTS).tolist() == first(TEXTS).tolist()


@pytest.mark.parametrize("how", ["asked", "other settings", "damaged", "cut"])
def test_it_is_made_again(tmp_path: Path, how: str) -> None:
    get(tmp_path, Made())
    path = tmp_path / "tokenizer.json"
    if how == "damaged":
        path.write_text(path.read_text().replace("merges", "purges"))
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    made = Made(280 if how == "other settings" else 270)
    assert get(tmp_path, made, "new" if how == "asked" else "same").vocab == made().vocab
    assert made.times == 2
    get(tmp_path, made)
    assert made.times == 2  # and kept


def test_a_run_that_goes_on_has_the_one_that_is_kept_whatever_it_was_made_of(tmp_path: Path) -> None:
    get(tmp_path, Made())
    other = Made(280)
    assert get(tmp_path, other, "kept").vocab != other().vocab
    assert other.times == 1
