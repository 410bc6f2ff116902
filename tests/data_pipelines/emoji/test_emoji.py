"""The emoji corpus: names, captions, fingerprints and splits, on small made-up cases; packages are not needed."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.emoji import packages
from data_pipelines.emoji.captions import caption_key, plain_hexcode, slug
from data_pipelines.emoji.clipart import _caption, _Clip, _without_author
from data_pipelines.emoji.corpus import COLOURS, _encode, _reduced
from data_pipelines.emoji.drawings import Drawing
from data_pipelines.emoji.rasters import render
from data_pipelines.emoji.splits import Picture, alike_pairs, place
from data_pipelines.emoji.stamps import sentences
from data_pipelines.picture_hash import ALIKE_BITS, Fingerprint, fingerprint
from vlp.errors import UserError

CIRCLE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100"><circle cx="30" cy="40" r="20" fill="{}"/></svg>'
)
WORDS = frozenset(["red", "apple", "milk", "carton", "dog", "bored"])


def drawing(name: str, **more: object) -> Drawing:
    plain = Drawing(name, "", {"en": name}, {}, "g", "s", "noto", "noto", "Apache-2.0")
    return replace(plain, **more)  # type: ignore[arg-type]


def far_apart(drawings: list[Drawing]) -> list[Picture]:
    """The drawings as pictures none of which is like another."""
    prints = [int.from_bytes(hashlib.sha256(str(i).encode()).digest(), "big") for i in range(len(drawings))]
    return [Picture(d, Fingerprint(bits, (1.0, 2.0, 3.0))) for d, bits in zip(drawings, prints, strict=True)]


def test_names_meet_whatever_their_spelling() -> None:
    assert plain_hexcode("0023-FE0F-20E3") == "0023-20e3"
    assert slug("piñata") == "pinata"
    assert slug("man’s shoe & “sock”") == "mans-shoe-and-sock"
    assert caption_key("The Cat") == caption_key("cat!") == caption_key("ＣＡＴ") == "cat"
    assert caption_key("an") == "an"
    assert caption_key("flag: Chad") == caption_key("Flag – Chad")


@pytest.mark.parametrize(
    ("stem", "author", "title"),
    [("milk_carton_jarno_vasama_", "Jarno Vasamaa", "milk carton"), ("bored_dog_01", "Gerald G.", "bored dog")],
)
def test_authors_are_cut_from_file_names(stem: str, author: str, title: str) -> None:
    assert _without_author(stem, author) == title


def test_clip_art_takes_its_own_title_else_its_file_name_and_only_english() -> None:
    clip = _Clip(Path("red_apple_01.svg"), "food", "Flat Icon Collection", "x", ())
    assert _caption(clip, Counter(), WORDS) == "red apple"
    assert _caption(replace(clip, title="bored dog"), Counter(), WORDS) == "bored dog"
    assert _caption(replace(clip, title="cavallo", path=Path("cavallo_01.svg")), Counter(), WORDS) is None
    assert (
        _caption(replace(clip, path=Path("milk.svg"), title="milk", folder="x/flags"), Counter(), WORDS) == "flag: milk"
    )


def test_stamps_say_their_sentence_in_both_languages() -> None:
    text = "A paw print.\nde.utf8=Ein Pfotenabdruck.\nzh_CN.utf8=爪印。\nzh_TW.utf8=腳印\n"
    assert sentences(text) == {"en": "a paw print", "zh": "爪印"}
    assert sentences("Brown hair.") == {"en": "brown hair"}
    assert sentences("") == {}


def test_rendering_is_square_on_white_and_cropped_when_asked() -> None:
    pytest.importorskip("resvg_py")
    plain, cropped = render(CIRCLE.format("red"), 64, False), render(CIRCLE.format("red"), 64, True)
    assert plain is not None
    assert cropped is not None
    assert plain.shape == cropped.shape == (64, 64, 3)
    assert plain[0, 0].tolist() == [255, 255, 255]
    assert np.mean(cropped[..., 1] < 128) > 3 * np.mean(plain[..., 1] < 128)
    assert render(CIRCLE.format("white"), 64, False) is None
    assert render("<svg", 64, False) is None


def test_an_encoded_picture_is_the_reduced_one_without_loss() -> None:
    pytest.importorskip("resvg_py")
    job = (CIRCLE.format("#38a"), 64, False)
    first, again = _encode(job), _encode(job)
    assert first is not None
    assert first == again
    pixels = render(*job)
    assert pixels is not None
    reduced = _reduced(pixels)
    assert first[2] == hashlib.sha256(reduced.tobytes()).hexdigest()
    assert len(np.unique(reduced.reshape(-1, 3), axis=0)) <= max(COLOURS)
    assert first[1] == fingerprint(reduced)


def test_alike_pairs_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    base = [int.from_bytes(rng.bytes(32), "big") for _ in range(20)]
    prints = [Fingerprint(b, (10.0, 10.0, 10.0)) for b in base]
    prints += [Fingerprint(b ^ (2**flips - 1), (10.0 + shift,) * 3) for b, flips, shift in
               zip(base, range(20), (0.0, 4.0, 6.0) * 7, strict=False)]  # fmt: skip
    slow = [
        (i, j)
        for i in range(40)
        for j in range(i + 1, 40)
        if (prints[i].bits ^ prints[j].bits).bit_count() <= ALIKE_BITS
        and abs(prints[i].mean[0] - prints[j].mean[0]) <= 5
    ]
    assert sorted(alike_pairs(prints)) == slow
    assert slow
    assert alike_pairs([]) == []


def test_groups_stay_together_and_never_move() -> None:
    drawings = [drawing(f"thing {i}", captions={"en": f"thing {i}", "zh": f"东西{i // 2}"}) for i in range(400)]
    places, drops = place(far_apart(drawings))
    assert not drops
    assert all(places[i] == places[i + 1] for i in range(0, 400, 2)), "same zh caption, other split"
    more, _ = place(far_apart([*drawings, *(drawing(f"new {i}") for i in range(50))]))
    assert more[:400] == places, "the split moved when others came"
    turned, _ = place(far_apart(drawings[::-1]))
    assert turned[::-1] == places, "the split depends on the order"
    shares = Counter(places)
    assert 0.7 < shares["train"] / 400 < 0.9
    assert set(shares) == {"train", "val", "test_concept"}


def test_held_out_artists_and_tones_go_to_their_tests() -> None:
    fluent = [drawing(f"f {i}", captions={"en": f"thing {i}"}, family="fluent") for i in range(300)]
    plain = [drawing(f"thing {i}") for i in range(300)]
    tones = [
        drawing(f"t {i}", captions={"en": f"thing {i}: dark"}, base=f"b{i}", tone="dark skin tone") for i in range(300)
    ]
    bodies = [drawing(f"thing {i}", base=f"b{i}") for i in range(300)]
    places, drops = place(far_apart([*fluent, *plain, *tones, *bodies]))
    for i in range(300):
        where = {"train": "test_style", "test_concept": "test_style_concept", "val": ""}[places[300 + i]]
        assert places[i] == where
        if places[300 + i] != "train":
            assert places[600 + i] == ""
    assert 20 < places[600:900].count("test_attr") < 60
    assert set(drops) == {"held-out artist, validation concept", "skin tone of an unseen person"}


def test_a_test_picture_like_a_training_picture_is_left_out() -> None:
    trained = next(i for i in range(99) if place(far_apart([drawing(f"thing {i}")]))[0] == ["train"])
    print_ = Fingerprint(5, (9.0, 9.0, 9.0))
    twins = [drawing(f"thing {trained}"), drawing("x", captions={"en": f"thing {trained}"}, family="fluent")]
    places, drops = place([Picture(d, print_) for d in twins])
    assert places == ["train", ""]
    assert drops == {"near-identical to a training picture": 1}


def test_a_package_with_other_bytes_is_refused(tmp_path: Path) -> None:
    package = packages.PACKAGES["emojibase-data"]
    (tmp_path / package.archive).write_bytes(b"something else")
    with pytest.raises(UserError, match=r"has sha256 .* should have d01d0e2c"):
        packages.folder("emojibase-data", tmp_path)
    assert not (tmp_path / f"{package.archive}.d").exists()


def test_a_package_that_cannot_be_fetched_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"npm is not installed.*put emojibase-data-17.0.0.tgz into"):
        packages.folder("emojibase-data", tmp_path)
