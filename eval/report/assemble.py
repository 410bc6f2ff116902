"""report.json: every number of an evaluation, with its interval, and all conditions under which it was measured."""

from __future__ import annotations

import json
import os
import platform
import sys
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.embeddings.encode import data_sha256
from eval.embeddings.split import EmbeddedSplit
from eval.tasks import Measured, Task
from vlp import __version__
from vlp.files import write_whole

if TYPE_CHECKING:
    from vlp.models.release import Release

FORMAT = "vlp-report-1"
LIBRARIES = (
    *("torch", "torchvision", "open_clip_torch", "timm", "transformers", "tokenizers", "webdataset", "accelerate"),
    *("numpy", "pillow", "faiss-cpu", "faiss-gpu"),
)
Tree = dict[str, Any]


def assemble(
    release: Release,
    splits: Mapping[str, EmbeddedSplit],
    measured: Mapping[str, Measured],
    tasks: Mapping[str, list[Task]],
    seed: int,
) -> Tree:
    """The tree of report.json. `measured` has names such as `test_style/en/image_to_text/recall@1`.

    `metrics` is a flat map from these names to values; `intervals`, `candidates`, `queries` and `chance` are flat maps
    from the same names. If the model folder stands in a run's folder, `train` tells of that run.
    """
    rounded = {name: [round(bound, 6) for bound in m.interval] for name, m in measured.items()}
    return {
        "format": FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "train": training_record(Path(release.name).parent, release.id),
        "metrics": {name: round(m.value, 6) for name, m in measured.items()},
        "intervals": rounded,
        "candidates": {name: m.candidates for name, m in measured.items()},
        "queries": {name: m.queries for name, m in measured.items()},
        "chance": {name: round(m.chance, 6) for name, m in measured.items()},
        "bootstrap": {"rounds": 1000, "level": 0.95, "unit": "query", "method": "percentile"},
        "seed": seed,
        "model": about_model(release),
        "data": {name: about_split(split) for name, split in splits.items()},
        "tasks": {
            name: [{"task": type(task).__module__, **task.settings(), "data": splits[name].spec} for task in some]
            for name, some in tasks.items()
        },
        "versions": versions(),
        "machine": machine(),
    }


def about_model(release: Release) -> Tree:
    """Weights, tokenizer, picture preparation and precision."""
    from dataclasses import asdict

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
        "precision": str(parameters[0].dtype).removeprefix("torch."),
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
        "sha256": data_sha256(split.shards),
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


def versions() -> dict[str, str]:
    """Versions of Python, of vlp and of the libraries that a number may depend on."""
    found = {"python": platform.python_version(), "vlp": __version__}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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


def write_json(tree: Tree, path: Path) -> None:
    """Write a tree as JSON for people and programs, as a whole or not at all."""
    text = json.dumps(tree, indent=1, ensure_ascii=False, default=str) + "\n"
    write_whole(path, text)
