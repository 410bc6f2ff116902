"""Small shards, and embeddings of them whose vectors a test chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from numpy.typing import NDArray

from data_pipelines.sample import Sample
from data_pipelines.shards.shard_set import ShardSet
from eval.embeddings import store
from eval.embeddings.encode import data_sha256

Floats = NDArray[np.float32]


def write_embeddings(
    folder: Path,
    samples: Sequence[Sample],
    image: Floats,
    text: Floats | None = None,
    *,
    of: Path | None = None,
    model: str = "m" * 64,
    per_part: int = 9,
) -> Path:
    """A folder of embeddings: as `vlp embed` writes it of the shards `of`, else in clip-retrieval's layout."""
    count = -(-len(samples) // per_part)
    for part in range(count):
        rows = slice(part * per_part, (part + 1) * per_part)
        some, name = samples[rows], f"{part:0{len(str(count - 1))}d}"
        for kind, vectors in (("img_emb", image), ("text_emb", text)):
            if vectors is not None:
                path = store.file_of(folder, kind, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, vectors[rows])
        table = {"image_path": [s.key for s in some], "caption": [s.text for s in some]}
        if of is not None:
            table["key"] = table["image_path"]
            table["shard"] = [str(of / f"{part:05d}.tar")] * len(some)
            table["captions"] = [json.dumps(s.captions) for s in some]
            table["metadata"] = [json.dumps(s.metadata) for s in some]
        path = store.file_of(folder, "metadata", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
        if of is not None and text is not None:
            store.finish_part(folder, name)
    if of is not None:
        data = {"spec": str(of), "sha256": data_sha256(ShardSet.open(str(of)))}
        about = {"format": store.FORMAT if text is not None else store.WITHOUT_SUMS, "parts": count}
        (folder / "store.toml").write_text(tomli_w.dumps({**about, "model": {"id": model}, "data": data}))
    return folder


@pytest.fixture(scope="session")
def embeddings() -> Callable[..., Path]:
    return write_embeddings
