"""Gradual unlocking (ULMFiT, 1801.06146): towers that begin locked are trained from the top down, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlp.models.adapt.layers import Layer, layers
from vlp.models.adapt.towers import Towers
from vlp.models.dual_encoder import DualEncoder


class Unlocking:
    """Which layers of a model are still locked after so many pairs: a function of the count, so a resumed run agrees.

    A locked layer has no gradient when the context ends, so that no optimizer moves it or lets it decay, and is in
    evaluation mode. Its backward pass is still computed: what wraps the model for several ranks has fixed which weights
    have gradients.
    """

    def __init__(self, encoder: DualEncoder, towers: Towers) -> None:
        self.encoder = encoder
        self.plan: list[tuple[int, Layer]] = []  # pairs before which a layer is locked
        for name, side in towers.sides.items():
            if side.lock and side.unlock_after:
                tower = encoder.image_tower if name == "image" else encoder.text_tower
                depth = layers(tower)
                below = depth[: max(len(depth) - side.trained_layers, 0)]
                if below == depth:  # what the tower does beside its layers, such as dropping tokens, is locked as well
                    self.plan.append((side.unlock_after, Layer([tower])))
                for place, layer in enumerate(reversed(below)):
                    self.plan.append((side.unlock_after + place * side.unlock_every, layer))

    def locked(self, samples: int) -> list[Layer]:
        """The layers that are locked when `samples` pairs have been seen."""
        return [layer for until, layer in self.plan if samples < until]

    @contextmanager
    def __call__(self, samples: int) -> Iterator[None]:
        """A context for the gradient of one step, after `samples` pairs."""
        locked = self.locked(samples)
        if self.plan:
            self.encoder.train(self.encoder.training)
        for layer in locked:
            for module in layer.modules:
                module.eval()
        yield
        for layer in locked:
            for parameter in layer.parameters():
                parameter.grad = None
