"""report.html: one file, no network, for light and dark screens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.report.seen import sentences
from eval.report.units import UNITS, in_a_sentence
from eval.search.answer import Answer
from eval.search.page import ANSWERS, shown
from eval.while_training import RECORD, read_words
from vlp.page import render
from vlp.page.chart import Series, line_chart

HERE = Path(__file__).parent
Tree = dict[str, Any]


def report_page(tree: Tree, *, run: Path, answers: Sequence[Answer] = (), about_answers: str = "") -> str:
    """The page of a report: questions with hits, tables, the curves of the run in folder `run`, the conditions.

    about_answers: a sentence on the pictures that the answers are chosen from.
    """
    rows = _rows(run / "metrics.jsonl") if tree["train"] else []
    words = read_words(run / RECORD) if tree["train"] else {}
    config = run / "config.toml"
    return render(
        HERE / "report_page.html",
        ANSWERS,
        title=Path(tree["model"]["name"]).parent.name or tree["model"]["name"],
        tree=tree,
        headline=_headline(tree),
        tiles=_tiles(tree),
        splits=[_split(tree, name) for name in tree["data"]],
        explanations=list(dict.fromkeys(filter(None, tree["explanations"].values()))),
        answers=[shown(answer) for answer in answers],
        about_answers=about_answers,
        loss=line_chart([Series("loss", _points(rows, "loss"))], x_label="pairs seen", y_label="training loss"),
        validation=_validation(rows, words),
        seen=_seen(tree),
        conditions=_conditions(tree),
        config=config.read_text(encoding="utf-8") if tree["train"] and config.is_file() else "",
    )


def _rows(path: Path) -> list[Mapping[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.strip()]


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(row["samples"]), float(row[key])) for row in rows if row.get(key) is not None]


def _validation(rows: Sequence[Mapping[str, Any]], words: Mapping[str, Tree]) -> list[tuple[str, str]]:
    """(what it shows, SVG) of a chart for each measure that stands for its row, over the course of training."""
    lines: dict[str, list[Series]] = {}
    for name in dict.fromkeys(key for row in rows for key in row if words.get(key, {}).get("primary")):
        word, unit = words[name], UNITS[words[name]["unit"]]
        split, scale = name.split("/")[0], 100 if unit.bounded else 1
        title = f"{word['measure']} on {split}" + (f" in {unit.name}" if unit.name else "")
        points = [(x, scale * y) for x, y in _points(rows, name)]
        lines.setdefault(title, []).append(Series(", ".join(word["label"]), points))
    charts = [(title, line_chart(some, x_label="pairs seen", y_label=title)) for title, some in lines.items()]
    return [(title, chart) for title, chart in charts if chart]


def _headline(tree: Tree) -> Tree:
    """The first metric that has a sentence for newcomers, with its value set apart; nothing if none has."""
    name = next((name for name, sentence in tree["headlines"].items() if sentence), "")
    if not name:
        return {}
    value, chance, unit = tree["metrics"][name], tree["chance"][name], tree["units"][name]
    before, _, after = tree["headlines"][name].partition("{value}")
    candidates = f"{tree['candidates'][name]:,}"
    split = name.split("/")[0]
    return {
        "before": before.replace("{candidates}", candidates),
        "value": in_a_sentence(value, unit),
        "after": after.replace("{candidates}", candidates),
        "against": _against(value, chance, unit),
        "of": ", ".join((*tree["labels"][name], split)),
        "asks": tree["data"][split]["asks"],
    }


def _against(value: float, chance: float | None, unit: str) -> str:
    """A value beside what guessing would score, in words."""
    if not chance:
        return ""
    if value >= 2 * chance:
        times = value / chance
        return f"That is {times:,.{0 if times >= 10 else 1}f} times better than guessing"
    return f"Guessing would score {in_a_sentence(chance, unit)}"


def _tiles(tree: Tree) -> list[tuple[str, str]]:
    """(value, what it is) of the few numbers that come first."""
    train, model = tree["train"], tree["model"]
    tiles = [(f"{model['parameters'] / 1e6:.1f} M", "parameters")]
    if "seconds" in train:
        tiles.append((f"{int(train['seconds']) // 60}:{int(train['seconds']) % 60:02d}", "minutes of training"))
    if "samples" in train:
        tiles.append((f"{train['samples']:,}", "pairs seen"))
    if "samples_per_second" in train:
        tiles.append((f"{train['samples_per_second']:,.0f}", "pairs per second"))
    tiles.append((f"{sum(about['samples'] for about in tree['data'].values()):,}", "pictures evaluated"))
    return tiles


def _split(tree: Tree, split: str) -> Tree:
    """One shard set: rows of a table, one a label, one cell a measure."""
    rows: dict[str, list[Tree]] = {}
    for name in tree["metrics"]:
        if name.startswith(f"{split}/"):
            rows.setdefault(", ".join(tree["labels"][name]), []).append(_cell(tree, name))
    about = tree["data"][split]
    left_out = [f"{task['name']}: {task['left_out']}" for task in tree["tasks"][split] if task["left_out"]]
    return {"name": split, "asks": about["asks"], "samples": about["samples"], "rows": rows, "left_out": left_out}


def _cell(tree: Tree, name: str) -> Tree:
    """One metric: its numbers in words, and as percents of a bar where its unit has ends."""
    unit, value, chance = UNITS[tree["units"][name]], tree["metrics"][name], tree["chance"][name]
    low, high = tree["intervals"][name]
    bar = {"value": 100 * value, "low": 100 * low, "width": 100 * (high - low), "chance": 100 * (chance or 0)}
    return {
        "measure": tree["measures"][name],
        "value": unit.plain(value),
        "interval": f"{unit.plain(low)} – {unit.plain(high)}",
        "chance": "" if chance is None else f"chance {_fine(chance, tree['units'][name])}",
        "bar": bar if unit.bounded else None,
        "queries": tree["queries"][name],
        "candidates": tree["candidates"][name],
    }


def _seen(tree: Tree) -> list[Tree]:
    """What of each shard set the training set has, and the metrics without it; nothing where that was not asked for."""
    contamination = tree["contamination"]
    splits = []
    for split, sentence in sentences(contamination) if contamination else ():
        rows = []
        for name, kinds in contamination["without"].items():
            if name.startswith(f"{split}/"):
                plain = UNITS[tree["units"][name]].plain
                cells = [
                    {
                        "measure": f"{kind} unseen",
                        "value": plain(left["value"]) if left["queries"] else "–",
                        "interval": " – ".join(map(plain, left["interval"])) if left["queries"] else "none is left",
                        "queries": left["queries"],
                    }
                    for kind, left in kinds.items()
                ]
                label = ", ".join((*tree["labels"][name], tree["measures"][name]))
                rows.append({"label": label, "all": plain(tree["metrics"][name]), "cells": cells})
        splits.append({"name": split, "sentence": sentence, "rows": rows})
    return splits


def _fine(chance: float, unit: str) -> str:
    """Chance, which may be small: shares with one more digit."""
    return f"{100 * chance:.2f}" if UNITS[unit].bounded else UNITS[unit].plain(chance)


def _conditions(tree: Tree) -> list[tuple[str, str]]:
    """(what, how) of everything a reader needs to measure the same again."""
    model, machine = tree["model"], tree["machine"]
    tokenizer, picture = model["tokenizer"], model["preprocessing"]
    return [
        ("model", model["name"]),
        ("weights, sha256", model["weights_sha256"]),
        ("tokenizer", f"{tokenizer['kind']}, {tokenizer['vocab']:,} tokens, at most {tokenizer['context']} a caption"),
        ("pictures", ", ".join(f"{key} {value}" for key, value in picture.items())),
        ("precision", f"{model['precision']} on {model['device']}"),
        *((f"data: {name}, sha256", f"{about['sha256']} ({about['spec']})") for name, about in tree["data"].items()),
        ("intervals", "95 %, percentile bootstrap over queries, 1,000 rounds; ties count against the model"),
        ("seed", ", ".join(_seeds(tree))),
        (
            "machine",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB {machine['gpu']}".strip(),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in tree["versions"].items())),
        ("written", tree["written"]),
        *([("command", tree["command"])] if tree["command"] else []),
    ]


def _seeds(tree: Tree) -> list[str]:
    """The seeds of the bootstrap and of the training."""
    own = tree["seed"].items() if isinstance(tree["seed"], Mapping) else [("bootstrap", tree["seed"])]
    seeds = [f"{seed} ({what})" for what, seed in own]
    return [*seeds, f"{tree['train']['seed']} (training)"] if "seed" in tree["train"] else seeds
