"""`--help`: the flags that people set first, with their values in the presets; `--help-all` lists the rest."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from vlp.config.components import component_name, component_names
from vlp.config.marks import COMMON


def field_docs(cls: Any) -> dict[str, str]:
    """field -> the docstring below it, base classes included."""
    docs: dict[str, str] = {}
    bases: list[Any] = [base for base in reversed(cls.__mro__) if dataclasses.is_dataclass(base)]
    for base in bases:
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Constant):
                docs[ast.unparse(field.target)] = " ".join(str(text.value).split())
    return docs


def common(instance: Any, where: str = "") -> Iterator[tuple[str, str, str]]:
    """(flag, its value now, what it means) of the marked fields of a tree of dataclasses, and each component's name."""
    hints = typing.get_type_hints(type(instance), include_extras=True)
    docs = field_docs(type(instance))
    for field in dataclasses.fields(instance):
        value, path = getattr(instance, field.name), f"{where}{field.name}".replace("_", "-")
        hint, marks = hints[field.name], typing.get_args(hints[field.name])
        base = marks[0] if marks and typing.get_origin(hint) is typing.Annotated else hint
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if isinstance(base, type) and hasattr(base, "component_package"):
                choices = ", ".join(component_names(base))
                yield f"--{path}.name", component_name(value, base), f"{docs.get(field.name, '')}: {choices}"
            yield from common(value, f"{path}.")
        elif COMMON in marks:
            yield f"--{path}", shown(value), docs.get(field.name, "")


def shown(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{key} {one:g}" for key, one in value.items())
    return str(value) if value not in ("", None) else "-"


def table(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    """(flag, value, what it means) as lines of at most 120 characters; a value that is "" is left out."""
    rows = list(rows)
    wide = max(len(flag) for flag, _, _ in rows) + 2
    lines = []
    for flag, value, doc in rows:
        text = textwrap.wrap(f"{doc} [{value}]" if value else doc, 116 - wide) or [""]
        lines += [f"  {flag:<{wide}}{text[0]}", *(" " * (wide + 2) + more for more in text[1:])]
    return lines


def short_help(instance: Any, prog: str, description: str) -> str:
    """The text of `prog --help`."""
    lines = [f"usage: {prog} [PRESET ...] [FLAGS]", "", description.strip(), ""]
    lines += ["The flags that people set first, and their values:", "", *table(common(instance))]
    lines += ["", f"{prog} --help-all lists every flag; each is also a key of a preset (TOML)."]
    return "\n".join(lines)
