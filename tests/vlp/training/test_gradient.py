from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tiny_run import Tiny, pairs
from torch import Tensor, nn

from vlp.batch import Batch, Embeddings
from vlp.losses.infonce import InfoNCE
from vlp.losses.multi_positive import MultiPositive
from vlp.losses.siglip import SigLIP
from vlp.training.gradient import Objective, cached, parted, shared_ids, spoken, whole_batch
from vlp.training.memory import estimate, saved_bytes


def gradients(model: nn.Module, step: Callable[[nn.Module], Tensor]) -> tuple[Tensor, dict[str, Tensor | None]]:
    model = copy.deepcopy(model)
    loss = step(model)
    return loss, {k: p.grad for k, p in model.named_parameters()} | dict(model.named_buffers())


@pytest.mark.parametrize("objective", [InfoNCE().reference, SigLIP().reference], ids=["infonce", "siglip"])
@pytest.mark.parametrize("rows", [1, 3, 4, 12, 50])
def test_chunks_change_neither_gradient_nor_running_statistics(objective: Objective, rows: int) -> None:
    model, batch = Tiny(dropout=0.3, norm=rows > 1).double(), pairs(5, 17)
    expected = gradients(model, lambda m: whole_batch(m, objective, batch, seed=7, rows=rows))
    actual = gradients(model, lambda m: cached(m, objective, batch, seed=7, rows=rows))
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_the_whole_batch_step_is_plain_autograd() -> None:
    model, batch = Tiny(dropout=0.0).double(), pairs(0, 9)
    plain = copy.deepcopy(model)
    InfoNCE().reference(plain(batch.image, batch.text)).backward()
    _, actual = gradients(model, lambda m: whole_batch(m, InfoNCE().reference, batch, seed=1))
    for name, p in plain.named_parameters():
        expected = torch.zeros_like(p) if p.grad is None else p.grad  # the bias, which InfoNCE does not use
        torch.testing.assert_close(actual[name], expected, rtol=1e-12, atol=1e-14)


def test_a_locked_tower_gets_no_gradient_and_the_other_one_the_same_as_before() -> None:
    model, batch = Tiny().double(), pairs(0, 8)
    locked = copy.deepcopy(model)
    for part in (locked.image, locked.image_head):
        part.requires_grad_(False)
    _, free = gradients(model, lambda m: whole_batch(m, InfoNCE().reference, batch, seed=3, rows=4))
    _, actual = gradients(locked, lambda m: cached(m, InfoNCE().reference, batch, seed=3, rows=4))
    assert actual["image_head.weight"] is None
    torch.testing.assert_close(actual["text_head.0.weight"], free["text_head.0.weight"])


def test_the_graph_held_by_the_cached_step_is_that_of_one_chunk() -> None:
    class Wide(Tiny):
        """Counts what autograd holds at once, over the forward passes with a graph."""

        sizes: list[int] = []  # noqa: RUF012

        def forward(self, image: Tensor | None, text: Tensor | None, send=None):  # type: ignore[no-untyped-def]
            if torch.is_grad_enabled():
                self.sizes.append(sum(len(side) for side in (image, text) if side is not None))
            return super().forward(image, text)

    model = Wide()
    for n in (8, 64):
        model.sizes.clear()
        cached(model, InfoNCE().reference, pairs(0, n), seed=0, rows=4)
        assert set(model.sizes) == {4}  # pictures or texts, never both
        assert len(model.sizes) == 2 * n // 4


@pytest.mark.parametrize(("step", "rows"), [(whole_batch, 0), (cached, 3)], ids=["whole", "cached"])
def test_captions_are_on_their_way_before_any_image_is_encoded(step: Callable[..., Tensor], rows: int) -> None:
    calls: list[str] = []

    class Telling(Tiny):
        def encode_text(self, text: Tensor) -> Tensor:
            calls.append("text")
            return super().encode_text(text)

        def encode_image(self, image: Tensor) -> Tensor:
            calls.append("image")
            return super().encode_image(image)

    sent: list[Tensor] = []

    def send(text: Tensor) -> None:
        calls.append("sent")
        sent.append(text)

    def objective(e: Embeddings) -> Tensor:
        assert e.text.data_ptr() == sent[0].data_ptr()  # what travels is what the loss is given
        return InfoNCE().reference(e)

    step(Telling(), objective, pairs(0, 9), seed=0, rows=rows, send=send)
    first = 1 if rows == 0 else 3
    assert calls[: 2 * first + 1] == ["text"] * first + ["sent"] + ["image"] * first


def test_saved_bytes_grow_with_the_batch_and_leave_out_the_weights() -> None:
    def take(n: int) -> Batch:
        return pairs(0, n)

    model = Tiny(dropout=0.0, norm=False)
    two, four, eight = (saved_bytes(model, take(n)) for n in (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two), rel=0.1)
    alone, shared = (estimate(model, take(8), rows=8, chunk=8, copies=4, shards=n) for n in (1, 4))
    assert shared.weights == alone.weights // 4
    assert shared.activations == alone.activations


