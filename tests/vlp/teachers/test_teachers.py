"""What each teacher says, against the model that it says it from; how a run keeps it; and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from follows import Follows
from PIL import Image
from tiny_run import Tiny, TinyStream, pairs, trainer
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.batch import Batch, Embeddings
from vlp.config.components import component, component_names
from vlp.errors import UserError
from vlp.losses.infonce import InfoNCE
from vlp.models import release as releases
from vlp.models.adapt.towers import ImageSide, TextSide, Towers
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image.resnet import ResNet
from vlp.models.image_transform import ImageTransform
from vlp.models.kinds.two_towers import TwoTowers
from vlp.models.release import Release
from vlp.models.text.bag import Bag
from vlp.models.tokenizer import Bpe
from vlp.teachers import Given, Guide, Teacher
from vlp.teachers.frozen import Frozen, resized
from vlp.teachers.momentum import Following
from vlp.teachers.none import Nobody
from vlp.teachers.own import Own
from vlp.teachers.stored import Stored
from vlp.training.gradient import cached, whole_batch
from vlp.training.memory import SLACK, estimate
from vlp.training.settings import Training
from vlp.training.teaching import Setting, Teaching

CPU = torch.device("cpu")
CAPTIONS = ["a red circle", "a green square", "红色的圆", "a blue star", "two gold stars", "black"]
SMALL = TwoTowers(
    width=12,
    image=ResNet(widths=(6, 10), depths=(1, 1), patch=2),
    image_size=16,
    text=Bag(hidden=16),
    bpe=Bpe(vocab=300, context=16),
)
NONE = Embeddings(*[torch.zeros(0)] * 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("teacher") / "model"
    torch.manual_seed(3)
    tokenizer = SMALL.tokenizer(CAPTIONS)
    releases.save(where, config=SMALL, encoder=SMALL.build(tokenizer.vocab), tokenizer=tokenizer, notes={})
    return where


@pytest.fixture(scope="module")
def release(folder: Path) -> Release:
    return releases.load(folder)


def given(release: Release, **changes: Any) -> Given:
    def nowhere(path: Path) -> Any:
        raise AssertionError(path)

    return Given(changes.get("tokenizer", release.tokenizer), nowhere)


def batch(release: Release, *, size: int = 16) -> Batch:
    image = torch.randint(0, 256, (len(CAPTIONS), 3, size, size), generator=torch.Generator().manual_seed(0))
    return Batch(image.to(torch.uint8), release.tokenizer(CAPTIONS), tuple(CAPTIONS))


def opened(folder: Path, release: Release, **changes: Any) -> Guide:
    guide = Frozen(str(folder)).open(given(release, **changes))
    guide.begin(Tiny(), Setting(CPU))
    return guide


def test_the_folder_is_the_menu() -> None:
    assert component_names(Teacher) == ["frozen", "momentum", "none", "own", "stored"]
    assert all(issubclass(component(Teacher, name), Teacher) for name in component_names(Teacher))


@pytest.mark.parametrize("rows", [0, 4])
def test_momentum_is_the_mean_of_the_weights_and_encodes_as_a_model_of_these(rows: int) -> None:
    decay, model = 0.8, Tiny(dropout=0.5).train()
    guide = Following(decay)
    guide.begin(model, Setting(CPU, rows=rows))
    some = pairs(0, 10)
    image, text = guide(some, NONE)
    first = Tiny(dropout=0.5).eval()
    torch.testing.assert_close(image, first.encode_image(some.image))  # nothing was moved yet
    history = []
    for step in range(5):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)) * 0.1)
        history.append({k: v.double() for k, v in model.state_dict().items()})
        guide.taken()
    share = [decay ** (len(history) - 1 - k) for k in range(len(history))]
    for name, weight in model.state_dict().items():
        if weight.is_floating_point():
            mean = sum(s * w[name] for s, w in zip(share, history, strict=True)) / sum(share)
            first.state_dict()[name].copy_(mean)
    image, text = guide(replace(some, text=torch.stack([some.text, some.text.flip(0)], 1)), NONE)
    torch.testing.assert_close(image, first.encode_image(some.image), rtol=1e-4, atol=1e-6)
    one = first.encode_text(some.text)
    torch.testing.assert_close(text, torch.stack([one, one.flip(0)], 1), rtol=1e-4, atol=1e-6)
    assert not image.requires_grad


def test_a_frozen_model_says_what_it_embeds(folder: Path, release: Release) -> None:
    guide, some = opened(folder, release), batch(release)
    assert (guide.width, guide.tokenizer, guide.id) == (12, None, release.id)
    image, text = guide(some, NONE)
    torch.testing.assert_close(image, release.embed_pixels(some.image))
    torch.testing.assert_close(text, release.embed_texts(CAPTIONS))
    guide.begin(Tiny(), Setting(CPU, rows=4))
    for chunked, whole in zip(guide(some, NONE), (image, text), strict=True):
        torch.testing.assert_close(chunked, whole)
    guide.begin(Tiny(), Setting(CPU, half=torch.bfloat16))
    for rounded, whole in zip(guide(some, NONE), (image, text), strict=True):
        assert rounded.dtype == torch.float32
        assert 1e-6 < (rounded - whole).abs().max() < 2e-2
    guide.begin(Tiny(), Setting(CPU, torch.float64))
    assert guide(some, NONE)[0].dtype == torch.float64
    assert guide.memory(Tiny(), 1) == 8 * sum(p.numel() for p in release.encoder.parameters())


def test_pictures_of_another_size_are_scaled_as_evaluation_scales_them(folder: Path, release: Release) -> None:
    smooth = F.interpolate(torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(0)), (40, 40), mode="bicubic")
    image = (smooth.clamp(0, 1) * 255).to(torch.uint8)
    for size in (16, 64):
        transform = ImageTransform(size)
        theirs = torch.stack([transform(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in image])
        assert (resized(image, transform).int() - theirs.int()).abs().max() <= 2
    some = replace(batch(release), image=image)
    said = opened(folder, release)(some, NONE)[0]
    torch.testing.assert_close(said, release.embed_pixels(resized(image, release.transform)))


def test_another_tokenizer_reads_the_captions_for_itself(folder: Path, release: Release) -> None:
    other = Bpe(vocab=290, context=12).train(CAPTIONS)
    guide = opened(folder, release, tokenizer=other)
    assert guide.tokenizer is not None
    some = replace(batch(release), text=other(CAPTIONS), teacher_text=guide.tokenizer(CAPTIONS))
    torch.testing.assert_close(guide(some, NONE)[1], release.embed_texts(CAPTIONS))


def test_each_view_and_each_caption_meets_what_is_said_of_it(folder: Path, release: Release) -> None:
    plain = batch(release, size=20)
    some = replace(
        plain,
        image=torch.stack([plain.image, plain.image.flip(-1)], 1),
        text=torch.stack([plain.text, plain.text.flip(0), plain.text.roll(1, 0)], 1),
    )
    seen = taught(SMALL.build(release.tokenizer.vocab), opened(folder, release), some, rows=4)
    images = [release.embed_pixels(resized(i, release.transform)) for i in some.image.unbind(1)]
    texts = [release.embed_texts(CAPTIONS), release.embed_texts(CAPTIONS).flip(0)]
    for v, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
        e = seen[3 * v + k]
        torch.testing.assert_close(e.guide_image, images[v])
        torch.testing.assert_close(e.guide_text, texts[k])


class Headed(nn.Module):
    """A tower with a backbone, which may be locked, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(7, 12)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.head(self.backbone(image))
        return out


