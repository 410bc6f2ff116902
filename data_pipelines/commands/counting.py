"""What is in a shard set, counted in bounded memory; pictures are measured by their headers."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from dataclasses import dataclass, field

from data_pipelines.captions import by_language, normalised
from data_pipelines.commands.tallies import Distinct, Frequent, Histogram
from data_pipelines.remote.patience import Unreadable
from data_pipelines.shards.losses import estimated
from data_pipelines.shards.open_shards import OpenShards, RawSample
from data_pipelines.shards.shard_set import ShardSet
from vlp.errors import UserError
from vlp.legible import plain

SHOWN_CHARACTERS = 200  # of a caption that is shown
# Han, Kana and their extensions: scripts that put no space between words
_ALONE = re.compile("[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


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
    """What the shards of `spec` have; what cannot be read is counted in `lost`. Raises UserError if it names none."""
    shards = ShardSet.open(spec)
    opened = OpenShards(shards)
    counted, facts = Counted(shards=len(shards)), []
    for row, url in enumerate(shards.urls):
        try:
            shard = opened[row]
            facts.append(opened.facts(row))
            counted.shard_samples.add(len(shard))
            counted.tar_bytes += shard.index.tar_bytes
            for position in range(len(shard)):
                _count_sample(shard.sample(position), counted)
        except Unreadable as error:
            counted.lost["unreadable shard"] += max(1, shards.counts[row])
            print(plain(f"{url} cannot be read: {error}", 1000), file=sys.stderr)
        if sys.stderr.isatty():
            print(f"\r{row + 1} of {len(shards)} shards", end="", file=sys.stderr, flush=True)
    for lost in estimated(facts):
        counted.lost.update(lost)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if not counted.samples:
        raise UserError(f'"{spec}" has no sample that can be read; look at it with `vlp shards verify`')
    return counted


def _count_sample(raw: RawSample, counted: Counted) -> None:
    from PIL import Image

    from vlp.pictures import kinds

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
    captions = by_language(raw.record)
    counted.no_caption += not captions
    counted.garbled += raw.garbled
    for code, texts in captions.items():
        name = plain(code, 20)
        name = name if name in counted.languages or len(counted.languages) < 100 else "(other)"
        language = counted.languages.setdefault(name, Language())
        language.samples += 1
        for text in texts:
            language.characters.add(len(text))
            language.words.add(words(text))
            counted.captions.add(normalised(text).encode("utf-8", "surrogatepass"))
            counted.said_most.add(normalised(text)[:SHOWN_CHARACTERS])
