"""What of a run a checkpoint holds: tensors by name, and plain values. Random numbers follow from seed and step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from vlp.distributed.tensor_parts import Table, dtype_of
from vlp.training.state import Tally, TrainState


@dataclass(frozen=True)
class Contents:
    """The moving parts of a run as names and values, on this rank."""

    state: TrainState

    def tensors(self) -> dict[str, Tensor]:
        """Weights, average and state of the optimizers as they are: who writes into them changes the run."""
        kept = self._weights()
        for name, values in self._optimizer_state():
            kept |= {f"optimizer.{name}.{key}": v for key, v in values.items() if isinstance(v, Tensor)}
        for one in self.state.companions:
            kept |= {f"companion.{one.name}.{key}": v for key, v in one.state_dict().items()}
        return kept

    def plain(self, streams: list[Any]) -> dict[str, Any]:
        """Everything else, as JSON values; `streams` are the positions of all ranks in the data."""
        scalars = {
            f"{name}.{key}": v
            for name, values in self._optimizer_state()
            for key, v in values.items()
            if not isinstance(v, Tensor)
        }
        return {
            "watch": self.state.watch.state_dict(),
            "scaler": self.state.scaler.state_dict(),
            "tally": asdict(self.state.tally),
            "scalars": scalars,
            "streams": streams,
        }

    def room(self, table: Table) -> dict[str, Tensor]:
        """Tensors to read those of `table` into: weights and average themselves, new ones for the optimizers' state."""
        room, kept = self._weights(), by_weight(table, "optimizer.")
        for optimizer, names in zip(self.state.optimizers, self.names(), strict=True):
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            for name, weight in zip(names, weights, strict=True):
                for key in kept.get(name, ()):
                    full = f"optimizer.{name}.{key}"
                    shape, dtype = tuple(table[full]["shape"]), dtype_of(table[full])
                    same = weight.ndim and shape == tuple(weight.shape)
                    room[full] = torch.empty_like(weight, dtype=dtype) if same else torch.empty(shape, dtype=dtype)
        beside = {f"companion.{one.name}." for one in self.state.companions}
        for full in (name for name in table if name.startswith(tuple(beside))):
            room[full] = torch.empty(tuple(table[full]["shape"]), dtype=dtype_of(table[full]))
        return room

    def take(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> list[Any]:
        """Go on from what was read into `room`; returns the positions in the data of all ranks that wrote it."""
        kept, scalars = by_weight(tensors, "optimizer."), by_weight(plain["scalars"], "")
        for optimizer, names in zip(self.state.optimizers, self.names(), strict=True):
            every = [{**kept.get(name, {}), **scalars.get(name, {})} for name in names]
            state = {index: values for index, values in enumerate(every) if values}
            # groups as they are here: a run from its last good checkpoint may have changed their settings
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for one in self.state.companions:
            start = f"companion.{one.name}."
            one.load_state_dict({k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)})
        self.state.watch.load_state_dict(plain["watch"])
        if "scaler" in plain:  # checkpoints from before fp16 have none
            self.state.scaler.load_state_dict(plain["scaler"])
        self.state.tally = Tally(**plain["tally"])
        return list(plain["streams"])

    def names(self) -> list[list[str]]:
        """Of each optimizer's weights, in its order."""
        known = {id(p): name for name, p in self.state.module.named_parameters()}
        return [[known[id(p)] for group in o.param_groups for p in group["params"]] for o in self.state.optimizers]

    def _weights(self) -> dict[str, Tensor]:
        kept = {f"model.{name}": t for name, t in self.state.module.state_dict().items()}
        if self.state.average is not None:
            kept |= {f"average.{name}": t for name, t in self.state.average.state_dict().items()}
        return kept

    def _optimizer_state(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(name of a weight, what its optimizer keeps of it)."""
        both = zip(self.state.optimizers, self.names(), strict=True)
        pairs = []
        for optimizer, names in both:
            weights = [p for group in optimizer.param_groups for p in group["params"]]
            pairs += [(n, optimizer.state[p]) for n, p in zip(names, weights, strict=True) if p in optimizer.state]
        return pairs


def by_weight(values: Mapping[str, Any], prefix: str) -> dict[str, dict[str, Any]]:
    """What an optimizer keeps of each weight, out of names like optimizer.WEIGHT.KEY.

    >>> by_weight({"optimizer.text.weight.step": 3, "model.text.weight": 0}, "optimizer.")
    {'text.weight': {'step': 3}}
    """
    kept: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name.startswith(prefix):
            weight, _, key = name[len(prefix) :].rpartition(".")
            kept.setdefault(weight, {})[key] = value
    return kept
