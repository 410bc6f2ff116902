"""report.json: every number of an evaluation, with its interval, and all conditions under which it was measured."""

from __future__ import annotations

import json
import os
import platform
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.datasets import Dataset
from eval.embeddings.split import EmbeddedSplit
from eval.tasks import Measured, Task
from vlp.config import component_name, to_tree
from vlp.record import versions

if TYPE_CHECKING:
    from vlp.models.release import Release

FORMAT = "vlp-report-1"
Tree = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What came of one shard set."""

    name: str
    split: EmbeddedSplit
    tasks: Mapping[str, Task]
    measured: Mapping[str, Measured]  # by names such as `test_style/en/image_to_text/recall@1`
    left_out: Mapping[str, str]  # task -> why it has nothing to measure here; "" where it was measured


def assemble(release: Release, parts: Sequence[Part], command: str = "") -> Tree:
    """The tree of report.json; `command` is what was typed.

    `metrics` is a flat map from names such as `test_style/en/image_to_text/recall@1` to values; MAPS lists the flat
    maps from the same names to what else is known of each metric. If the model folder stands in a run's folder,
    `train` has that run's record.
    """
    measured = {name: m for part in parts for name, m in part.measured.items()}
    tree = {
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "train": training_record(Path(release.name).parent, release.id),
        "metrics": {name: round(m.value, 6) for name, m in measured.items()},
        **{key: {name: of(m) for name, m in measured.items()} for key, of in MAPS.items()},
        "bootstrap": {"rounds": 1000, "level": 0.95, "unit": "query", "method": "percentile"},
        "seed": _seed(parts),
        "model": about_model(release),
        "data": {part.name: about_split(part.split) for part in parts},
        "tasks": {part.name: [_task(part, name) for name in part.tasks] for part in parts},
        "versions": versions(),
        "machine": machine(),
    }
    return tree


MAPS: dict[str, Callable[[Measured], Any]] = {
    "intervals": lambda m: [round(bound, 6) for bound in m.interval],
    "candidates": lambda m: m.candidates,
    "queries": lambda m: m.queries,
    "chance": lambda m: None if m.chance is None else round(m.chance, 6),
    "units": lambda m: m.unit,
    "better": lambda m: m.better,
    "primary": lambda m: m.presentation.primary,
    "labels": lambda m: list(m.presentation.label),
    "measures": lambda m: m.presentation.measure,
    "explanations": lambda m: m.presentation.explains,
    "headlines": lambda m: m.presentation.headline,
}
"""Key of report.json -> what it says of a metric."""


def is_current(tree: Tree) -> bool:
    """Whether a report.json that was written earlier has all that tables and pages want."""
    return tree.get("format") == FORMAT and tree.keys() >= {
        *("metrics", "tasks", "data", "model", "versions", "command"),
        *MAPS,
    }


def _seed(parts: Sequence[Part]) -> int | dict[str, int]:
    """The seed of the bootstrap; by task, where tasks have different ones."""
    seeds = {name: task.seed for part in parts for name, task in part.tasks.items()}
    return next(iter(seeds.values())) if len(set(seeds.values())) == 1 else seeds


def _task(part: Part, name: str) -> Tree:
    task = part.tasks[name]
    module = type(task).__module__
    about = {"name": name, "task": module, **task.settings(), "data": part.split.spec}
    return {**about, "left_out": part.left_out.get(name, "")}


def about_model(release: Release) -> Tree:
    """Weights, tokenizer, picture preparation and precision."""
    parameters = list(release.encoder.parameters())
    folder = Path(release.name)
    notes: Tree = {}
    if (folder / "model.toml").is_file():
        notes = tomllib.loads((folder / "model.toml").read_text(encoding="utf-8"))
    tokenizer = type(release.tokenizer).__name__
    return {
        "name": release.name,
        "weights_sha256": release.id,
        "parameters": sum(p.numel() for p in parameters),
        "precision": "bfloat16" if release.precision == "bf16" else str(parameters[0].dtype).removeprefix("torch."),
        "device": str(parameters[0].device),
        "logit_scale": round(release.encoder.logit_scale.detach().exp().item(), 4),
        "tokenizer": {
            "kind": tokenizer,
            "vocab": release.tokenizer.vocab,
            "context": release.tokenizer.context,
            "sha256": notes.get("sha256", {}).get("tokenizer.json", ""),
        },
        "preprocessing": {"kind": type(release.transform).__name__, **asdict(release.transform)},
        "trained_on": notes.get("notes", {}),
    }


def about_split(split: EmbeddedSplit) -> Tree:
    """What was evaluated on."""
    return {
        "spec": split.spec,
        "dataset": {"name": component_name(split.dataset, Dataset), **to_tree(split.dataset)},
        "folder": os.getcwd(),
        "asks": split.dataset.asks,
        "sha256": split.dataset.sha256(),
        "samples": len(split.samples),
        "skipped": split.skipped.by_reason(),
        "languages": list(split.languages),
    }


def training_record(run: Path, model: str) -> Tree:
    """RUN/train.json, if it is about this model; else nothing."""
    path = run / "train.json"
    if not path.is_file():
        return {}
    record: Tree = json.loads(path.read_text(encoding="utf-8"))
    return record if record.get("model_id", model) == model else {}


def machine() -> Tree:
    """The machine that evaluates."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if sys.platform == "linux" else 0
    return {
        "platform": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    }
