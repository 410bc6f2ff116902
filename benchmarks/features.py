"""What the loss and its gradient lose by features that are rounded: relative errors against float64.

    python -m benchmarks.features

Captions are the vectors of their pictures with so much noise that the loss is neither easy nor hopeless, and the logit
scale stands at its start (14.3) or at its bound (100). The embeddings are float32, as the trainer has them; `features`
says what the loss is computed on, as `training.features` does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vlp.batch import Embeddings
from vlp.distributed.sharded import sharded
from vlp.distributed.world import World
from vlp.losses import Loss
from vlp.losses.infonce import InfoNCE
from vlp.losses.siglip import SigLIP

FEATURES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PAIRS, WIDTH = 2048, 512


def embeddings(pairs: int, width: int, scale: float) -> Embeddings:
    """Pairs in float32 with a common direction, which features of one modality have."""
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(pairs, width, generator=generator) for _ in range(2))
    shift = torch.randn(width, generator=generator)
    text = image + 6 * noise
    vectors = [normalize(t + 0.5 * shift, dim=-1) for t in (image, text)]
    return Embeddings(*vectors, torch.tensor(scale), torch.tensor(-10.0))


def leaves(e: Embeddings, dtype: torch.dtype) -> Embeddings:
    """The same numbers as leaves that want gradients."""
    return Embeddings(*(t.detach().to(dtype).requires_grad_() for t in (e.image, e.text, e.scale, e.bias)))


def errors(loss: Loss, e: Embeddings, features: torch.dtype) -> dict[str, float]:
    """Relative errors of the value, of the gradients of pictures and captions, and of that of the scale."""
    exact, given = leaves(e, torch.float64), leaves(e, torch.float32)
    expected, actual = loss.reference(exact), sharded(loss, World.alone("cpu"), features=features)(given)
    expected.backward()
    actual.backward()
    pairs = {
        "loss": (actual.detach(), expected.detach()),
        "picture": (given.image.grad, exact.image.grad),
        "caption": (given.text.grad, exact.text.grad),
        "scale": (given.scale.grad, exact.scale.grad),
    }
    return {name: apart(*pair) for name, pair in pairs.items()}


def apart(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference, as a share of the norm."""
    return float((actual.double() - expected).norm() / expected.norm())


def main() -> None:
    print(f"{PAIRS:,} pairs of width {WIDTH}: relative error against float64\n")
    print("| objective | logit scale | features | loss | gradient of pictures | of captions | of the scale |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for loss in (InfoNCE(), SigLIP()):
        for scale in (1 / 0.07, 100.0):
            for name, dtype in FEATURES.items():
                measured = errors(loss, embeddings(PAIRS, WIDTH, scale), dtype)
                numbers = " | ".join(f"{value:.1e}" for value in measured.values())
                print(f"| {type(loss).__name__} | {scale:.1f} | {name} | {numbers} |")


if __name__ == "__main__":
    main()
