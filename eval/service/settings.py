"""What a service allows and where it listens."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

from annotated_types import Ge, Le

from eval.search.predicate import MOST_CHARACTERS
from vlp.config.bounds import AtLeastZero, Count, Positive, Whole


@dataclass(frozen=True)
class Settings:
    """What a service allows and where it listens."""

    host: str = "127.0.0.1"
    """address to listen at; one that other machines reach needs a key, in VLP_API_KEY (environment), or --no-key"""
    port: Annotated[int, Ge(0), Le(65_535)] = 8000
    """port to listen at; 0 takes a free one"""
    no_key: bool = False
    """let other machines ask without a key"""
    most_body: Count = 10_000_000
    """bytes of a request, its pictures included; a longer one is answered 413"""
    most_pixels: Count = 50_000_000
    """pixels of a picture that is asked with; a larger one is answered 422 before it is decoded"""
    most_text: Count = 1_000
    """characters of one text; a longer one is answered 422"""
    most_parts: Count = 16
    """texts and pictures that one question is made of"""
    most_where: Annotated[Count, Le(MOST_CHARACTERS)] = MOST_CHARACTERS
    """characters of a filter; a longer one is answered 422"""
    filter_seconds: Positive = 5.0
    """seconds that a filter may take to be answered"""
    most_k: Count = 1_000
    """matches of one question"""
    most_seen: Count = 10_000
    """matches that are looked at for one question, where near-identical ones are folded"""
    rate: AtLeastZero = 50.0
    """questions a second from one address, twice as many in a burst; more are answered 429. 0: no limit"""
    queue: Count = 256
    """questions that are waited for at a time; more are answered 429"""
    batch: Count = 64
    """questions that are embedded and searched together at most"""
    gather_ms: AtLeastZero = 2.0
    """milliseconds that a question waits for others to be embedded with"""
    decoders: Count = 2
    """pictures that are decoded at a time"""
    patience: Positive = 30.0
    """seconds that a request may take to arrive, and that requests have to end when the service stops"""
    look_every: Positive = 1.0
    """seconds between two looks for a new version of the index"""
    fetch_urls: bool = False
    """fetch pictures from http and https addresses that a question names; never from private ones"""
    threads: Whole = 0
    """threads of the encoder and of the search; 0: as many as torch takes"""

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the service."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