def test_several_captions_a_picture_are_the_mean_of_their_losses() -> None:
    model, batch = Tiny(dropout=0.0, norm=False).double(), pairs(0, 12)
    captions = [batch.text, batch.text.flip(0), batch.text.roll(3, 0)]
    each = [
        gradients(model, lambda m, t=t: whole_batch(m, InfoNCE().reference, replace(batch, text=t), seed=0))
        for t in captions
    ]
    several = replace(batch, text=torch.stack(captions, 1))
    for step in (whole_batch, cached):
        loss, actual = gradients(model, lambda m, s=step: s(m, InfoNCE().reference, several, seed=0, rows=4))
        torch.testing.assert_close(loss, torch.stack([one for one, _ in each]).mean())
        for name, gradient in actual.items():
            torch.testing.assert_close(gradient, torch.stack([g[name] for _, g in each]).mean(0))


def test_equal_captions_are_told_by_their_tokens_however_far_they_are_padded() -> None:
    batch = replace(pairs(0, 4), text=torch.tensor([[3, 1, 0], [1, 3, 0], [3, 1, 0], [1, 3, 2]]))
    assert shared_ids(batch) is None  # the data give no ids, so the objective asks for none
    batch = replace(batch, ids=torch.arange(4))
    ids = shared_ids(batch)
    assert ids is not None
    assert ids[:, 0].tolist() == [0, 1, 2, 3]
    assert (ids[:, None, 1] == ids[None, :, 1]).tolist() == [[i == j or i + j == 2 for j in range(4)] for i in range(4)]
    again = shared_ids(replace(batch, text=torch.nn.functional.pad(batch.text, (0, 5))))
    assert again is not None
    assert torch.equal(ids, again)


def test_a_pair_that_says_the_same_in_one_of_its_captions_is_a_positive_there_alone() -> None:
    model, batch = Tiny(dropout=0.0, norm=False).double(), replace(pairs(0, 8), ids=torch.arange(8))
    same = batch.text.clone()
    same[5] = same[2]
    several = replace(batch, text=torch.stack([batch.text, same], 1))
    loss, _ = gradients(model, lambda m: cached(m, MultiPositive(), several, seed=0, rows=3))
    twins = torch.tensor([0, 1, 2, 3, 4, 2, 6, 7])
    with torch.no_grad():
        first = MultiPositive().reference(replace(model(batch.image, batch.text), ids=batch.ids))
        second = MultiPositive().reference(replace(model(batch.image, same), ids=twins))
    torch.testing.assert_close(loss, (first + second) / 2)


@pytest.mark.parametrize("captions", [1, 2])
def test_wrong_captions_are_encoded_with_the_others_in_the_whole_and_the_cached_step(captions: int) -> None:
    """Their gradient reaches the text tower; those that are not there count nothing."""
    model, batch = Tiny(dropout=0.0, norm=False).double(), pairs(0, 10)
    texts = [batch.text, batch.text.roll(2, 0)][:captions]
    wrong = torch.stack([batch.text.flip(0), batch.text.roll(1, 0), batch.text.roll(3, 0)], 1)
    keep = torch.rand(10, 3, generator=torch.Generator().manual_seed(0)) > 0.4
    given = replace(
        batch,
        text=torch.stack(texts, 1) if captions > 1 else batch.text,
        negatives=wrong,
        negatives_keep=keep,
    )

    def expected(m: nn.Module) -> Tensor:
        losses = []
        for text in texts:
            e = m(batch.image, text)
            losses.append(InfoNCE().reference(replace(e, negatives=m(None, wrong).text, negatives_keep=keep)))
        loss = torch.stack(losses).mean()
        loss.backward()
        return loss.detach()

    want, by_hand = gradients(model, expected)
    plain, _ = gradients(model, lambda m: whole_batch(m, InfoNCE(), replace(given, negatives=None), seed=0))
    assert plain < want
    for step, rows in ((whole_batch, 0), (whole_batch, 4), (cached, 4)):
        loss, actual = gradients(model, lambda m, s=step, r=rows: s(m, InfoNCE(), given, seed=0, rows=r))
        torch.testing.assert_close(loss, want)
        for name, gradient in actual.items():
            torch.testing.assert_close(gradient, torch.zeros_like(gradient) if by_hand[name] is None else by_hand[name])


def test_captions_and_wrong_ones_go_through_the_tower_as_long_as_the_longest() -> None:
    batch = pairs(0, 3)
    for text, count in ((batch.text, 1), (torch.stack([batch.text] * 2, 1), 2)):
        both = replace(batch, text=text, negatives=torch.ones(3, 2, 5, dtype=torch.int64))
        assert spoken(both).shape == (3, count + 2, 5)
        assert torch.equal(spoken(both)[:, :count, :3], text.view(3, count, 3))
        assert not spoken(both)[:, :count, 3:].any()
        out = parted(Embeddings(*[spoken(both).double()] * 2, torch.tensor(1.0), torch.tensor(0.0)), both)
        assert torch.equal(out.text[..., :3], text.double())
        assert out.negatives is not None
        assert bool((out.negatives == 1).all())
