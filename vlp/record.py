"""Versions of the software, for the record of a run or of a measurement."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata

from vlp import __version__

LIBRARIES = (
    *("torch", "torchvision", "open_clip_torch", "timm", "transformers", "tokenizers", "webdataset", "accelerate"),
    *("numpy", "pillow", "faiss-cpu", "faiss-gpu"),
)
"""Distributions that a number may depend on."""


def versions(others: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python, of vlp, of LIBRARIES and of `others`, by name of the distribution.

    One that is not installed is left out: a record never fails a run that is done.
    """
    known = {"python": platform.python_version(), "vlp": __version__}
    for name in dict.fromkeys((*LIBRARIES, *others)):
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return known
