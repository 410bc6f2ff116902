"""Class names and templates -> a zero-shot classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from eval.prompts.templates import templates

if TYPE_CHECKING:
    from vlp.models.release import Release


def prompts(names: Sequence[str], template_set: str) -> list[list[str]]:
    """[C][T] every class name in every template of the set (see `templates`).

    >>> prompts(["animal-cat"], "bare")
    [['animal cat']]

    Raises UserError for an unknown set.
    """
    chosen = templates(template_set)
    plain = [name.replace("-", " ").replace("_", " ") for name in names]
    return [[template(name) for template in chosen] for name in plain]


def classifier(release: Release, names: Sequence[str], template_set: str) -> NDArray[np.float32]:
    """[C, D] unit vectors, one a class: the mean of its templates' vectors, normalised again (CLIP, section 3.1.4)."""
    texts = prompts(names, template_set)
    vectors = np.asarray(release.embed_texts([text for row in texts for text in row]), np.float32)
    mean = vectors.reshape(len(names), len(texts[0]), -1).mean(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))
