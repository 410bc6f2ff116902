"""`vlp shards stats`: what is in a shard set, counted in bounded memory; pictures are measured by their headers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from data_pipelines.commands import stats_page
from data_pipelines.commands.counting import Counted, count
from vlp.errors import UserError
from vlp.files import write_whole

FORMAT = "vlp-shard-stats-1"


@dataclass(frozen=True)
class Stats:
    """Count what is in a shard set: samples, picture sizes and formats, captions by language, repetitions."""

    spec: Positional[str]
    """shards: a folder, glob, brace range or URL of tars, or bundled:emoji/train"""
    out: Path | None = None
    """an HTML page to write, such as stats.html: one file with charts, which needs no network"""
    json: Path | None = None
    """a file for the same numbers as JSON"""


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


def summary(numbers: Mapping[str, Any]) -> str:
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

    stats = tyro.cli(Stats, args=argv, prog="vlp shards stats")
    for path, ending in ((stats.out, (".html", ".htm")), (stats.json, (".json",))):
        if path is not None and path.suffix.lower() not in ending:
            raise UserError(f'"{path}" should end in {ending[0]}; name it {path.with_suffix(ending[0]).name}')
    counted = count(stats.spec)
    numbers = tree(stats.spec, counted)
    print(summary(numbers))
    if stats.json is not None:
        stats.json.parent.mkdir(parents=True, exist_ok=True)
        write_whole(stats.json, json.dumps(numbers, ensure_ascii=False, indent=1) + "\n")
    if stats.out is not None:
        stats.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(stats.out, stats_page.page(numbers, counted, lost=trouble(numbers)))
        print(f"{stats.out} shows it")
    return 0
