"""The corpus put together: every drawing rendered once, encoded, and placed in its split."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.emoji import gcompris, rasters, stamps
from data_pipelines.emoji.captions import caption_key, read_emoji
from data_pipelines.emoji.clipart import clipart
from data_pipelines.emoji.drawings import ARTISTS, OPENMOJI, Drawing, emoji_drawings, icon_park
from data_pipelines.emoji.packages import PACKAGES, Package
from data_pipelines.emoji.splits import HELD_OUT_FAMILY, Picture, place
from data_pipelines.picture_hash import Fingerprint, fingerprint
from data_pipelines.sample import Sample

# Flat drawings need few colours: 32 of them as lossless WebP take the bytes of lossy WebP of quality 75 and are far
# truer (46 dB against 32 dB on average: lossy WebP halves the resolution of colour).
COLOURS = (16, 24, 32, 64)
LOOSE = ("openclipart", "tuxpaint", "gcompris")  # whose drawings are smaller than their pages
FIDELITY = 38.0  # dB of peak signal to noise ratio, at least


@dataclass(frozen=True)
class Corpus:
    """Samples by split, and what was left out and why."""

    splits: dict[str, list[Sample]]
    dropped: Counter[str]


def assemble(*, profile: str, side: int, workers: int, cache: Path) -> Corpus:
    """The whole corpus, in an order that depends on the samples' keys alone."""
    dropped: Counter[str] = Counter()
    drawings = _distinct(sorted(_drawings(profile, cache), key=lambda d: d.key), dropped)
    kept: list[tuple[Drawing, bytes, Fingerprint]] = []
    seen: set[tuple[str, str]] = set()
    for drawing, encoded in zip(drawings, _encoded(drawings, side, workers), strict=True):
        if encoded is None:
            dropped["nothing to see"] += 1
            continue
        data, prints, digest = encoded
        same = (digest, caption_key(drawing.captions["en"]))
        if same in seen:
            dropped["same picture, same caption"] += 1
            continue
        seen.add(same)
        kept.append((drawing, data, prints))
    places, left_out = place([Picture(drawing, prints) for drawing, _, prints in kept])
    splits: dict[str, list[Sample]] = {}
    for (drawing, data, _), split in zip(kept, places, strict=True):
        if split:
            splits.setdefault(split, []).append(_sample(drawing, data))
    for samples in splits.values():
        samples.sort(key=lambda sample: hashlib.sha256(sample.key.encode()).digest())
    return Corpus(splits, dropped + left_out)


def packages_of(profile: str) -> list[Package]:
    """The packages that a profile is made of."""
    artists = (*ARTISTS, OPENMOJI) if profile == "full" else ARTISTS
    others = ["emojibase-data", "@iconify-json/icon-park", "@icon-park/svg", "openclipart-svg"]
    others += [stamps.PACKAGE, gcompris.PACKAGE] if profile == "full" else []
    return [PACKAGES[name] for name in (*(artist.package for artist in artists), *others)]


def _drawings(profile: str, cache: Path) -> Iterator[Drawing]:
    emoji = read_emoji(cache)
    for artist in (*ARTISTS, OPENMOJI) if profile == "full" else ARTISTS:
        for drawing in emoji_drawings(artist, emoji, cache):
            # Tones of the held-out artists would ask two questions at once; two tones in one picture are too small.
            if not drawing.tone or (artist.family != HELD_OUT_FAMILY and "," not in drawing.tone):
                yield drawing
    icons = list(icon_park(cache))
    yield from icons
    words = frozenset(word for icon in icons for word in icon.captions["en"].split() if len(word) > 2)
    yield from clipart(cache, emoji, words)
    if profile == "full":
        yield from stamps.stamps(cache)
        yield from gcompris.gcompris(cache, emoji)


def _distinct(drawings: Sequence[Drawing], dropped: Counter[str]) -> list[Drawing]:
    unique = {drawing.key: drawing for drawing in drawings}
    dropped["same key"] += len(drawings) - len(unique)
    return list(unique.values())


def _encoded(drawings: Sequence[Drawing], side: int, workers: int) -> Iterator[tuple[bytes, Fingerprint, str] | None]:
    jobs = [(drawing.picture, side, drawing.artist in LOOSE) for drawing in drawings]
    with multiprocessing.get_context("forkserver").Pool(workers or os.cpu_count()) as pool:
        yield from pool.imap(_encode, jobs, chunksize=32)


def _encode(job: tuple[str | bytes | Path, int, bool]) -> tuple[bytes, Fingerprint, str] | None:
    """The picture's file, and the fingerprint and sha256 of what a reader will decode from it."""
    picture, side, crop = job
    pixels = rasters.render(picture, side, crop)
    if pixels is None:
        return None
    decoded = _reduced(pixels)
    file = io.BytesIO()
    Image.fromarray(decoded).save(file, "WEBP", lossless=True, quality=90, method=5)
    return file.getvalue(), fingerprint(decoded), hashlib.sha256(decoded.tobytes()).hexdigest()


def _reduced(pixels: rasters.Pixels) -> rasters.Pixels:
    """The picture in the fewest of COLOURS that keep FIDELITY (in the most of them if none does)."""
    image = Image.fromarray(pixels)
    reduced = pixels
    for colours in COLOURS:
        reduced = np.asarray(image.quantize(colours, dither=Image.Dither.NONE).convert("RGB"))
        error = np.square(reduced.astype(np.float64) - pixels).mean()
        if error <= 255**2 / 10 ** (FIDELITY / 10):
            break
    return reduced


def _sample(drawing: Drawing, data: bytes) -> Sample:
    metadata = {
        "tags": {language: list(words) for language, words in drawing.tags.items() if words},
        "concept": caption_key(drawing.captions["en"]),
        "group": drawing.group,
        "subgroup": drawing.subgroup,
        "artist": drawing.artist,
        "family": drawing.family,
        "license": drawing.license,
        "hexcode": drawing.hexcode,
        "base": drawing.base,
        "tone": drawing.tone,
    }
    return Sample(drawing.key, data, "webp", drawing.captions, {k: v for k, v in metadata.items() if v})
