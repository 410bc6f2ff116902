"""Filters that look at scripts, and at more than one sample: the first in the order of the source is kept."""

from __future__ import annotations

import dataclasses
import doctest
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.commands.build import Shards, build, main
from data_pipelines.filters import Filters, kinds, scripts
from data_pipelines.picture_hash import ALIKE_BITS, Fingerprint, fingerprint_of
from data_pipelines.sample import Sample
from data_pipelines.shards import manifest
from data_pipelines.shards.read_samples import read_samples
from data_pipelines.shards.shard_set import BUNDLED, ShardSet
from data_pipelines.sources import Source
from data_pipelines.sources.img2dataset import Img2Dataset
from data_pipelines.writing.repeats import BANDS, Repeats, Traits, bands, caption_trait
from data_pipelines.writing.resumable_folder import SCRATCH
from vlp.errors import UserError


def scene(seed: int) -> Image.Image:
    """Something like a photograph: smooth, of many colours, different for each seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return small.resize((450, 350), Image.Resampling.BICUBIC)


def encoded(picture: Image.Image, kind: str = "PNG", **how: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **how)
    return file.getvalue()


@dataclass(frozen=True)
class Given(Source):
    """Samples that a test made; `breaks_after` of them the source fails."""

    given: tuple[Sample, ...] = ()
    breaks_after: int = 1 << 30
    incidental = ("breaks_after",)

    def items(self, part: str) -> Iterator[Sample]:
        for count, item in enumerate(self.given):
            if count == self.breaks_after:
                raise RuntimeError("the source broke")
            yield item


def sample(key: str, picture: bytes, text: str = "", kind: str = "png") -> Sample:
    return Sample(key, picture, kind, {"en": text or f"caption of {key}"})


def kept(folder: Path) -> list[str]:
    return [one.key for one in read_samples(ShardSet.open(str(folder)))]


def test_the_same_picture_in_another_size_or_format_is_found_and_others_are_not(tmp_path: Path) -> None:
    items = []
    for n in range(12):
        one = scene(n)
        items.append(sample(f"a{n}", encoded(one)))
        items.append(sample(f"jpeg{n}", encoded(one, "JPEG", quality=60), kind="jpg"))
        items.append(sample(f"small{n}", encoded(one.resize((180, 140)), "WEBP", quality=80), kind="webp"))
        items.append(sample(f"red{n}", encoded(Image.blend(one, Image.new("RGB", one.size, "red"), 0.3))))
        items.append(sample(f"mirror{n}", encoded(one.transpose(Image.Transpose.FLIP_LEFT_RIGHT))))
    [done] = build(Given(tuple(items)), tmp_path / "out", filters=Filters.of(drop_duplicate_pictures=True))
    names = kept(tmp_path / "out")
    others = [one.key for one in items if one.key.startswith(("a", "red", "mirror"))]
    assert [name for name in names if name in others] == others, "another picture was taken for a repetition"
    assert done.counts["duplicate picture"] == len(items) - len(names) >= 22  # of 24: a few differ in too many bits
    assert done.examples["duplicate picture"][0] == "jpeg0"
    assert not (tmp_path / "out" / SCRATCH).exists()


def test_captions_that_say_the_same_are_found(tmp_path: Path) -> None:
    texts = ["A red ball", "a  RED ball.", "a blue ball", "Ａ red ball!", "红球。", "红球"]
    items = tuple(sample(f"s{n}", encoded(scene(n)), text) for n, text in enumerate(texts))
    [done] = build(Given(items), tmp_path / "out", filters=Filters.of(drop_duplicate_captions=True))
    assert kept(tmp_path / "out") == ["s0", "s2", "s4"]
    assert done.counts == {"duplicate caption": 3}


def test_a_sample_that_was_left_out_makes_no_other_a_duplicate(tmp_path: Path) -> None:
    same = encoded(scene(0))
    items = (sample("a", encoded(scene(1)), "one"), sample("b", same, "one"), sample("c", same, "two"))
    filters = Filters.of(drop_duplicate_captions=True, drop_duplicate_pictures=True)
    [done] = build(Given(items), tmp_path / "out", filters=filters)
    assert kept(tmp_path / "out") == ["a", "c"]
    assert done.counts == {"duplicate caption": 1}


def test_an_interrupted_build_remembers_what_it_wrote_and_forgets_what_it_did_not(tmp_path: Path) -> None:
    rng = random.Random(1)
    items = tuple(
        sample(f"s{n:02d}", encoded(scene(rng.randrange(15))), f"text {rng.randrange(20)}") for n in range(40)
    )
    filters = Filters.of(drop_duplicate_captions=True, drop_duplicate_pictures=True)
    shards = Shards(shard_size=3, threads=1, name="x")
    [whole] = build(Given(items), tmp_path / "whole", filters=filters, shards=shards)
    assert len(whole.shards) > 2
    for stop in (4, 9, 17, 33):
        with pytest.raises(RuntimeError, match="broke"):
            build(Given(items, breaks_after=stop), tmp_path / "cut", filters=filters, shards=shards)
    [done] = build(Given(items), tmp_path / "cut", filters=filters, shards=shards)
    assert done == whole


def test_notes_that_are_gone_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"repeats\.sqlite was removed since this build was interrupted"):
        Repeats(tmp_path, taken=3)


@given(st.integers(0, 2**256 - 1), st.sets(st.integers(0, 255), max_size=ALIKE_BITS))
def test_alike_fingerprints_share_a_band(bits: int, flipped: set[int]) -> None:
    other = bits
    for position in flipped:
        other ^= 1 << position
    assert len(set(bands(bits))) == BANDS
    assert set(bands(bits)) & set(bands(other))
    assert Fingerprint(bits, (1, 2, 3)).alike(Fingerprint(other, (1, 6, 3)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=40))
def test_pictures_are_found_as_by_comparing_all_of_them(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]]
) -> None:
    held = Repeats(tmp_path_factory.mktemp("repeats"), taken=0)
    earlier: list[Fingerprint] = []
    for place, (which, noise) in enumerate(rows):
        bits = random.Random(which).getrandbits(256) ^ ((1 << 2 * noise) - 1)
        one = Fingerprint(bits, (float(which), 0.0, 0.0))
        known = any(one.alike(other) for other in earlier)
        assert (held.reason(Traits(picture=one)) != "") == known
        if not known:
            earlier.append(one)
            held.keep(Traits(picture=one), place)
    held.close()


def test_a_fingerprint_does_not_depend_on_the_size_beyond_what_is_alike() -> None:
    for n in range(10):
        prints = [fingerprint_of(scene(n).resize(size)) for size in ((450, 350), (225, 175), (1800, 1400))]
        assert all(one.alike(other) for one, other in pairwise(prints))


def test_normalised_captions_have_one_number() -> None:
    assert caption_trait("A cat.") == caption_trait(" a  CAT") != caption_trait("a cap")
    assert -(2**63) <= caption_trait("x") < 2**63


@pytest.mark.parametrize(
    ("text", "wanted", "fits"),
    [
        ("a red ball", ("latin",), True),
        ("一只红色的猫", ("latin",), False),
        ("一只红色的猫 cat", ("han",), True),
        ("ＡＢＣ", ("latin",), True),
        ("赤い猫がいる", ("han", "kana"), True),
        ("красный мяч", ("cyrillic",), True),
        ("빨간 공", ("hangul",), True),
        ("लाल गेंद", ("devanagari",), True),
        ("12:30 🙂", ("latin",), False),
        ("éàü ñ", ("latin",), True),
    ],
)
def test_captions_of_other_scripts_are_left_out(text: str, wanted: tuple[str, ...], fits: bool) -> None:
    fate = Filters.of(scripts=wanted).apply(sample("k", encoded(scene(0)), text))
    assert fate == ("other script" if not fits else sample("k", encoded(scene(0)), text))
    assert doctest.testmod(scripts).failed == 0


def test_captions_are_left_out_one_by_one() -> None:
    every = {"en": ["一只猫", "a cat", "the cat"], "zh": ["cat"]}
    one = Sample(
        "k", encoded(scene(0)), "png", {"en": "一只猫", "zh": "cat", "de": "猫"}, {"all_captions": every, "n": 1}
    )
    fate = Filters.of(scripts=("latin",)).apply(one)
    assert isinstance(fate, Sample)
    assert fate.captions == {"en": "a cat", "zh": "cat"}
    assert fate.metadata == {"all_captions": {"en": ["a cat", "the cat"]}, "n": 1}
    fate = Filters.of(languages=("de", "en")).apply(one)
    assert isinstance(fate, Sample)
    assert list(fate.captions.items()) == [("de", "猫"), ("en", "一只猫")]
    assert fate.metadata == {"all_captions": {"en": every["en"]}, "n": 1}


def test_an_unknown_script_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no script is called "cyrilic"; did you mean "cyrillic"'):
        Filters.of(scripts=("cyrilic",))


def test_a_filter_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file in the folder is a flag of the build, counts its reason, and leaves older manifests valid."""
    import data_pipelines.filters as package

    (tmp_path / "quiet.py").write_text(
        "from dataclasses import dataclass\n"
        "from data_pipelines.filters import Filter\n"
        "@dataclass(frozen=True)\n"
        "class Quiet(Filter):\n"
        "    unwanted_word: str = ''\n"
        '    """captions with this word are left out"""\n'
        "    def refuse(self, text):\n"
        "        return 'unwanted word' if self.unwanted_word and self.unwanted_word in text else ''\n"
    )
    before = Filters().recorded
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert set(package.kinds()) == {"captions", "duplicates", "picture", "quiet", "scripts"}
    assert Filters().recorded == before
    out = tmp_path / "out"
    assert main(["img2dataset", str(out), "--path", str(BUNDLED / "emoji/val"), "--unwanted-word", "heart"]) == 0
    done = manifest.read(out)
    assert done.counts["unwanted word"] >= 1
    assert done.about["recipe"]["filters"]["unwanted_word"] == "heart"
    assert not [one for one in read_samples(ShardSet.open(str(out))) if "heart" in one.text]


