"""Pages of one file each: no network, the style sheet inside, for light and dark screens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlp.legible import printable

HERE = Path(__file__).parent


def render(template: Path, *parts: Path, **values: Any) -> str:
    """The page that `template` makes of `values`; it may extend base_page.html and include files of its own folder.

    `parts` are files of other folders that it includes.

    Raises jinja2.UndefinedError for a value that the template names and nobody gave.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: object) -> object:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    folders = FileSystemLoader([template.parent, *(part.parent for part in parts), HERE])
    pages = Environment(loader=folders, autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=shown)
    css = (HERE / "page.css").read_text(encoding="utf-8")
    return pages.get_template(template.name).render(css=css, **values)
