"""The tokenizer of a run: made once, by rank 0, kept in the run's folder, the same on every rank and at each start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from vlp.distributed.background import BackgroundGroup
from vlp.files import write_whole
from vlp.models.tokenizer import Tokenizer, tokenizer_from

KEPT = "tokenizer.json"  # in the run's folder
Use = Literal["kept", "same", "new"]
"""kept: what is kept is used, as by a run that goes on; same: if it was made of the same; new: it is not"""


def shared_tokenizer(
    run: Path, made_of: Mapping[str, Any], make: Callable[[], Tokenizer], group: BackgroundGroup, *, use: Use
) -> Tokenizer:
    """The tokenizer in the folder `run`, if it may be used, else what `make` gives on rank 0, kept there.

    `made_of` is what it depends on, as JSON values; `use`: as in Use. The other ranks wait, however
    long rank 0 reads captions; an error there ends all ranks (all ranks participate).
    """
    made: list[Tokenizer] = []
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()

    def text() -> tuple[str, int]:
        tokenizer = None if use == "new" else kept(run / KEPT, digest if use == "same" else None)
        made.append(tokenizer or make())
        written = saved(made[0])
        if tokenizer is None:
            record = {"made_of": digest, "context": made[0].context, "tokenizer": written}
            write_whole(run / KEPT, json.dumps(record, ensure_ascii=False) + "\n")
        return written, made[0].context

    shared, context = group.from_rank_0(text)
    return made[0] if made else tokenizer_from(shared, context)


def kept(path: Path, digest: str | None) -> Tokenizer | None:
    """The tokenizer that was kept, if it was made of the same (None: of anything); a damaged one is made again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = digest is None or record["made_of"] == digest
        return tokenizer_from(record["tokenizer"], record["context"]) if same else None
    except Exception:  # a damaged file is no tokenizer, whatever its reader says
        return None


def saved(tokenizer: Tokenizer) -> str:
    """What a tokenizer writes into a file."""
    with TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / KEPT)
        return (Path(folder) / KEPT).read_text(encoding="utf-8")
