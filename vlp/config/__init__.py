"""Presets (TOML) and flags -> frozen dataclasses, and back: the record of a run.

A field whose type is a component base class (it has the attribute `component_package`) is chosen by name, and the name
is that of a file: `loss.name = "siglip"` is the one Loss that `vlp/losses/siglip.py` defines. A dotted name is any
other module (`"my_lab.focal"`).

A field marked MAY_CHANGE may differ between two parts of one run (`identity` leaves it out); one marked COMMON is among
those that `--help` shows first. The bounds of numbers stand beside them too (vlp.config.bounds).
"""

from __future__ import annotations

import dataclasses
import sys
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from vlp.config.bounds import check
from vlp.config.components import component as component
from vlp.config.components import component_name as component_name
from vlp.config.components import did_you_mean as did_you_mean
from vlp.config.components import only_ours as only_ours
from vlp.config.flags_help import short_help
from vlp.config.marks import COMMON as COMMON
from vlp.config.marks import MAY_CHANGE as MAY_CHANGE
from vlp.config.marks import Mark
from vlp.errors import UserError, tell_launcher
from vlp.legible import plain, printable

T = TypeVar("T")
Tree = dict[str, Any]
PRESETS = Path(__file__).parent.parent / "presets"


def merge(base: Tree, over: Tree) -> Tree:
    """`base` overlaid by `over`, deeply; a table that names another component replaces the old one as a whole."""
    if over.get("name", base.get("name")) != base.get("name") and "name" in base:
        return over
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if both else value
    return out


def read_preset(name: str) -> Tree:
    """The tree of a bundled preset (`demo`) or of a file (`my/preset.toml`).

    Raises UserError if there is none, or if it is not TOML.
    """
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        known = sorted(p.stem for p in PRESETS.glob("*.toml"))
        what = f'no preset file "{name}"' if name.endswith(".toml") else f'no preset is called "{name}"'
        raise UserError(what + did_you_mean(name, known))
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {plain(error)}") from None


