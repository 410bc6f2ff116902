"""The hub that open_clip, transformers and timm fetch from: what is said where it cannot be reached, and how soon.

Left to themselves they try again for most of a minute, several times over.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from vlp.errors import UserError

REACH_S = 2.5
"""How long the hub may take to answer at all, seconds"""
MEMORY_S = 60.0
"""How long an answer, or none, is good for, seconds: a model has several parts"""
FAILURES = (RuntimeError, OSError, ValueError, KeyError)
"""What the three raise where they cannot load something"""


@contextmanager
def fetching(what: str, repository: str) -> Iterator[None]:
    """A context in which `what`, of OWNER/NAME on the hub, is fetched, or found in the hub's cache.

    The hub is asked once whether it is there; where it is not, only its cache is looked into. `repository` is empty for
    what is on this machine. Raises UserError for any failure; without the hub it says what to download and where to put
    it.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    away = bool(repository) and (before or not _reached(constants.ENDPOINT, int(time.monotonic() // MEMORY_S)))
    constants.HF_HUB_OFFLINE = before or away
    try:
        yield
    except FAILURES as error:
        if away:
            why = "HF_HUB_OFFLINE is set" if before else f"{constants.ENDPOINT} cannot be reached"
            kept = f"{constants.HF_HUB_CACHE}/models--{repository.replace('/', '--')}"
            raise UserError(
                f"{what} cannot be loaded: {why}, and {kept} does not hold it; where there is a network run "
                f"`hf download {repository}`, and copy that folder of its cache to this place"
            ) from error
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{what} cannot be loaded: {lines[0]}") from error
    finally:
        constants.HF_HUB_OFFLINE = before


@cache
def _reached(url: str, _: int) -> bool:
    return reached(url)


def reached(url: str, seconds: float = REACH_S) -> bool:
    """Whether anything answers at `url`, by way of the proxies that are set. Looking up its name counts as waiting."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # it said no, so it is there
        except (OSError, ValueError):
            finished.set()
            return
        answered.set()
        finished.set()

    finished = threading.Event()
    threading.Thread(target=ask, daemon=True).start()
    finished.wait(seconds)
    return answered.is_set()
