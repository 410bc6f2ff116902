"""`vlp plan`: what a run will cost by each strategy, before anyone pays for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlp.config.bounds import Count, Positive, Whole, check
from vlp.distributed.plan.cost import Cost, Setup, candidates, open_clip, recommended
from vlp.errors import UserError

STATE_BYTES = 16  # per parameter: weights, gradients and two moments of AdamW in float32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run will cost per strategy: bytes inside and between nodes, peak memory, arithmetic and time."""

    ranks: Count = 8
    """GPUs (ranks) of the run."""
    batch: Count = 32768
    """Pairs of the whole batch; each rank has batch / ranks of them in one loss, cached steps included."""
    model: str | None = None
    """An open_clip model whose width, parameters and arithmetic count; without it, only the loss is planned."""
    width: Count = 512
    """Width of the embeddings, where no model is named."""
    per_node: Count = 8
    """GPUs in a node."""
    inside: Positive = 300.0
    """GB/s one GPU receives inside its node (NVLink 4: 300 to 450)."""
    between: Positive = 50.0
    """GB/s one GPU receives from other nodes (one 400 Gb/s link each: 50)."""
    memory: Positive = 80.0
    """GB of memory per GPU."""
    tflops: Positive = 300.0
    """10^12 operations per second one GPU sustains in matmuls."""
    dtype: str = "bfloat16"
    """Of the features that travel: bfloat16 or float32 (training.features bf16 or fp32)."""
    statistics: Whole = 1
    """Log-sum-exps the objective needs: 1 for InfoNCE, DCL and multi-positive, 3 for HN-NCE, 0 for SigLIP."""
    json: bool = False
    """Print JSON."""

    def setup(self, width: int) -> Setup:
        """The same in the cost model's units. Raises UserError for numbers that make no run."""
        if self.ranks < 1 or self.batch < self.ranks or self.batch % self.ranks:
            raise UserError(f"--batch is {self.batch} and --ranks is {self.ranks}, but ranks should divide the batch")
        if self.dtype not in ("bfloat16", "float32"):
            raise UserError(f'--dtype is "{self.dtype}", but it should be bfloat16 or float32')
        return Setup(
            ranks=self.ranks,
            pairs=self.batch // self.ranks,
            width=width,
            per_node=min(self.per_node, self.ranks),
            element=2 if self.dtype == "bfloat16" else 4,
            inside=self.inside * 1e9,
            between=self.between * 1e9,
            flops=self.tflops * 1e12,
            statistics=self.statistics,
        )


@dataclass(frozen=True)
class Towers:
    """What a model adds to the plan."""

    width: int
    parameters: int
    forward_flops: float  # per pair


def towers(name: str) -> Towers:
    """Width, parameters and forward operations per pair of an open_clip model, counted without weights."""
    import open_clip
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = open_clip.get_model_config(name)
    if config is None:
        raise UserError(f'no open_clip model is called "{name}"; open_clip.list_models() names them')
    with torch.device("meta"):
        model: Any = open_clip.CLIP(**{k: v for k, v in config.items() if k in ("embed_dim", "vision_cfg", "text_cfg")})
    size = model.visual.image_size
    side = size if isinstance(size, tuple) else (size, size)
    image = torch.empty(1, 3, *side, device="meta")
    text = torch.zeros(1, model.context_length, dtype=torch.int64, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        model(image, text)
    parameters = sum(p.numel() for p in model.parameters())
    return Towers(config["embed_dim"], parameters, float(counted.get_total_flops()))


def shown(setup: Setup) -> list[Cost]:
    """The rows worth reading: the five quickest grids, one-sided, ring, grouped and open_clip's four."""
    ours = candidates(setup)
    quickest = [c for c in ours if c.name.startswith("grid")][:5]
    others = [c for c in ours if c not in quickest and (not c.name.startswith("grid") or c.note == "one-sided")]
    return sorted(quickest + others, key=lambda c: (not c.exact, c.seconds)) + open_clip(setup)


def table(plan: Plan, setup: Setup, rows: list[Cost], chosen: Cost, model: Towers | None) -> str:
    """The plan as text."""

    def mega(value: float) -> str:
        return f"{value / 1e6:,.1f}"

    head = ("strategy", "exact", "MB inside", "MB between", "peak MB", "GFLOP", "ms", "")
    body = [
        (
            ("> " if row == chosen else "  ") + row.name,
            "yes" if row.exact else "NO",
            mega(row.inside),
            mega(row.between),
            mega(row.memory),
            f"{row.flops / 1e9:,.0f}",
            f"{row.seconds * 1e3:,.2f}",
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[k]) for line in (head, *body)) for k in range(len(head))]
    lines = [
        "  ".join(
            text.ljust(w) if k in (0, 7) else text.rjust(w)
            for k, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (head, *body)
    ]
    about = (
        f"{setup.ranks} ranks, {setup.per_node} per node, {setup.pairs} pairs each (batch {plan.batch:,}), "
        f"width {setup.width}, {plan.dtype} features; per rank and loss"
    )
    return "\n".join([about, "", *(line.rstrip() for line in lines), "", reason(plan, setup, rows, chosen, model)])


def reason(plan: Plan, setup: Setup, rows: list[Cost], chosen: Cost, model: Towers | None) -> str:
    """Why the chosen strategy is recommended, in a sentence or three."""
    peer = next(row for row in rows if row.name == "open_clip local_loss gather_with_grad")
    sentences = [
        f"recommended: --training.negatives {chosen.name}, exact and the quickest that fits: "
        f"{chosen.received / max(peer.received, 1):.3f} of the bytes and {chosen.memory / peer.memory:.3f} "
        "of the memory of open_clip's best exact loss."
    ]
    if model is not None:
        state = STATE_BYTES * model.parameters / 1e9
        encode = 3 * model.forward_flops * setup.pairs / setup.flops
        free = plan.memory - state - chosen.memory / 1e9
        sentences.append(
            f"{plan.model}: {model.parameters / 1e6:,.0f} M parameters, {state:.1f} GB with gradients and AdamW, "
            f"{encode * 1e3:,.0f} ms to encode {setup.pairs} pairs and back; "
            f"the loss adds {chosen.seconds / encode:.1%}."
        )
        sentences.append(
            f"{free:.1f} GB of {plan.memory:g} are left for activations."
            if free > 0
            else f"It does NOT fit: {-free:.1f} GB over the {plan.memory:g} GB of a GPU, activations not counted."
        )
    return "\n".join(sentences)


def main(argv: Sequence[str]) -> int:
    """The command `vlp plan`."""
    import tyro

    plan = tyro.cli(Plan, args=list(argv), prog="vlp plan")
    check(plan)
    model = towers(plan.model) if plan.model else None
    setup = plan.setup(model.width if model else plan.width)
    state = STATE_BYTES * model.parameters if model else 0
    rows, chosen = shown(setup), recommended(setup, memory=plan.memory * 1e9 - state)
    if plan.json:
        listed = [asdict(row) | {"recommended": row == chosen} for row in rows]
        record = {"setup": asdict(setup), "model": asdict(model) if model else None, "strategies": listed}
        print(
            json.dumps(record | {"recommended": chosen.name, "why": reason(plan, setup, rows, chosen, model)}, indent=1)
        )
    else:
        print(table(plan, setup, rows, chosen, model))
    return 0