def build(kind: type[T], tree: Mapping[str, Any], where: str = "") -> T:
    """An instance of the dataclass (or component base) `kind` from `tree`.

    Raises UserError for unknown keys and values of the wrong type, naming the key by its full path.
    """
    tree = dict(tree)
    cls: type = kind
    if hasattr(kind, "component_package") and "component_package" in vars(kind):
        if "name" not in tree:
            raise UserError(f'"{where or kind.__name__}" needs a name: the file that defines it, such as name = "..."')
        cls = component(kind, str(tree.pop("name")))
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values: Tree = {}
    for key, value in tree.items():
        path = f"{where}.{key}" if where else key
        if key not in fields:
            inside = [group for group, hint in hints.items() if key in getattr(hint, "__dataclass_fields__", {})]
            near = f'; it is "{path[: -len(key)]}{inside[0]}.{key}"' if inside else did_you_mean(key, list(fields))
            raise UserError(f'unknown key "{path}"{near}')
        values[key] = _convert(hints[key], value, path)
    missing = [n for n, f in fields.items() if n not in values and _required(f)]
    if missing:
        raise UserError(f'"{where + "." if where else ""}{missing[0]}" is missing; set it in a preset or by a flag')
    built = typing.cast(T, cls(**values))
    check(built, where)
    return built


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`, or a UserError that names `path`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _convert(args[0], value, path)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, path)
    if origin is typing.Literal:
        if value in args:
            return value
        raise UserError(f'"{path}" is {value!r}{did_you_mean(str(value), [str(a) for a in args])}')
    if isinstance(hint, type) and (dataclasses.is_dataclass(hint) or hasattr(hint, "component_package")):
        return value if isinstance(value, hint) else build(hint, _table(value, path), path)
    if origin is tuple:
        items = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
        inner = [args[0]] * len(items) if args[-1] is Ellipsis else list(args)
        if len(inner) == len(items):
            return tuple(_convert(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(inner, items, strict=True)))
    elif origin in (dict, Mapping):
        return {k: _convert(args[1], v, f"{path}.{k}") for k, v in _table(value, path).items()}
    elif hint is Any or (hint is float and isinstance(value, int) and not isinstance(value, bool)):
        return value if hint is Any else float(value)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f'"{path}" is {value!r}, but it should be {getattr(hint, "__name__", hint)}')


def _convert_union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    if value in (None, "none") and type(None) in args:
        return None
    problem: UserError | None = None
    for option in args:
        if option is not type(None):
            try:
                return _convert(option, value, path)
            except UserError as error:
                problem = problem or error
    raise problem or UserError(f'"{path}" cannot be {value!r}')


def _table(value: Any, path: str) -> Tree:
    if not isinstance(value, Mapping):
        raise UserError(f'"{path}" is {value!r}, but it should be a table of keys')
    return dict(value)


def to_tree(instance: Any, *, without: Mark | None = None) -> Tree:
    """The tree that `build` would turn into `instance` again; without the fields that have the mark `without`."""
    hints = typing.get_type_hints(type(instance), include_extras=True)
    fields = [f.name for f in dataclasses.fields(instance) if f.init]
    kept = [name for name in fields if without is None or without not in typing.get_args(hints[name])]
    return {name: _plain(getattr(instance, name), hints[name], without) for name in kept}


def identity(instance: Any) -> Tree:
    """What two parts of one run must share of `instance`."""
    return to_tree(instance, without=MAY_CHANGE)


def _plain(value: Any, hint: Any, without: Mark | None) -> Any:
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if dataclasses.is_dataclass(value):
        tree = to_tree(value, without=without)
        is_component = isinstance(hint, type) and hasattr(hint, "component_package")
        return {"name": component_name(value, hint), **tree} if is_component else tree
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        inner = (typing.get_args(hint) or (Any, Any))[1]
        return {k: _plain(v, inner, without) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v, Any, without) for v in value]
    return "none" if value is None else value


def dump(instance: Any, base: type | None = None) -> str:
    """`instance` as TOML text; with `base`, as a component of that base (the name is written too)."""
    import tomli_w

    tree = to_tree(instance)
    return tomli_w.dumps({"name": component_name(instance, base), **tree} if base else tree)


def parse(cls: type[T], argv: Sequence[str], prog: str, description: str) -> T:
    """Dataclass defaults < presets in order < flags, as an instance of `cls`.

    `argv` is preset names (or .toml files) and then flags; `--loss.name siglip` swaps a component. Raises UserError for
    a bad preset; a bad flag ends the program with a message and status 2, `--help` and `--help-all` with status 0.
    """
    import tyro

    argv = list(argv)
    split = next((i for i, a in enumerate(argv) if a.startswith("-")), len(argv))
    tree: Tree = {}
    for name in argv[:split]:
        tree = merge(tree, read_preset(name))
    flags, names = _component_flags(argv[split:])
    for path, name in names:
        tree = merge(tree, _nested(path, {"name": name}))
    default = build(cls, tree)
    flags, entries = _mapping_flags(flags, default)
    for path, value in entries:
        tree = merge(tree, _nested(path, value))
    default = build(cls, tree)
    if any(flag in ("-h", "--help") for flag in flags):
        print(short_help(default, prog, description))
        raise SystemExit(0)
    flags = ["--help" if flag == "--help-all" else flag for flag in flags]
    result = tyro.cli(cls, args=flags, default=default, prog=prog, description=description)
    check(result)
    return result


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _mapping_flags(flags: list[str], default: Any) -> tuple[list[str], list[tuple[list[str], Any]]]:
    """Flags without those that set an entry of a table of plain values, and these as (path, value).

    tyro knows the entries that a table has; `--data.captions.weights.fr 1` adds one.
    """
    rest: list[str] = []
    entries: list[tuple[list[str], Any]] = []
    it = iter(flags)
    for flag in it:
        key, eq, text = flag.partition("=")
        path = _entry(key[2:].split("."), default) if key.startswith("--") else None
        if path is None:
            rest.append(flag)
        else:
            entries.append((path, _scalar(text if eq else next(it, ""))))
    return rest, entries


def _entry(steps: list[str], at: Any) -> list[str] | None:
    """The path of the entry that `steps` name in a table of plain values below `at`; None if there is none."""
    for i, step in enumerate(steps[:-1]):
        name = step.replace("-", "_")
        at = at.get(step) if isinstance(at, Mapping) else getattr(at, name, None)
        if isinstance(at, Mapping) and not any(map(dataclasses.is_dataclass, at.values())):
            return [*(s.replace("-", "_") for s in steps[: i + 1]), ".".join(steps[i + 1 :])]
    return None


def _scalar(text: str) -> Any:
    """A value as TOML reads it; bare words are text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _component_flags(flags: list[str]) -> tuple[list[str], list[tuple[list[str], str]]]:
    """Flags without the `--a.b.name value` ones, and those as (path, value)."""
    rest: list[str] = []
    names: list[tuple[list[str], str]] = []
    it = iter(flags)
    for flag in it:
        key, eq, value = flag.partition("=")
        if key.startswith("--") and key.endswith(".name"):
            names.append((key[2:-5].replace("-", "_").split("."), value if eq else next(it, "")))
        else:
            rest.append(flag)
    return rest, names


def run_main(main: Any, argv: Sequence[str] | None = None) -> int:
    """The exit status of `main(argv)`: a UserError becomes one line on stderr and status 2."""
    try:
        return int(main(list(sys.argv[1:] if argv is None else argv)) or 0)
    except UserError as error:
        sentence = f"error: {printable(str(error))}"
        print(sentence, file=sys.stderr)
        tell_launcher(sentence)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
