"""Muon (Jordan, 2024, kellerjordan.github.io/posts/muon): matrices step along their orthogonalised momentum.

torch.optim.Muon takes plain matrices only and iterates in bfloat16, which a CPU without bf16 units multiplies some
hundred times slower than float32. This one takes convolution kernels and fused query-key-value matrices too, treats
equal shapes as one batch, and iterates in bfloat16 only where that is fast.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from vlp.config import COMMON
from vlp.config.bounds import AtLeastZero, Count, Decay, Positive
from vlp.distributed.sharding import part, whole
from vlp.training.optimizers import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's quintic: singular values end between 0.7 and 1.2
FUSED = ("in_proj_weight", "qkv.weight")  # three matrices in one parameter


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon for the matrices and kernels inside the towers; AdamW, with its own lr, for everything else."""

    lr: Annotated[Positive, COMMON] = 2e-3
    """peak learning rate of the matrices"""
    size: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
    """length of a step: the root mean square of AdamW's at this rate (2502.16982; try 2e-3), or Jordan's (try 0.02)"""
    adamw_lr: Positive = 1e-3
    """peak learning rate of embeddings, norms, biases and the logit scale"""
    weight_decay: Annotated[AtLeastZero, COMMON] = 0.1
    """share of a matrix that decays per step, times the learning rate"""
    adamw_weight_decay: AtLeastZero = 0.1
    """the same for embeddings"""
    momentum: Decay = 0.95
    """memory of the gradient (Nesterov)"""
    iterations: Count = 5
    """Newton-Schulz iterations of the orthogonalisation"""
    beta1: Decay = 0.9
    """AdamW: memory of the mean gradient"""
    beta2: Decay = 0.98
    """AdamW: memory of the mean squared gradient"""
    eps: Positive = 1e-6
    """AdamW: what keeps the division safe"""

    def build(self, model: nn.Module) -> tuple[torch.optim.Optimizer, ...]:
        """Orthogonal momentum for the matrices of `model`, and a fused AdamW for the rest."""
        chosen = dict(matrices(model))
        taken = {id(p) for p in chosen.values()}
        rest = [(name, p) for name, p in model.named_parameters() if id(p) not in taken]
        adamw = torch.optim.AdamW(
            self.groups(model, rest, lr=self.adamw_lr, weight_decay=self.adamw_weight_decay),
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            fused=True,
        )
        if not chosen:
            return (adamw,)
        fused = {name: p for name, p in chosen.items() if name.endswith(FUSED)}
        whole = {name: p for name, p in chosen.items() if name not in fused}
        parts = [
            {**group, "parts": n}
            for some, n in ((whole, 1), (fused, 3))
            for group in self.groups(model, some.items(), lr=self.lr, weight_decay=self.weight_decay)
        ]
        settings = {"momentum": self.momentum, "iterations": self.iterations, "size": self.size}
        return (OrthogonalMomentum(parts, settings), adamw)


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, weight) of linear layers, attention projections and convolutions: no embeddings, nothing depthwise.

    A kernel with one input channel per group has no second axis to be orthogonal in.
    """
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        for name, p in module.named_parameters(prefix, recurse=False):
            if not p.requires_grad or p.ndim < 2 or not name.endswith(("weight", "proj")):
                continue
            if min(p.shape[0], p.numel() // p.shape[0]) > 1 and not (
                isinstance(module, nn.Conv2d) and module.groups > 1
            ):
                yield name, p


class OrthogonalMomentum(torch.optim.Optimizer):
    """m ← μ m + (1 − μ) g;  w ← (1 − lr·λ) w − lr·size·orthogonal((1 − μ) g + μ m).

    size is 0.2·√max(rows, columns) to match AdamW's, or √max(1, rows / columns) in the original.
    """

    def __init__(self, parameters: list[dict[str, Any]], settings: dict[str, Any]) -> None:
        super().__init__(parameters, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient; matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            shapes: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[tuple(p.shape)].append(p)
            for parameters in shapes.values():
                self._step_together(parameters, group)

    def _step_together(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        mu, parts = group["momentum"], group["parts"]
        directions = []
        for p in parameters:
            assert p.grad is not None
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            momentum = self.state[p]["momentum"].lerp_(p.grad, 1 - mu)
            direction = whole(torch.lerp(p.grad, momentum, mu))  # of a sharded matrix every rank needs all of it
            directions.append(direction.reshape(parts, p.shape[0] // parts, -1))
        together = orthogonal(torch.cat(directions), group["iterations"])  # [matrices, rows, columns]
        rows, columns = together.shape[1:]
        size = 0.2 * max(rows, columns) ** 0.5 if group["size"] == "match_rms_adamw" else max(1, rows / columns) ** 0.5
        for p, direction in zip(parameters, torch.split(together, parts), strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.sub_(part(direction.reshape(p.shape), like=p), alpha=group["lr"] * size)


def orthogonal(matrices: Tensor, iterations: int) -> Tensor:
    """U Vᵀ, about, of each matrix U S Vᵀ in [N, rows, columns], by Newton-Schulz iteration."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)
