"""Class names and templates -> a zero-shot classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlp.errors import UserError

if TYPE_CHECKING:
    from vlp.models.release import Release

TEMPLATES: dict[str, tuple[str, ...]] = {
    "bare": ("{}",),
    "picture": ("{}", "a picture of {}", "a drawing of {}", "an icon of {}", "an emoji of {}"),
}
FROM_OPEN_CLIP = {"imagenet_80": "OPENAI_IMAGENET_TEMPLATES", "imagenet_7": "SIMPLE_IMAGENET_TEMPLATES"}


def prompts(names: Sequence[str], templates: str) -> list[list[str]]:
    """[C][T] every class name in every template of the named set (open_clip's sets for ImageNet included).

    >>> prompts(["animal-cat"], "bare")
    [['animal cat']]

    Raises UserError for an unknown set.
    """
    plain = [name.replace("-", " ").replace("_", " ") for name in names]
    if templates in TEMPLATES:
        return [[template.format(name) for template in TEMPLATES[templates]] for name in plain]
    if templates in FROM_OPEN_CLIP:
        import open_clip

        functions = getattr(open_clip, FROM_OPEN_CLIP[templates])
        return [[function(name) for function in functions] for name in plain]
    known = ", ".join([*TEMPLATES, *FROM_OPEN_CLIP])
    raise UserError(f'no set of templates is called "{templates}"; known: {known}')


def classifier(release: Release, names: Sequence[str], templates: str) -> NDArray[np.float32]:
    """[C, D] unit vectors, one a class: the mean of its templates' vectors, normalised again (CLIP, section 3.1.4)."""
    texts = prompts(names, templates)
    vectors = np.asarray(release.embed_texts([text for row in texts for text in row]), np.float32)
    mean = vectors.reshape(len(names), len(texts[0]), -1).mean(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))
