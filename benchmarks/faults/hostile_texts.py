"""Captions and presets that crash terminals, parsers and trainings."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import train
from benchmarks.faults import tars
from data_pipelines.commands.show import main as show
from data_pipelines.commands.stats import main as stats
from data_pipelines.stream import Stream
from vlp.config import run_main

GOOD = 3
DEEP = 100_000


def inputs(rng: random.Random) -> dict[str, Callable[[Path], None]]:
    """By name: an input, as a function that has it read in a folder."""
    captions: dict[str, tuple[str, bytes]] = {
        "markup": ("txt", b"[/red] [link=file:///etc/passwd]x[/link]"),
        "a megabyte in one word": ("txt", b"x" * 1_000_000),
        "100 kB of words": ("txt", b"a red star " * 10_000),
        "what clears a terminal": ("txt", b"\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\x00"),
        "text from right to left, and other directions": ("txt", "\u202eevil\u2066 \u200b\ufeff".encode()),
        "no UTF-8": ("txt", rng.randbytes(300) + b"\xff\xfe"),
        "brackets within brackets": ("json", b'{"captions":' * DEEP + b"1" + b"}" * DEEP),
        "a number of 100,000 digits": ("json", b'{"captions": {"en": "a"}, "n": ' + b"9" * 100_000 + b"}"),
        "numbers that are none": ("json", b'{"captions": {"en": NaN}, "tags": Infinity}'),
        "half of a character": ("json", b'{"captions": {"en": "a \\ud800 star"}}'),
        "lists where texts are": ("json", b'{"captions": [["en"]], "tags": {"en": {"a": []}}}'),
        "a page": ("json", b'{"captions": {"en": "<script>alert(1)</script>", "<b>": "x"}}'),
    }
    presets: dict[str, bytes] = {
        "a window of 0": b"[data]\nwindow = 0",
        "-1 workers": b"[data.workers]\ncount = -1",
        "a rate of infinity": b"[training.optimizer]\nlr = inf",
        "a rate below 0": b"[training.optimizer]\nlr = -1.0",
        "no UTF-8": b"\xff\xfe[training]\nbatch = 8",
        "no TOML": b"[training\nbatch == 8",
        "a module of somebody's": b'[model]\nname = "os.system"',
        "a text for a number": b'[training]\nbatch = "rm -rf"',
        "a list for a table": b"training = [1, 2]",
        "tables within tables": b"[" + b"a." * 5_000 + b"a]\nx = 1",
    }
    return {
        **{f"caption: {name}": partial(read_caption, *made) for name, made in captions.items()},
        **{f"preset: {name}": partial(read_preset, made) for name, made in presets.items()},
    }


def read_caption(end: str, data: bytes, folder: Path) -> None:
    """Stream, show and count three good samples and one with this caption: it comes or is counted."""
    record = json.dumps({"captions": {"en": "a red star"}}).encode()
    members = {"txt": b"a red star", "json": record}
    files = [(f"{n}.{e}", members.get(e, tars.picture(n))) for n in range(GOOD) for e in ("png", *members)]
    spec = str(
        tars.write(folder / "set" / "0.tar", [*files, ("bomb.png", tars.picture(9)), (f"bomb.{end}", data)]).parent
    )
    keys, ledger = tars.epoch(tars.opened(Stream(shards=spec, drop_budget=1.0), 1))
    assert len(keys - {"bomb"}) == GOOD, f"only {keys} came"
    assert "bomb" in keys or ledger.dropped, f"{keys} came, {ledger.sentence()}"
    expect_sentence(lambda: run_main(show, [spec, str(folder / "sheet.png")]), folder)
    expect_sentence(lambda: run_main(stats, [spec, "--out", str(folder / "stats.html")]), folder)
    page = folder / "stats.html"
    assert not page.exists() or "<script>alert(1)" not in page.read_text(), "the page has the caption's script"


def read_preset(data: bytes, folder: Path) -> None:
    """Train with the preset: it is refused in a sentence, before anything is written."""
    (folder / "bad.toml").write_bytes(data)
    arguments = ["demo", str(folder / "bad.toml"), "--out", str(folder / "run"), "--training.samples", "64"]
    assert run_main(train.main, arguments) == 2, "it was not refused"
    assert not (folder / "run" / "model").exists()
    expect_one_line(folder)


def expect_sentence(command: Callable[[], int], folder: Path) -> None:
    """Run a command, which must end by itself, well or with an error of one line."""
    with contextlib.suppress(SystemExit):
        assert command() in (0, 1, 2)
    assert "Traceback" not in (folder / "output").read_text(errors="replace")


def expect_one_line(folder: Path) -> None:
    """Look that what was said is one line that begins with `error:`."""
    lines = [x for x in (folder / "output").read_text(errors="replace").splitlines() if x.startswith("error:")]
    assert len(lines) == 1, lines
