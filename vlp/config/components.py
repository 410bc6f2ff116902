"""Components by the names of their files: `siglip` is the one loss that `vlp/losses/siglip.py` defines."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Sequence

from vlp.errors import UserError


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """'; did you mean "x"?' when one of `known` is close to `word`, else the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else f"; known: {', '.join(sorted(known))}"


def component(base: type, name: str) -> type:
    """The one subclass of `base` that the module called `name` defines.

    Raises UserError for an unknown name, with the nearest known one, and for a module that does not define exactly one.
    """
    package = importlib.import_module(base.component_package)  # type: ignore[attr-defined]
    path = name if "." in name else f"{package.__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise
        raise UserError(
            f'no {base.__name__.lower()} is called "{name}"{did_you_mean(name, component_names(base))}'
        ) from None
    found = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, base) and c is not base and c.__module__ == path
    ]
    if len(found) != 1:
        raise UserError(f"{path} should define exactly one {base.__name__}, but it defines {len(found)}")
    return found[0]


def component_name(instance: object, base: type) -> str:
    """The name under which `component` finds the class of `instance`."""
    package, _, name = type(instance).__module__.rpartition(".")
    return name if package == base.component_package else type(instance).__module__  # type: ignore[attr-defined]


def component_names(base: type) -> list[str]:
    """The names of the components of `base` that the product has: the files of its package."""
    package = importlib.import_module(base.component_package)  # type: ignore[attr-defined]
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