def test_no_two_filters_have_a_setting_of_the_same_name() -> None:
    names = [one.name for kind in kinds().values() for one in dataclasses.fields(kind)]
    assert len(names) == len(set(names))
    with pytest.raises(UserError, match='no filter has a setting "min_sid"; did you mean "min_side"'):
        Filters.of(min_sid=3)
    with pytest.raises(UserError, match='"script_share" is 2, but it should be from 0 to 1'):
        Filters.of(script_share=2)


def test_a_folder_built_by_an_earlier_version_counts_as_finished(tmp_path: Path) -> None:
    """Its manifest names the settings that there were then; the same command leaves it as it is."""
    source = Given((sample("a", encoded(scene(0))),))
    [done] = build(source, tmp_path / "out")
    old = json.loads((tmp_path / "out/manifest.json").read_text())
    settings = old["about"]["recipe"]["filters"]
    assert settings == {
        **{"languages": [], "min_chars": 1, "max_chars": 0, "min_side": 0, "max_aspect": 0.0},
        **{"most_pixels": 64_000_000, "shrink": 0},
    }
    stamp = (tmp_path / "out/00000.tar").stat().st_mtime_ns
    assert build(source, tmp_path / "out") == [done]
    assert (tmp_path / "out/00000.tar").stat().st_mtime_ns == stamp


def test_filters_that_are_off_leave_older_manifests_valid() -> None:
    told = manifest.read(BUNDLED / "emoji/val").about["recipe"]["filters"]
    assert set(Filters().recorded) == set(told)
    assert Filters.of(scripts=("han",)).recorded["scripts"] == ("han",)


def test_the_flags_work_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--scripts", "latin", "han", "--drop-duplicate-captions", "--drop-duplicate-pictures"]
    assert main(["img2dataset", str(tmp_path / "out"), "--path", str(BUNDLED / "emoji/val"), *flags]) == 0
    told = capsys.readouterr().out
    assert "left out, duplicate caption" in told
    done = manifest.read(tmp_path / "out")
    inputs = sum(1 for _ in Img2Dataset(str(BUNDLED / "emoji/val")).items(""))
    assert done.samples + sum(done.counts.values()) == inputs
    assert done.about["recipe"]["filters"]["scripts"] == ["latin", "han"]
