"""A pipeline of the user's own as the source of batches: webdataset's real one, and what is said of bad ones."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipelines.ledger import DropBudgetExceeded, Ledger
from data_pipelines.loading.pipeline import PipelineLoader, pixels_of, record_of
from data_pipelines.loading.position import merge_states
from data_pipelines.settings import Captions, Decoding, Workers
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import BUNDLED, ShardSet
from data_pipelines.stream import Stream
from vlp.errors import UserError
from vlp.models.image_transform import RandomCrop

VAL = BUNDLED / "emoji/val"
PIPES = f"""
import webdataset
from pathlib import Path

TARS = sorted(str(path) for path in Path({str(VAL)!r}).glob("*.tar"))
calls = []

def samples(rank, size, seed, epoch):
    calls.append((rank, size, seed, epoch))
    pipe = webdataset.WebDataset(TARS, shardshuffle=False).shuffle(100, seed=seed + epoch)
    return pipe.slice(rank, None, size)

def decoded(rank, size, seed, epoch):
    return samples(rank, size, seed, epoch).decode("pil")

def alike():
    return webdataset.WebDataset(TARS, shardshuffle=False)

def tuples():
    return alike().to_tuple("webp", "txt")

def number():
    return 5

def nothing():
    return []
"""
SAME = RandomCrop(size=64, scale=(1.0, 1.0), ratio=(1.0, 1.0))


def tokenizer(texts: list[str]) -> torch.Tensor:
    rows = [[ord(c) % 250 + 1 for c in t] for t in texts]
    longest = max(map(len, rows))
    return torch.tensor([r + [0] * (longest - len(r)) for r in rows], dtype=torch.int64)


@pytest.fixture
def pipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"pipes_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PIPES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def opened(
    source: str, batch: int = 16, rank: int = 0, size: int = 1, state: Any = None, **more: Any
) -> PipelineLoader:
    loader = Stream(source=source, **more).open(
        transform=SAME, tokenizer=tokenizer, global_batch=batch, rank=rank, size=size, seed=3, state=state
    )
    assert isinstance(loader, PipelineLoader)
    return loader


@pytest.mark.parametrize("function", ["samples", "decoded"])
def test_a_webdataset_pipeline_gives_the_pictures_and_captions_of_the_shards(pipes: str, function: str) -> None:
    """Raw bytes or decoded by webdataset: the same pixels and captions as reading the shards directly."""
    truth = {sample.key: sample for sample in read_samples(ShardSet.open(str(VAL)))}
    loader = opened(f"{pipes}:{function}", captions=Captions({"zh": 1.0}))
    batches = iter(loader)
    seen = [next(batches) for _ in range(5)]
    for batch in seen:
        assert batch.image.shape == (16, 3, 64, 64)
        for key, image, text in zip(batch.keys, batch.image, batch.text, strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(truth[key].image)).convert("RGB"))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
            assert text[text > 0].tolist() == tokenizer(truth[key].said("zh"))[0].tolist()
    keys = [key for batch in seen for key in batch.keys]
    assert len(set(keys)) == 80
    assert keys != sorted(keys)
    assert loader.ledger.delivered == 80


def test_each_pass_is_an_epoch_and_all_samples_come(pipes: str) -> None:
    total = sum(ShardSet.open(str(VAL)).counts)
    loader = opened(f"{pipes}:samples", batch=total)
    batches = iter(loader)
    first, second = next(batches), next(batches)
    assert len(set(first.keys)) == len(set(second.keys)) == total
    assert first.keys != second.keys


def test_ranks_share_the_samples_as_the_pipeline_says(pipes: str) -> None:
    total = sum(ShardSet.open(str(VAL)).counts)
    ranks = [opened(f"{pipes}:samples", batch=32, rank=rank, size=2) for rank in range(2)]
    keys = [
        {key for _, batch in zip(range(total // 32), loader, strict=False) for key in batch.keys} for loader in ranks
    ]
    assert not keys[0] & keys[1]
    assert len(keys[0] | keys[1]) == total // 32 * 32
    with pytest.raises(UserError, match="takes no rank and size"):
        next(iter(opened(f"{pipes}:alike", rank=1, size=2)))


def test_a_resumed_run_begins_another_epoch_and_keeps_its_counts(pipes: str) -> None:
    import importlib

    ranks = [opened(f"{pipes}:samples", rank=rank, size=2) for rank in range(2)]
    for loader in ranks:
        for _ in zip(range(3), loader, strict=False):
            pass
    states = json.loads(json.dumps([loader.state_dict() for loader in ranks]))
    states[1]["epoch"] = 4  # its share was smaller
    assert merge_states(states)["ledger"]["delivered"] == 48
    again = opened(f"{pipes}:samples", state=states)
    assert (again.epoch, again.batch, again.ledger.delivered) == (5, 3, 48)
    next(iter(again))
    assert importlib.import_module(pipes).calls[-1] == (0, 1, 3, 5)
    shards = Stream(shards=str(VAL)).open(transform=SAME, tokenizer=tokenizer, global_batch=8)
    with pytest.raises(UserError, match="format"):
        opened(f"{pipes}:samples", state=shards.state_dict())


@pytest.mark.parametrize(
    "source, sentence",
    [
        ("{}", "expected module:function"),
        ("no_such_lab.pipes:make", 'no module "no_such_lab.pipes"'),
        ("{}:sample", 'has no function "sample"; did you mean "samples"'),
        ("{}:tuples", "gives a tuple; expected dictionaries"),
        ("{}:number", "gives a int; expected an iterable"),
        ("{}:nothing", "gave no samples in epoch 0"),
    ],
)
def test_a_bad_source_is_one_sentence(pipes: str, source: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        next(iter(opened(source.format(pipes))))


def test_settings_that_contradict_a_source_are_refused(pipes: str) -> None:
    with pytest.raises(UserError, match=r"data\.workers\.count is 2"):
        opened(f"{pipes}:samples", workers=Workers(count=2))
    with pytest.raises(UserError, match=r"data\.shards and data\.source are both given"):
        opened(f"{pipes}:samples", shards=str(VAL))


def test_losses_are_counted_by_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every kind of loss, in the ledger under the sample's tar, and held to the budget."""
    code = """
def make():
    from PIL import Image
    import io
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    good = file.getvalue()
    for n in range(20):
        yield {"__key__": f"g{n}", "__url__": "a.tar", "png": good, "txt": b"a red square"}
    yield {"__key__": "x", "__url__": "a.tar", "png": b"broken", "txt": "said"}
    yield {"__key__": "y", "__url__": "b.tar", "png": good}
    yield {"__key__": "z", "__url__": "b.tar", "png": good, "json": b"{broken"}
    yield {"__key__": "w", "__url__": "b.tar", "txt": "no picture"}
    yield {"__key__": "v", "__url__": "b.tar", "png": good, "txt": b"\\xff\\xfe"}
"""
    (tmp_path / "lossy_pipe.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    loader = opened("lossy_pipe:make", batch=20, drop_budget=1.0)
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.ledger.drops == {
        ("undecodable picture", "a.tar"): 1,
        ("missing caption", "b.tar"): 1,
        ("undecodable caption", "b.tar"): 2,
        ("missing picture", "b.tar"): 1,
    }
    with pytest.raises(DropBudgetExceeded, match=r"drop_budget allows 1\.00%"):
        for _ in zip(range(100), opened("lossy_pipe:make", batch=20), strict=False):
            pass
    with pytest.raises(DropBudgetExceeded, match="nothing at all was delivered"):
        next(iter(opened("lossy_pipe:make", decoding=Decoding(min_side=9))))


def test_what_a_pipeline_may_call_its_parts() -> None:
    assert record_of({"json": {"captions": {"en": "a"}}, "txt": "b"}) == ({"captions": {"en": "a"}, "txt": "b"}, False)
    assert record_of({"json": b'{"meta": {"alt": "x"}}', "caption": "c"})[0] == {"meta": {"alt": "x"}, "caption": "c"}
    array = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for picture in (array, Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1), array / 255):
        assert np.array_equal(pixels_of(picture), array)


def test_a_tokenizer_can_read_its_captions(pipes: str) -> None:
    samples = list(Stream(source=f"{pipes}:decoded").sources().samples(skip=Ledger()))
    direct = {sample.key: sample.captions for sample in read_samples(ShardSet.open(str(VAL)))}
    assert {sample.key: sample.captions for sample in samples} == direct
