"""Components by the names of their files: `siglip` is the one loss that `vlp/losses/siglip.py` defines."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

from vlp.errors import UserError


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """'; did you mean "x"?' when one of `known` is close to `word`, else the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else f"; known: {', '.join(sorted(known))}"


_only_ours: ContextVar[bool] = ContextVar("only_ours", default=False)


@contextmanager
def only_ours(wanted: bool = True) -> Iterator[None]:
    """A context in which only components of vlp are loaded: for files that come from elsewhere, such as model folders.

    To import a module is to run it, so a dotted name is for what the user has typed, or for what is trusted.
    """
    token = _only_ours.set(wanted)
    try:
        yield
    finally:
        _only_ours.reset(token)


def component(base: type, name: str) -> type:
    """The one subclass of `base` that the module called `name` defines; of a dotted name also in the current folder.

    Raises UserError for an unknown name, with the nearest known one, for a module that does not define exactly one, and
    for a dotted name inside `only_ours`.
    """
    if "." in name and _only_ours.get():
        raise UserError(
            f'"{name}" is code from outside of vlp, which a file from elsewhere may not load; '
            "give --trust if you know who wrote it"
        )
    package = importlib.import_module(base.component_package)  # type: ignore[attr-defined]
    path = name if "." in name else f"{package.__name__}.{name}"
    try:
        with current_folder_last() if "." in name else nullcontext():
            module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise
        raise UserError(
            f'no {base.__name__.lower()} is called "{name}"{did_you_mean(name, component_names(base))}'
        ) from None
    defined = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, base) and c is not base and c.__module__ == path
    ]
    if len(defined) != 1:
        raise UserError(f"{path} should define exactly one {base.__name__}, but it defines {len(defined)}")
    return defined[0]


def component_name(instance: object, base: type) -> str:
    """The name under which `component` finds the class of `instance`."""
    package, _, name = type(instance).__module__.rpartition(".")
    return name if package == base.component_package else type(instance).__module__  # type: ignore[attr-defined]


@contextmanager
def current_folder_last() -> Iterator[None]:
    """A context in which modules are looked for in the current folder too, after everything that is installed."""
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.path.pop()


def component_names(base: type) -> list[str]:
    """The names of the components of `base` that the product has: the files of its package."""
    package = importlib.import_module(base.component_package)  # type: ignore[attr-defined]
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
