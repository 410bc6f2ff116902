"""What datasets of classes share: whose names and templates are used."""

from __future__ import annotations

from pathlib import Path

from eval.prompts.class_names import Names, classes, of_lines
from eval.prompts.templates import texts_of_set

CLASSES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
"""Files of a dataset's own, one name or template ({c} or {} where the class goes) in each line"""


def own_classes(root: Path, wanted: str) -> Names:
    """The classes of the list `wanted`, else of the dataset's own file; none where there is neither."""
    if wanted:
        return classes(wanted)
    return of_lines(root / CLASSES) if (root / CLASSES).is_file() else ()


def own_templates(root: Path, usual: str) -> tuple[str, ...]:
    """The templates of the dataset's own file, else those of the set `usual`; none where that is empty."""
    if (root / TEMPLATES).is_file():
        lines = (root / TEMPLATES).read_text(encoding="utf-8").splitlines()
        return tuple(line.strip().replace("{c}", "{}") for line in lines if line.strip())
    return texts_of_set(usual) if usual else ()
