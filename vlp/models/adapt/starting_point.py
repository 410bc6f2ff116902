"""Start a model from another one's weights, as far as they fit: what was taken, resized, taken in part, or left new."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlp.errors import UserError
from vlp.models.dual_encoder import DualEncoder
from vlp.models.image_transform import ImageTransform
from vlp.models.release import Release
from vlp.models.tokenizer import Tokenizer

GRIDS = ("positional_embedding", "pos_embed")
ROWS = ("positional_embedding", "position", "position_embeddings.weight", "wpe.weight")
ACTIVATIONS = ("GELU", "QuickGELU", "GELUTanh", "ReLU", "SiLU", "Mish")
MOST_PREFIX = 8  # class and register tokens before the patches
LISTED = 6  # weights that are named one by one
Outcome = Literal["taken", "resized", "taken in part", "new", "not used"]


@dataclass
class Report:
    """What became of each weight."""

    name: str
    """the model that it started from"""
    rows: list[tuple[str, Outcome, str]] = field(default_factory=list)
    """name of a weight, outcome, and why or how"""
    sizes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """what of the two models differs beside their weights"""

    def add(self, key: str, outcome: Outcome, how: str, size: int) -> None:
        """Note one weight."""
        self.rows.append((key, outcome, how))
        self.sizes[key] = size

    def of(self, outcome: Outcome, prefix: str = "") -> list[tuple[str, str]]:
        """(name, why or how) of the weights with this outcome whose names begin with `prefix`."""
        return [(key, how) for key, what, how in self.rows if what == outcome and key.startswith(prefix)]

    def table(self) -> str:
        """The report, for people: what is taken is counted, everything else is named."""
        lines = [f"started from {self.name}:"]
        for part, prefix in (("image tower", "image_tower."), ("text tower", "text_tower."), ("logits", "logit_")):
            title = part
            for outcome in ("taken", "resized", "taken in part", "new", "not used"):
                some = self.of(outcome, prefix)  # type: ignore[arg-type]
                if not some:
                    continue
                numbers = sum(self.sizes[key] for key, _ in some)
                lines.append(f"  {title:<12} {outcome:<14} {_weights(len(some))}, {numbers:,} numbers")
                title = ""
                if outcome != "taken":
                    lines += [f"{'':30}{key.removeprefix(prefix)}: {how}" for key, how in some[:LISTED]]
                    lines += [f"{'':30}and {len(some) - LISTED} more"] if len(some) > LISTED else []
        return "\n".join([*lines, *(f"  beware: {note}" for note in self.notes)])


def _weights(count: int) -> str:
    return f"{count} weight{'' if count == 1 else 's'}"


@torch.no_grad()
def start_from(
    encoder: DualEncoder, tokenizer: Tokenizer, source: Release, *, bias: float, transform: ImageTransform
) -> Report:
    """Copy into `encoder` what fits of `source`, by name; the report says what became of each weight.

    Position embeddings are resized as open_clip does (bicubic for patches, linear for tokens); of another vocabulary
    the tokens that both have are taken. Scale and bias are taken where `bias`, the objective's own start, and that of
    the source are both zero or both not: a softmax's numbers mean nothing to a sigmoid. The report notes activations
    and a picture preparation (`transform` is this model's) that are not the source's. Raises UserError, with `encoder`
    as it was, if nothing of either tower fits.
    """
    given, wanted = source.encoder.state_dict(), encoder.state_dict()
    vocabulary = {f"text_tower.{name}" for name in embeddings(encoder.text_tower)}
    report, new = Report(source.name), dict[str, Tensor]()
    for key, old in wanted.items():
        there = given.get(key)
        if there is None:
            report.add(key, "new", "not there", old.numel())
        elif key.startswith("logit_"):
            same = (bias == 0) == (float(source.encoder.logit_bias) == 0)
            new |= {key: there} if same else {}
            report.add(key, "taken" if same else "new", "" if same else "it belongs to another kind of objective", 1)
        elif key in vocabulary and there.shape[1:] == old.shape[1:]:
            new[key], outcome, how = tokens(there, old, source, encoder, tokenizer)
            report.add(key, outcome, how, old.numel())
        elif there.shape == old.shape:
            new[key] = there
            report.add(key, "taken", "", old.numel())
        elif (resized := fitted(key, there, old)) is not None:
            new[key] = resized
            report.add(key, "resized", f"{_shape(there)} to {_shape(old)}", old.numel())
        else:
            report.add(key, "new", f"{_shape(there)} there, {_shape(old)} here", old.numel())
    for key in given.keys() - wanted.keys():
        report.add(key, "not used", "this model has none", given[key].numel())
    _refuse_nothing(report, given, {key for key, tensor in wanted.items() if tensor.ndim >= 2})
    report.notes += differences(encoder, transform, source)
    encoder.load_state_dict({**wanted, **new})
    return report


def differences(encoder: DualEncoder, transform: ImageTransform, source: Release) -> list[str]:
    """What changes the meaning of weights that fit: another activation, and pictures that are prepared otherwise."""
    notes = []
    for name in ("image_tower", "text_tower"):
        theirs, ours = (activations(getattr(m, name)) for m in (source.encoder, encoder))
        if theirs and ours and theirs != ours:
            there, here = ", ".join(sorted(theirs)), ", ".join(sorted(ours))
            notes.append(f"the {name.replace('_', ' ')} has the activation {there} there, {here} here")
    for key in ("mean", "std", "resize", "interpolation", "fill"):
        there, here = getattr(source.transform, key), getattr(transform, key)
        if there != here:
            notes.append(f"pictures are prepared with {key} {there} there, {here} here")
    return notes


def activations(tower: nn.Module) -> set[str]:
    """Kinds of the activations of a tower, as far as they are modules."""
    kinds = {type(module).__name__ for module in tower.modules()}
    return {kind for kind in kinds if kind in ACTIVATIONS}


def _refuse_nothing(report: Report, given: Mapping[str, Tensor], matrices: Set[str]) -> None:
    """Raise UserError if no matrix of either tower was taken: gains, biases and embeddings alone are nothing."""
    if matrices & {key for key, _ in report.of("taken")}:
        return
    other = [(key, how) for key, how in report.of("new") if key in given and not key.startswith("logit_")]
    why = (
        f"the same names have other shapes, such as {other[0][0]} ({other[0][1]})" if other else "no names are the same"
    )
    raise UserError(
        f"training.init: nothing of {report.name} fits this model: {why}; give `model` the architecture of that one, "
        "or leave training.init empty"
    )


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def embeddings(tower: nn.Module) -> list[str]:
    """Name of a text tower's token embeddings: what transformers' encoders say, or the Embedding with most rows."""
    known = {f"{name}.weight": m for name, m in tower.named_modules() if isinstance(m, nn.Embedding)}
    encoders: list[Any] = [m for m in tower.modules() if hasattr(m, "get_input_embeddings")]
    if encoders:
        own = encoders[0].get_input_embeddings()
        return [name for name, m in known.items() if m is own]
    return [max(known, key=lambda name: known[name].num_embeddings)] if known else []


def tokens(
    there: Tensor, old: Tensor, source: Release, encoder: DualEncoder, tokenizer: Tokenizer
) -> tuple[Tensor, Outcome, str]:
    """Embeddings [V, D] for this model's vocabulary: the rows of tokens that both have, the others as they are."""
    theirs, ours = source.tokenizer.tokens(), tokenizer.tokens()
    if theirs == ours and there.shape == old.shape:
        return there, "taken", ""
    their_shift, our_shift = (getattr(m.text_tower, "shift", 0) for m in (source.encoder, encoder))
    both = [(ours[t] - our_shift, theirs[t] - their_shift) for t in ours.keys() & theirs.keys()]
    pairs = torch.tensor([(a, b) for a, b in both if 0 <= a < len(old) and 0 <= b < len(there)], dtype=torch.int64)
    if not len(pairs):
        return old, "new", "the two vocabularies share no token"
    out = old.clone()
    out[pairs[:, 0]] = there[pairs[:, 1]].to(out)
    return out, "taken in part", f"{len(pairs):,} of {len(ours):,} tokens are in the other vocabulary too"


def fitted(key: str, there: Tensor, old: Tensor) -> Tensor | None:
    """Position embeddings of another length in the shape of `old`; None where that is not what they are."""
    flat = there.reshape(-1, there.shape[-1]) if there.ndim >= 2 else there
    if there.ndim < 2 or flat.shape[1] != old.shape[-1] or there.ndim != old.ndim:
        return None
    length = old.numel() // old.shape[-1]
    if key.startswith("image_tower.") and key.endswith(GRIDS):
        grid = resized_grid(flat, length)
        return None if grid is None else grid.view_as(old)
    if key.startswith("text_tower.") and key.endswith(ROWS):
        rows = F.interpolate(flat.T[None].float(), size=length, mode="linear", align_corners=False)
        return rows[0].T.to(there.dtype).view_as(old)
    return None


def resized_grid(positions: Tensor, length: int) -> Tensor | None:
    """Embeddings [n, D] of a square of patches, after class tokens, as [length, D]: bicubic, with antialias.

    The class tokens stay. None if the patches are no squares. Source: open_clip's resize_pos_embed.
    """
    for prefix in range(MOST_PREFIX):
        old, new = isqrt(max(len(positions) - prefix, 0)), isqrt(max(length - prefix, 0))
        if old and new and old**2 == len(positions) - prefix and new**2 == length - prefix:
            square = positions[prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2).float()
            grid = F.interpolate(square, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
            patches = grid.permute(0, 2, 3, 1).reshape(new * new, -1).to(positions.dtype)
            return torch.cat([positions[:prefix], patches])
    return None
