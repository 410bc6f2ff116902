"""Which captions and pictures a folder of shards has already, on disk, so that memory does not grow with them."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.captions import normalised
from data_pipelines.picture_hash import ALIKE_BITS, Fingerprint
from vlp.errors import UserError

FILE = "repeats.sqlite"
BANDS, BAND_BITS = 8, 32
MOST_CANDIDATES = 64  # earlier pictures that a picture is compared with, for each of its bands
assert BANDS > ALIKE_BITS  # so that of alike pictures at least one band is equal
_STRIDE = 37  # odd: spreads the bits of each row of the hash over all bands, for margins are white


@dataclass(frozen=True)
class Traits:
    """By what a sample is recognised; None where that is not asked for."""

    caption: int | None = None
    picture: Fingerprint | None = None


def caption_trait(text: str) -> int:
    """A 64-bit number of the normalised caption.

    That two of 100 million different captions share one has a probability of 1 in 3,700.
    """
    digest = hashlib.blake2b(normalised(text).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


class Repeats:
    """The samples that were kept, by their place among the inputs; `commit` before the place is journalled."""

    def __init__(self, folder: Path, *, taken: int) -> None:
        """Open what is in `folder`, without what was noted at the place `taken` and after it.

        Raises UserError if `taken` inputs were dealt with, but their notes are gone.
        """
        path = folder / FILE
        if taken and not path.is_file():
            raise UserError(f"{path} was removed since this build was interrupted; remove its folder and start anew")
        folder.mkdir(parents=True, exist_ok=True)
        self._table = sqlite3.connect(path)
        for line in (
            "CREATE TABLE IF NOT EXISTS captions (caption INTEGER PRIMARY KEY, place INTEGER)",
            "CREATE TABLE IF NOT EXISTS pictures "
            "(place INTEGER PRIMARY KEY, bits BLOB, red REAL, green REAL, blue REAL)",
            "CREATE TABLE IF NOT EXISTS bands (band INTEGER, place INTEGER, PRIMARY KEY (band, place)) WITHOUT ROWID",
        ):
            self._table.execute(line)
        for name in ("captions", "pictures", "bands"):
            self._table.execute(f"DELETE FROM {name} WHERE place >= ?", (taken,))
        self._table.commit()

    def reason(self, traits: Traits) -> str:
        """Why a sample is a repetition of one that was kept; "" if it is none."""
        if traits.caption is not None:
            known = self._table.execute("SELECT 1 FROM captions WHERE caption = ?", (traits.caption,)).fetchone()
            if known is not None:
                return "duplicate caption"
        if traits.picture is not None and any(map(traits.picture.alike, self._candidates(traits.picture))):
            return "duplicate picture"
        return ""

    def keep(self, traits: Traits, place: int) -> None:
        """Note a sample that is kept."""
        if traits.caption is not None:
            self._table.execute("INSERT INTO captions VALUES (?, ?)", (traits.caption, place))
        if traits.picture is not None:
            bits = traits.picture.bits.to_bytes(32, "big")
            self._table.execute("INSERT INTO pictures VALUES (?, ?, ?, ?, ?)", (place, bits, *traits.picture.mean))
            rows = ((band, place) for band in bands(traits.picture.bits))
            self._table.executemany("INSERT INTO bands VALUES (?, ?)", rows)

    def commit(self) -> None:
        """Make sure that everything noted is on disk."""
        self._table.commit()

    def close(self) -> None:
        """Close the file; what was not committed is forgotten."""
        self._table.close()

    def _candidates(self, picture: Fingerprint) -> Iterator[Fingerprint]:
        """Earlier pictures that have a band in common, the first MOST_CANDIDATES of each band."""
        seen: set[int] = set()
        for band in bands(picture.bits):
            earlier = self._table.execute(
                "SELECT place, bits, red, green, blue FROM bands JOIN pictures USING (place) "
                "WHERE band = ? ORDER BY place LIMIT ?",
                (band, MOST_CANDIDATES),
            )
            for place, bits, red, green, blue in earlier.fetchall():
                if place not in seen:
                    seen.add(place)
                    yield Fingerprint(int.from_bytes(bits, "big"), (red, green, blue))


def bands(bits: int) -> list[int]:
    """The bits of a hash in BANDS parts, each with its number in front; alike fingerprints share one of them."""
    total = BANDS * BAND_BITS
    spread = [bits >> (position * _STRIDE % total) & 1 for position in range(total)]
    parts = []
    for number in range(BANDS):
        value = int("".join(map(str, spread[number * BAND_BITS : (number + 1) * BAND_BITS])), 2)
        parts.append(number << BAND_BITS | value)
    return parts