def taught(model: nn.Module, guide: Guide, some: Batch, *, rows: int) -> list[Embeddings]:
    """What the loss of two steps is given."""
    seen: list[Embeddings] = []
    teaching = Teaching.begin(guide, model, Setting(CPU, width=12, rows=rows))

    def objective(e: Embeddings) -> Tensor:
        seen.append(e)
        return InfoNCE()(e)

    how: Mapping[str, Any] = {"seed": 0, "beside": teaching.beside}
    for _ in range(2):
        cached(model, objective, some, rows=rows, **how) if rows else whole_batch(model, objective, some, **how)
    return seen


@pytest.mark.parametrize("rows", [0, 4])
def test_own_says_what_the_locked_part_gives(rows: int, release: Release) -> None:
    some = batch(release)
    model = SMALL.build(release.tokenizer.vocab).train()
    Towers(image=ImageSide(lock=True)).adapt(model)
    for e in taught(model, Own().open(given(release)), some, rows=rows):
        assert e.guide_image is not None
        assert e.guide_text is not None
        torch.testing.assert_close(e.guide_image, model.encode_image(some.image))
        assert torch.equal(e.guide_text, e.guide_image)  # of the side that is trained it knows nothing better
    Towers(text=TextSide(lock=True)).adapt(model)
    e = taught(model, Own().open(given(release)), some, rows=rows)[0]
    torch.testing.assert_close(e.guide_text, model.encode_text(some.text))

    headed = DualEncoder(Headed(), Bag(hidden=16).build(12, 300, 16), mean=(0.5,) * 3, std=(0.3,) * 3).train()
    headed.lock(headed.image_tower.backbone)  # type: ignore[arg-type]
    features = F.normalize(headed.image_tower.backbone(headed.normalise(some.image)), dim=1)  # type: ignore[operator]
    for e in taught(headed, Own().open(given(release)), some, rows=rows):
        torch.testing.assert_close(e.guide_image, features)
        assert e.guide_text is e.guide_image


