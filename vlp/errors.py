"""The one exception whose text is meant for the person at the keyboard."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path


class UserError(Exception):
    """Bad input, in one sentence: what was found, where, what was expected and what to do.

    The command line prints the sentence alone and exits with status 2; everything else keeps its traceback.
    """


def tell_launcher(sentence: str) -> None:
    """Have torchrun end its own report with `sentence`, where it started this process; it prints a traceback first.

    Source: the file that torch.distributed.elastic.multiprocessing.errors reads.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path and not Path(path).exists():  # the first to know has said it
        report = {"message": sentence, "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": report}), encoding="utf-8")
