"""What can be set of a stream, in groups: what is said, how pictures are decoded, how bytes are had, who does the work.

The groups `remote` and `workers` change how fast data come, and no batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from vlp.config import COMMON
from vlp.config.bounds import AtLeastZero, Count, Positive, Share, Whole


@dataclass(frozen=True)
class Captions:
    """Which captions are said of a picture."""

    weights: Annotated[Mapping[str, AtLeastZero], COMMON] = field(default_factory=lambda: {"txt": 1.0})
    """path -> how often it is drawn among those a sample has: txt, a language (en, zh), tags.en, any .json path"""
    texts: Annotated[Count, COMMON] = 1
    """captions said of a picture at a time; more than one are drawn without repetition, as far as there are others"""
    swapped: Share = 0.0
    """share of pictures that are given another one's captions ON PURPOSE, by a hash of seed and key, for experiments
    with noisy data; OpenSources.swapped tells which they were"""
    min_chars: Whole = 0
    """captions with fewer characters are filtered out"""


@dataclass(frozen=True)
class Decoding:
    """Which pictures are decoded."""

    min_side: Whole = 0
    """pictures whose shorter side has fewer pixels are filtered out"""
    most_pixels: Count = 64_000_000
    """pictures that claim more pixels are refused before they are decoded"""


@dataclass(frozen=True)
class Remote:
    """How bytes of object stores are had, and where what can be made again is kept."""

    index_cache: str = ""
    """folder of the tars' indexes that cannot lie beside them; empty: $VLP_CACHE/index"""
    read_ahead_bytes: Count = 1 << 30
    """memory for parts of remote shards, bytes in each process; enough for lanes x window samples, twice over"""
    request_seconds: Positive = 60.0
    """deadline of one request to a remote store (up to 4 MiB); one that takes longer is repeated in halves"""
    request_attempts: Count = 8
    """requests in a row that may fail before a sample counts as unreadable"""
    shard_cache: Annotated[str, COMMON] = ""
    """folder to keep remote shards in, whole and checked; empty: they are read in parts and not kept"""
    shard_cache_bytes: Count = 1 << 36
    """most bytes of that folder; shards that were not read for longest go first"""


@dataclass(frozen=True)
class Workers:
    """Who reads and decodes, and how far ahead."""

    count: Annotated[Whole, COMMON] = 0
    """processes that decode; 0: the trainer's own"""
    prefetch: Count = 3
    """batches that workers make ahead"""
    start_method: Literal["forkserver", "spawn", "fork"] = "forkserver"
    """how workers are started; fork is quickest, and unsafe beside threads"""
    pin: bool = False
    """put batches into pinned memory, from which copies to the GPU do not block"""
    cache_bytes: Annotated[Whole, COMMON] = 0
    """memory for decoded pictures, bytes in each process; 0: none are kept"""
