"""Indexes, embeddings and checkpoints that were made to be opened by others."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import train
from benchmarks.faults import runs, tars
from data_pipelines.remote.fetch import LocalFile
from data_pipelines.shards.tar_index import TarIndex, build
from data_pipelines.stream import Stream
from eval.embeddings.store import EmbeddingStore
from eval.search.query import main as search
from vlp.config import run_main
from vlp.training.checkpoints.manifest import FORMAT, digest

WRITTEN = runs.ROOT / "tests" / "written_before"  # a model with its index and its embeddings, which the tests read too


def inputs(rng: random.Random) -> dict[str, Callable[[Path], None]]:
    """By name: an input, as a function that has it read in a folder."""
    noise = rng.randbytes(5000)
    return {
        "index of a tar: names that leave the folder": partial(
            tar_index, lambda i: saved(replace(i, keys=("../evil", *i.keys[1:])))
        ),
        "index of a tar: a sample of 2^40 bytes": partial(tar_index, beyond),
        "index of a tar: two samples changed places": partial(tar_index, swapped),
        "index of a tar: it unpacks to 1 GB": partial(tar_index, lambda _: unpacks_to(1 << 30)),
        "index of a tar: it holds a program": partial(tar_index, lambda _: program_in_numpy()),
        "index of a tar: noise": partial(tar_index, lambda _: noise),
        "index: noise": partial(faiss_file, noise),
        "index: 2^60 vectors": partial(faiss_file, b"IxFI" + struct.pack("<iqqqBi", 16, 1 << 60, 1, 1, 1, 0) + noise),
        "index: it ends in its middle": partial(faiss_file, (WRITTEN / "index" / "index.faiss").read_bytes()[:300]),
        "index: a list within lists": partial(faiss_file, b"IwFl" + noise),
        "index: rows of noise": partial(faiss_file, noise, file="rows.parquet"),
        "embeddings: a program": partial(embeddings, program_in_numpy()),
        "embeddings: 2^40 rows": partial(embeddings, many_rows()),
        "checkpoint: a program": partial(checkpoint, lambda: pickle.dumps(Program())),
        "checkpoint: a program in torch's file": partial(checkpoint, lambda: torch_file(Program())),
        "checkpoint: it unpacks to 1 GB": partial(checkpoint, lambda: unpacks_to(1 << 30)),
        "checkpoint: numbers of another kind": partial(checkpoint, lambda: torch_file({"format": 3, "model": [1, 2]})),
        "checkpoint: noise": partial(checkpoint, lambda: noise),
        "checkpoint: nothing": partial(checkpoint, lambda: b""),
        "checkpoint: a manifest of noise": partial(manifest, lambda: noise),
        "checkpoint: a manifest of lists in lists": partial(manifest, lambda: b"[" * 100_000),
        "checkpoint: a manifest that lacks all": partial(manifest, lambda: signed({"step": 5})),
        "checkpoint: a manifest of files elsewhere": partial(manifest, lambda: signed(elsewhere())),
    }


class Program:
    """What runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch OWNED",)


def expect_sentence(code: int, folder: Path) -> None:
    """Look that a command ended with an error of one line, and that no program ran."""
    text = (folder / "output").read_text(errors="replace")
    assert code == 2, f"exit code {code}"
    assert "Traceback" not in text
    assert not Path("OWNED").exists(), "a program ran"


def saved(index: TarIndex) -> bytes:
    """The bytes of an index file."""
    path = Path(f"forged-{os.getpid()}.index").absolute()
    index.save(path)
    data = path.read_bytes()
    path.unlink()
    return data


def beyond(index: TarIndex) -> bytes:
    """An index that has a sample after the tar's end."""
    spans = index.spans.copy()
    spans[1, 0] = (index.tar_bytes - 512, 1 << 40)
    return saved(replace(index, spans=spans))


def swapped(index: TarIndex) -> bytes:
    """An index in which two samples have each other's places."""
    spans = index.spans.copy()
    spans[[0, 1]] = spans[[1, 0]]
    return saved(replace(index, spans=spans))


