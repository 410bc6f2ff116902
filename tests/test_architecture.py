"""The house rules that a machine can check: which way imports run, and how big and how named a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("vlp", "data_pipelines", "eval")
FILES = [*sorted(p for room in ROOMS for p in (ROOT / room).rglob("*.py")), ROOT / "train.py"]

# module prefix -> the only files that may import it
ONLY = {
    "faiss": ("eval/index/",),
    **dict.fromkeys(("pymilvus", "milvus_lite"), ("eval/index/_milvus.py",)),
    "webdataset": ("data_pipelines/", "eval/datasets/"),
    "wandb": ("vlp/training/sinks/",),
    "tensorboard": ("vlp/training/sinks/",),
    "duckdb": ("eval/search/",),
    "torch.utils.tensorboard": ("vlp/training/sinks/",),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "prometheus_client", "pydantic"), ("eval/service/",)),
}
# room -> what it must never import
NEVER = {
    "vlp/": ("eval", "data_pipelines", "train"),
    "data_pipelines/": ("eval", "train", "vlp.models", "vlp.losses", "vlp.training", "vlp.distributed"),
    "vlp/models/": ("torch.distributed", "vlp.training", "vlp.losses", "vlp.distributed"),
    "vlp/losses/": ("torch.distributed", "vlp.training", "vlp.models", "vlp.distributed"),
    "vlp/distributed/": ("vlp.training",),
    "vlp/training/": ("torch.distributed", "vlp.teachers"),
    "vlp/config/": ("vlp.models", "vlp.losses", "vlp.training", "vlp.distributed", "torch"),
    "vlp/cli.py": ("torch", "vlp.models", "vlp.losses", "vlp.training", "vlp.distributed"),
}


def imports(path: Path) -> set[str]:
    """Every module name that `path` imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def inside(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downhill(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    imported = imports(path)
    for room, forbidden in NEVER.items():
        if name.startswith(room):
            assert not [m for m in imported for f in forbidden if inside(m, f)], f"{name} imports uphill"
    for module, rooms in ONLY.items():
        if any(inside(m, module) for m in imported):
            assert name.startswith(rooms), f"{name} imports {module}, which only {rooms} may"
    if not name.startswith(("vlp/distributed/", "train.py")):
        assert not [m for m in imported if inside(m, "torch.distributed")], f"{name} touches process groups"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Every circle that a walk from each module comes upon."""
    loops: list[list[str]] = []
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            loops.append([*trail[trail.index(module) :], module])
        elif module not in done:
            for other in sorted(graph[module]):
                walk(other, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return loops


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checkers count: what needs them is in the wrong room."""
    modules = {module_of(path): path for path in FILES}
    graph = {name: (imports(path) & modules.keys()) - {name} for name, path in modules.items()}
    assert not circles(graph)


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c", "b"]]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    assert path.stem not in ("utils", "util", "helpers", "helper", "common", "misc")
    text = path.read_text()
    assert text.count("\n") <= 350, f"{path} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            assert size <= 50, f"{path}:{node.lineno} {node.name} has {size} lines"
