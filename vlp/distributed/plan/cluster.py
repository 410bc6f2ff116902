"""The machine under a whole run: nodes, links, storage, failures; read from a TOML file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from vlp.config import build
from vlp.config.bounds import AtLeastZero, Count, Positive
from vlp.errors import UserError


@dataclass(frozen=True)
class Links:
    """What one GPU receives, GB/s."""

    inside: Positive
    """from GPUs of its own node (NVLink 4: 300 to 450)"""
    between: Positive
    """from other nodes (one 400 Gb/s link for each GPU: 50)"""


@dataclass(frozen=True)
class Storage:
    """What all nodes together have of the storage."""

    read: Positive
    """GB/s of reading"""
    write: Positive
    """GB/s of writing, for checkpoints"""
    request: Positive = 4.194304
    """MB of a request; vlp reads remote shards in blocks of 4 MiB"""


@dataclass(frozen=True)
class Failures:
    """How often a run is interrupted, and what that takes."""

    node_hours: Positive
    """mean time between failures of one node, hours"""
    restart_minutes: AtLeastZero = 10.0
    """from a failure to the first step after it, minutes: queue, start, reading the checkpoint"""


@dataclass(frozen=True)
class Cluster:
    """A cluster file."""

    nodes: Count
    """nodes of the run"""
    gpus: Count
    """GPUs in a node"""
    tflops: Positive
    """10^12 operations per second that one GPU sustains in this model's matrix products (peak x utilization)"""
    memory: Positive
    """GB of memory of a GPU"""
    cores: Count
    """CPU cores of a node"""
    links: Links
    """what GPUs receive from each other"""
    storage: Storage
    """where shards and checkpoints lie"""
    failures: Failures = field(default_factory=lambda: Failures(node_hours=50_000.0))
    """how often nodes fail; 50,000 hours a node: one failure in 3 hours of 16,384 GPUs, as Llama 3's (2407.21783)"""

    @property
    def ranks(self) -> int:
        """GPUs of the run."""
        return self.nodes * self.gpus


def read_cluster(path: Path) -> Cluster:
    """The cluster in a file. Raises UserError that names the file and the first key that it lacks or has wrong."""
    if not path.is_file():
        raise UserError(f"there is no cluster file {path}; docs/training.md has one to begin with")
    try:
        return build(Cluster, tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    except UserError as error:
        sentence = str(error).replace("; set it in a preset or by a flag", "; a cluster file has to say it")
        raise UserError(f"the cluster file {path}: {sentence}") from None
