"""One file gives the same pixels wherever it is used: validation in training, eval, embed, search, and the stream."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import train
from data_pipelines.ledger import Ledger
from data_pipelines.sample import Sample
from data_pipelines.shards.shard_set import ShardSet
from data_pipelines.stream import Stream
from data_pipelines.writing.tar_writer import TarWriter
from eval.embeddings.embed import embed
from eval.embeddings.encode import embedded_pictures
from eval.index.flat import Flat
from eval.search.answer import ask_picture
from eval.search.build import build_gallery
from eval.tasks.retrieval import Retrieval
from eval.while_training import Validation
from vlp.distributed.world import World
from vlp.models.dual_encoder import DualEncoder
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.release import Release
from vlp.models.tokenizer import Bpe
from vlp.pictures import Limits, decode
from vlp.training.settings import Training

PHOTOS = Path(__file__).parent / "photos"
WAYS = [(resize, filter_) for resize in ("shortest", "squash", "longest") for filter_ in ("bicubic", "bilinear")]


class Recorder(nn.Module):
    """An image tower that keeps the pictures that it is given; its features are the mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen += image.round().to(torch.uint8).unbind()
        return image.mean((2, 3)) + 1

    def taken(self) -> list[Tensor]:
        """What came since the last call."""
        seen, self.seen = self.seen, []
        return seen


def encoded(picture: Image.Image, form: str) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **({"quality": 92} if form == "JPEG" else {}))
    return out.getvalue()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    photo, flower = Image.open(PHOTOS / "china.jpg"), Image.open(PHOTOS / "flower.jpg")
    clear = flower.crop((20, 0, 520, 400)).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    wide = np.asarray(photo.convert("L").crop((0, 0, 300, 400))).astype(np.uint16) * 257
    files = {
        "photo.jpg": (PHOTOS / "china.jpg").read_bytes(),
        "clear.png": encoded(clear, "PNG"),
        "deep.png": encoded(Image.fromarray(wide), "PNG"),
        "print.jpg": encoded(flower.convert("CMYK"), "JPEG"),
        "strip.jpg": encoded(photo.crop((0, 200, 640, 210)), "JPEG"),
    }
    return [
        Sample(Path(name).stem, data, Path(name).suffix[1:], {"en": f"a {name}"}, {}) for name, data in files.items()
    ]


@pytest.fixture(scope="module")
def shards(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("shards") / "00000.tar"
    tar = TarWriter(path)
    for sample in samples:
        tar.add(sample)
    tar.close()
    return str(path)


def config(shards: str, resize: str, filter_: str, out: Path = Path("unused")) -> train.RunConfig:
    model = TwoTowers(image_size=64, resize=resize, interpolation=filter_, fill=200)  # type: ignore[arg-type]
    return train.RunConfig(
        out=out,
        model=model,
        data=Stream(shards=shards),
        eval=Validation({"retrieval": Retrieval()}, data=(shards,)),
        training=Training(eval_every=1),
    )


@pytest.mark.parametrize("resize, filter_", WAYS)
def test_evaluation_sees_the_same_pixels_everywhere(
    samples: list[Sample], shards: str, tmp_path: Path, resize: str, filter_: str
) -> None:
    run = config(shards, resize, filter_, tmp_path)
    tokenizer = Bpe(vocab=300).train([s.text for s in samples])
    tower = Recorder()
    encoder = DualEncoder(tower, nn.EmbeddingBag(tokenizer.vocab, 3), mean=(0, 0, 0), std=(1 / 255,) * 3).eval()
    release = Release(encoder, tokenizer, run.model.transform(), "0" * 64, "recorder")
    want = [release.transform(decode(s.image, Limits())) for s in samples]

    (validate,) = train.evaluations(run, tokenizer, World.alone()).values()
    validate(encoder)
    seen = {"validation": tower.taken()}
    assert sum(len(part.samples) for part in embedded_pictures(release, ShardSet.open(shards), Ledger())) == len(
        samples
    )
    seen["eval"] = tower.taken()
    embed(release, shards, tmp_path / "store")
    seen["embed"] = tower.taken()
    gallery = build_gallery(release, shards, tmp_path / "index", kind=Flat())
    seen["index"] = tower.taken()
    for sample in samples:
        ask_picture(gallery, release, sample.image, 1)
    seen["search"] = tower.taken()
    release.embed_images([s.image for s in samples])
    seen["python"] = tower.taken()
    for where, pixels in seen.items():
        assert len(pixels) == len(want), where
        for sample, ours, expected in zip(samples, pixels, want, strict=True):
            assert torch.equal(ours, expected), f"{sample.key} in {where}"


@pytest.mark.parametrize("resize, filter_", WAYS)
def test_training_without_random_crops_sees_them_too(
    samples: list[Sample], shards: str, resize: str, filter_: str
) -> None:
    """To rounding: the stream's decoder and resize are faster ones."""
    run = config(shards, resize, filter_)
    tokenizer = Bpe(vocab=300).train([s.text for s in samples])
    batch = next(iter(train.open_stream(run, tokenizer, run.data.sources(), World.alone(), batch=len(samples))))
    assert sorted(batch.keys) == sorted(s.key for s in samples)
    for sample in samples:
        ours = batch.image[batch.keys.index(sample.key)].float()
        error = (ours - run.model.transform()(decode(sample.image, Limits())).float()).abs()
        assert error.max() <= 1, sample.key
        assert error.mean() < 0.02, sample.key