def unpacks_to(size: int) -> bytes:
    """A zip file with one array of so many zeros, packed."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        packed.open("keys.npy", "w", force_zip64=True) as file,
    ):
        for _ in range(size >> 24):
            file.write(bytes(1 << 24))
    return out.getvalue()


def program_in_numpy() -> bytes:
    """A .npy whose one element is a program."""
    out = io.BytesIO()
    np.save(out, np.array([Program()], object), allow_pickle=True)
    return out.getvalue()


def many_rows() -> bytes:
    """A .npy of 2^40 rows, by its header."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 16)})
    return out.getvalue() + bytes(1000)


def torch_file(what: object) -> bytes:
    """What torch.save writes."""
    out = io.BytesIO()
    torch.save(what, out)
    return out.getvalue()


def tar_index(make: Callable[[TarIndex], bytes], folder: Path) -> None:
    """Stream a tar with this beside it: every sample comes, as its headers say."""
    os.chdir(folder)
    where = tars.shards(folder / "set", [20], manifest=False)
    path = folder / "set" / "00000.tar"
    path.with_suffix(".index").write_bytes(make(build(LocalFile(str(path)))))
    keys, ledger = tars.epoch(tars.opened(Stream(shards=str(folder / "set"), drop_budget=1.0), 1))
    assert keys == set(where), ledger.sentence()
    assert not ledger.lost, ledger.sentence()
    assert not Path("OWNED").exists(), "a program ran"


def faiss_file(data: bytes, folder: Path, file: str = "index.faiss") -> None:
    """Search an index with such a file, whose checksum is right: a sentence."""
    os.chdir(folder)
    for part in ("index", "model"):
        shutil.copytree(WRITTEN / part, folder / part)
    path = folder / "index" / file
    about = folder / "index" / "index.toml"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(data)
    about.write_text(about.read_text().replace(before, hashlib.sha256(data).hexdigest()))
    expect_sentence(run_main(search, [str(folder / "index"), "red circle"]), folder)


def embeddings(data: bytes, folder: Path) -> None:
    """Open embeddings with such a part: a sentence."""
    os.chdir(folder)
    shutil.copytree(WRITTEN / "store", folder / "store")
    next((folder / "store" / "img_emb").iterdir()).write_bytes(data)

    def opened(_: list[str]) -> int:
        store = EmbeddingStore.open(folder / "store")
        return sum(len(store.images(part)) for part in store.parts)

    expect_sentence(run_main(opened, []), folder)


def signed(body: dict[str, Any]) -> bytes:
    """A manifest with the right checksum of itself."""
    body = {"format": FORMAT, **body}
    return json.dumps({**body, "sha256": digest(body)}).encode()


def elsewhere() -> dict[str, Any]:
    """A manifest that names a file of the system, and a tensor of 2^60 numbers."""
    file = {"name": "../../../../etc/passwd", "bytes": 1, "sha256": "0"}
    table = {"model.logit_scale": {"dtype": "F32", "shape": [1 << 60], "parts": [[0, [[0, 1 << 60]]]]}}
    return {"step": 5, "identity": {}, "plain": {}, "metrics": {}, "files": [file], "table": table}


def manifest(make: Callable[[], bytes], folder: Path) -> None:
    """Train in a folder whose one checkpoint has this manifest: a sentence."""
    checkpoint(make, folder, name="step-00000005/manifest.json")


def checkpoint(make: Callable[[], bytes], folder: Path, name: str = "step-00000005.pt") -> None:
    """Train in a folder whose one checkpoint is this: a sentence."""
    os.chdir(folder)
    path = folder / "run" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(make())
    arguments = [
        "demo",
        *runs.MODEL,
        "--out",
        str(folder / "run"),
        "--training.samples",
        "64",
        "--training.batch",
        "64",
    ]
    expect_sentence(run_main(train.main, [*arguments, "--training.no-tensorboard"]), folder)
