"""A batch is moved, cut and pinned field by field."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from vlp.batch import Batch


@dataclass(frozen=True)
class Numbered(Batch):
    """A batch with one more field of each kind, as one that is declared later."""

    numbers: Tensor | None = None  # [B, 2]
    notes: tuple[str, ...] = ()
    more: Tensor | None = None


def batch() -> Numbered:
    return Numbered(
        image=torch.arange(4 * 12).view(4, 3, 2, 2),
        text=torch.arange(20).view(4, 5),
        keys=("a", "b", "c", "d"),
        ids=torch.arange(4),
        numbers=torch.arange(8).view(4, 2),
        notes=("w", "x", "y", "z"),
    )


def test_a_cut_has_the_same_rows_of_every_field_without_copies() -> None:
    whole = batch()
    cut = whole[1:3]
    assert isinstance(cut, Numbered)
    assert len(cut) == 2
    for f in fields(whole):
        before, after = getattr(whole, f.name), getattr(cut, f.name)
        if isinstance(before, Tensor):
            assert torch.equal(after, before[1:3])
            assert after.untyped_storage().data_ptr() == before.untyped_storage().data_ptr()
        else:
            assert after == (None if before is None else before[1:3])


def test_every_tensor_is_moved_and_nothing_else_changes() -> None:
    whole = batch()
    moved = whole.to(torch.device("meta"))
    for f in fields(whole):
        before, after = getattr(whole, f.name), getattr(moved, f.name)
        if isinstance(before, Tensor):
            assert after.device.type == "meta"
            assert (after.shape, after.dtype) == (before.shape, before.dtype)
        else:
            assert after == before


@pytest.mark.gpu
def test_pinned_memory_holds_every_tensor() -> None:
    pinned = batch().pin_memory()
    assert all(
        getattr(pinned, f.name).is_pinned() for f in fields(pinned) if isinstance(getattr(pinned, f.name), Tensor)
    )