def test_what_cannot_teach_is_refused(folder: Path, release: Release) -> None:
    with pytest.raises(UserError, match="no tower of this model is locked as a whole"):
        Own().open(given(release)).begin(SMALL.build(300), Setting(CPU))
    with pytest.raises(UserError, match=r"teacher\.model is empty; give the folder"):
        Frozen().open(given(release))
    with pytest.raises(UserError, match="there is no model folder /no/such/model"):
        Frozen("/no/such/model").open(given(release))
    with pytest.raises(UserError, match=r"teacher\.folder is empty"):
        Stored().open(given(release))
    assert Nobody().open(given(release)) is None
    guide = Frozen(str(folder)).open(given(release))
    with pytest.raises(UserError, match="vectors have width 12, but this objective wants 16"):
        Teaching.begin(guide, Tiny(), Setting(CPU), wanted=16)
    with pytest.raises(UserError, match=r"pictures come as torch\.float32, normalised"):
        guide(replace(batch(release), image=torch.zeros(6, 3, 16, 16)), NONE)


def test_what_a_teacher_keeps_is_in_the_estimate_of_memory(folder: Path, release: Release) -> None:
    model, some = Tiny(), pairs(0, 8)
    how: Mapping[str, Any] = {"rows": 8, "chunk": 8, "copies": 2}
    alone = estimate(model, some, **how).total
    own = 4 * sum(p.numel() for p in model.parameters())
    for guide, shards, size in (
        (Following(0.9), 2, own // 2),
        (Frozen(str(folder)).open(given(release)), 2, 4 * sum(p.numel() for p in release.encoder.parameters())),
    ):
        more = estimate(model, some, **how, beside=guide.memory(model, shards)).total
        assert more - alone == pytest.approx(SLACK * size, abs=2)


class Stop(Exception):
    pass


class BreaksAfter(TinyStream):
    def __iter__(self) -> Any:
        for left, some in zip(range(3, -1, -1), super().__iter__(), strict=False):
            if not left:
                raise Stop
            yield some


def test_a_taught_run_that_goes_on_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    training = Training(samples=96, batch=16, tensorboard=False, checkpoint_every=1e9, precision="fp32", chunk=4)

    def run(name: str, settings: Training) -> Any:
        return trainer(tmp_path / name, settings, loss=Follows(), guide=Following(0.7))

    whole = run("whole", training).fit()
    often = replace(training, checkpoint_every=0.0)
    with pytest.raises(Stop):
        replace(run("parts", often), open_stream=lambda state: BreaksAfter(state, batch=16)).fit()
    again = replace(run("parts", often), model=Tiny(seed=5)).fit()
    for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
