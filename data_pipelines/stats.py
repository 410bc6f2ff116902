"""`vlp shards stats`: what a shard set holds, counted in bounded memory; pictures are measured by their headers."""

from __future__ import annotations

import io
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from data_pipelines.captions import found, normalised
from data_pipelines.manifest import write_whole
from data_pipelines.patience import Unreadable
from data_pipelines.shard_set import UNKNOWN, ShardSet
from data_pipelines.shelf import Access, RawSample, Shelf
from data_pipelines.tallies import Distinct, Frequent, Histogram
from vlp.errors import UserError

FORMAT = "vlp-shard-stats-1"
SHOWN_CHARACTERS = 200  # of a caption that is told
# Han, Kana and their extensions: scripts that put no space between words
_ALONE = re.compile("[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class Stats:
    """Count what a shard set holds: samples, picture sizes and formats, captions by language, repetitions."""

    spec: Positional[str]
    """shards: a folder, glob, brace range or URL of tars, or bundled:emoji/train"""
    out: Path | None = None
    """an HTML page to write, such as stats.html: one file with charts, which needs no network"""
    json: Path | None = None
    """a file for the same numbers as JSON"""


@dataclass
class Language:
    """The captions under one language key."""

    samples: int = 0
    characters: Histogram = field(default_factory=Histogram)
    words: Histogram = field(default_factory=Histogram)


@dataclass
class Counted:
    """Everything that is counted; its size does not grow with the shards."""

    shards: int = 0
    tar_bytes: int = 0
    samples: int = 0
    lost: Counter[str] = field(
        default_factory=Counter
    )  # reason -> samples (an unreadable shard whose samples nobody counted: 1)
    shard_samples: Histogram = field(default_factory=Histogram)
    width: Histogram = field(default_factory=Histogram)
    height: Histogram = field(default_factory=Histogram)
    aspect: Histogram = field(default_factory=Histogram)
    picture_bytes: Histogram = field(default_factory=Histogram)
    sizes: Frequent = field(default_factory=Frequent)  # "640 x 480"
    formats: Counter[str] = field(default_factory=Counter)
    unreadable_headers: int = 0
    languages: dict[str, Language] = field(default_factory=dict)
    no_caption: int = 0
    garbled: int = 0  # records or texts that are no JSON object or no UTF-8
    captions: Distinct = field(default_factory=Distinct)
    said_most: Frequent = field(default_factory=Frequent)
    pictures: Distinct = field(default_factory=Distinct)


def words(text: str) -> int:
    """How many words a caption has: what spaces part and has a letter or digit; a Chinese or Japanese character is one.

    >>> words("It's a half-open door."), words("一只 cat")
    (4, 3)
    """
    return sum(any(map(str.isalnum, word)) for word in _ALONE.sub(r" \g<0> ", text).split())


def count(spec: str) -> Counted:
    """What the shards of `spec` hold; what cannot be read is counted in `lost`. Raises UserError if it names none."""
    shards = ShardSet.open(spec)
    shelf = Shelf(shards, Access())
    counted = Counted(shards=len(shards))
    for row, url in enumerate(shards.urls):
        try:
            shard = shelf[row]
            counted.lost.update(shard.index.lost)
            missing = shards.counts[row] - len(shard) - sum(shard.index.lost.values())
            if shards.counts[row] != UNKNOWN and missing > 0:
                counted.lost["truncated tail"] += missing
            counted.shard_samples.add(len(shard))
            counted.tar_bytes += shard.index.tar_bytes
            for position in range(len(shard)):
                _count_sample(shard.sample(position), counted)
        except Unreadable as error:
            counted.lost["unreadable shard"] += max(1, shards.counts[row])
            print(f"{url} cannot be read: {error}", file=sys.stderr)
        if sys.stderr.isatty():
            print(f"\r{row + 1} of {len(shards)} shards", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if not counted.samples:
        raise UserError(f'"{spec}" has no sample that can be read; look at it with `vlp shards verify`')
    return counted


def _count_sample(raw: RawSample, counted: Counted) -> None:
    from PIL import Image

    from data_pipelines.decode import kinds

    counted.samples += 1
    counted.picture_bytes.add(len(raw.image))
    counted.pictures.add(raw.image)
    try:
        with Image.open(io.BytesIO(raw.image), formats=kinds()) as picture:  # reads the header alone
            (width, height), kind = picture.size, str(picture.format).lower()
    except Exception:  # PIL raises nearly anything on broken bytes
        counted.unreadable_headers += 1
    else:
        counted.formats[kind] += 1
        counted.width.add(width)
        counted.height.add(height)
        counted.aspect.add(width / height)
        counted.sizes.add(f"{width} x {height}")
    captions = captions_by_language(raw.record)
    counted.no_caption += not captions
    counted.garbled += raw.garbled
    for code, texts in captions.items():
        name = code if code in counted.languages or len(counted.languages) < 100 else "(other)"
        language = counted.languages.setdefault(name, Language())
        language.samples += 1
        for text in texts:
            language.characters.add(len(text))
            language.words.add(words(text))
            counted.captions.add(normalised(text).encode("utf-8", "surrogatepass"))
            counted.said_most.add(normalised(text)[:SHOWN_CHARACTERS])


def captions_by_language(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every caption of a sample's record by language; "en" where the record does not say which."""
    held = record.get("captions")
    named = {code: texts for code in held if (texts := found(record, code))} if isinstance(held, Mapping) else {}
    text = [] if named else found(record, "txt")
    return named or ({"en": text} if text else {})


def tree(spec: str, counted: Counted) -> dict[str, Any]:
    """The numbers as JSON values."""
    return {
        "format": FORMAT,
        "shards_of": spec,
        "shards": counted.shards,
        "samples": counted.samples,
        "tar_bytes": counted.tar_bytes,
        "not_delivered": dict(sorted(counted.lost.items())),
        "samples_per_shard": counted.shard_samples.summary(),
        "pictures": {
            "formats": dict(counted.formats.most_common()),
            "unreadable_headers": counted.unreadable_headers,
            "width_pixels": counted.width.summary(),
            "height_pixels": counted.height.summary(),
            "aspect_width_over_height": counted.aspect.summary(),
            "bytes": counted.picture_bytes.summary(),
            "sizes": {"most_frequent": dict(counted.sizes.top(20)), "counts_short_by_at_most": counted.sizes.short},
            "same_file_as_another": {"count": counted.pictures.repeated, "exact": counted.pictures.exact},
        },
        "captions": {
            "samples_without": counted.no_caption,
            "undecodable": counted.garbled,
            "languages": {
                code: {
                    "samples": language.samples,
                    "captions": language.characters.count,
                    "characters": language.characters.summary(),
                    "words": language.words.summary(),
                }
                for code, language in counted.languages.items()
            },
            "captions": counted.captions.total,
            "distinct": counted.captions.distinct,
            "repeated": counted.captions.repeated,
            "exact": counted.captions.exact,
            "said_most": {
                "captions": dict(counted.said_most.top(20)),
                "counts_short_by_at_most": counted.said_most.short,
            },
        },
    }


def told(numbers: Mapping[str, Any]) -> str:
    """A few lines for the screen."""
    pictures, captions = numbers["pictures"], numbers["captions"]
    lines = [
        f"{numbers['samples']:,} samples in {numbers['shards']:,} shards, {numbers['tar_bytes'] / 1e6:,.1f} MB",
        f"  samples per shard   {_span(numbers['samples_per_shard'])}",
        f"  formats             {', '.join(f'{name} {n:,}' for name, n in pictures['formats'].items())}",
        f"  width, pixels       {_span(pictures['width_pixels'])}",
        f"  height, pixels      {_span(pictures['height_pixels'])}",
        f"  width / height      {_span(pictures['aspect_width_over_height'])}",
        f"  picture, bytes      {_span(pictures['bytes'])}",
    ]
    for code, language in captions["languages"].items():
        lines.append(f"  {code:<6} {language['samples']:>10,}   words {_span(language['words'])}")
    about = "" if captions["exact"] else "about "
    lines.append(f"  captions            {captions['captions']:,}, {about}{captions['repeated']:,} of them said before")
    same = pictures["same_file_as_another"]
    lines.append(f"  same picture file   {'' if same['exact'] else 'about '}{same['count']:,}")
    lines += [f"  {reason}: {n:,}" for reason, n in trouble(numbers).items()]
    return "\n".join(lines)


def trouble(numbers: Mapping[str, Any]) -> dict[str, int]:
    """What a reader of the shards cannot deliver, or not as it was meant: how many, by reason."""
    pictures, captions = numbers["pictures"], numbers["captions"]
    lost = {**numbers["not_delivered"], "unreadable picture header": pictures["unreadable_headers"]}
    lost["missing caption"] = lost.get("missing caption", 0) + captions["samples_without"]
    lost["undecodable caption"] = captions["undecodable"]
    return {reason: n for reason, n in lost.items() if n}


def _span(numbers: Mapping[str, float]) -> str:
    if not numbers["count"]:
        return "none"
    if numbers["least"] == numbers["greatest"]:
        return (
            f"{numbers['least']:,.3g} everywhere" if numbers["least"] < 1000 else f"{numbers['least']:,.0f} everywhere"
        )
    names = {"least": "least", "p5": "5 %", "p50": "median", "p95": "95 %", "greatest": "greatest"}
    return ", ".join(
        f"{name} {numbers[key]:,.0f}" if numbers[key] >= 100 else f"{name} {numbers[key]:.3g}"
        for key, name in names.items()
    )


def main(argv: list[str]) -> int:
    """`vlp shards stats SPEC [--out stats.html] [--json stats.json]`: 0 when all is counted. Raises UserError."""
    import tyro

    from data_pipelines import stats_page

    stats = tyro.cli(Stats, args=argv, prog="vlp shards stats")
    for path, ending in ((stats.out, (".html", ".htm")), (stats.json, (".json",))):
        if path is not None and path.suffix.lower() not in ending:
            raise UserError(f'"{path}" should end in {ending[0]}; name it {path.with_suffix(ending[0]).name}')
    counted = count(stats.spec)
    numbers = tree(stats.spec, counted)
    print(told(numbers))
    if stats.json is not None:
        stats.json.parent.mkdir(parents=True, exist_ok=True)
        write_whole(stats.json, (json.dumps(numbers, ensure_ascii=False, indent=1) + "\n").encode())
    if stats.out is not None:
        stats.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(stats.out, stats_page.page(numbers, counted, lost=trouble(numbers)).encode())
        print(f"{stats.out} shows it")
    return 0
