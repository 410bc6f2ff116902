"""report.html: one file, no network, for light and dark screens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.search.answer import Answer
from eval.search.page import ANSWERS, shown
from vlp.page import render
from vlp.page.chart import Series, line_chart

HERE = Path(__file__).parent
Tree = dict[str, Any]

ABOUT_SPLITS = {
    "test_style": "Concepts that were seen in training, drawn by artists that were not.",
    "test_concept": "Concepts that were never seen, by artists that were.",
    "test_style_concept": "Neither the concept nor the artist was seen in training.",
    "test_attr": "Unseen combinations of a person or gesture with a skin tone.",
    "val": "Unseen concepts, seen artists: the split that choices are made on.",
}
LANGUAGES = {"en": "English", "zh": "Chinese"}
WAYS = {"image_to_text": "picture → caption", "text_to_image": "caption → picture"}


def report_page(tree: Tree, *, run: Path, answers: Sequence[Answer] = ()) -> str:
    """The page of a report: questions with hits, tables, the loss curve of the run in folder `run`, the conditions."""
    rows = _rows(run / "metrics.jsonl") if tree["train"] else []
    config = run / "config.toml"
    return render(
        HERE / "report_page.html",
        ANSWERS,
        title=Path(tree["model"]["name"]).parent.name or tree["model"]["name"],
        tree=tree,
        headline=_headline(tree),
        tiles=_tiles(tree),
        splits=[_split(tree, name) for name in tree["data"]],
        answers=[shown(answer) for answer in answers],
        loss=line_chart([Series("loss", _points(rows, "loss"))], x_label="pairs seen", y_label="training loss"),
        validation=line_chart(_validation(rows), x_label="pairs seen", y_label="Recall@1 on validation"),
        conditions=_conditions(tree),
        config=config.read_text(encoding="utf-8") if tree["train"] and config.is_file() else "",
    )


def _rows(path: Path) -> list[Mapping[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.strip()]


def _points(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(row["samples"]), float(row[key])) for row in rows if row.get(key) is not None]


def _validation(rows: Sequence[Mapping[str, Any]]) -> list[Series]:
    names = sorted({key for row in rows for key in row if key.endswith("recall@1")})
    return [Series(_metric_label(name.split("/", 1)[1]), _points(rows, name)) for name in names]


def _metric_label(name: str) -> str:
    """`en/image_to_text/recall@1` in words, without the measure."""
    parts = name.split("/")
    return ", ".join(LANGUAGES.get(part, WAYS.get(part, part)) for part in parts[:-1]) or name


def _headline(tree: Tree) -> Tree:
    """The first Recall@1 from caption to picture, in words a newcomer understands."""
    name = next((n for n in tree["metrics"] if n.endswith("text_to_image/recall@1")), "")
    if not name:
        return {}
    split, language = name.split("/")[:2]
    value, chance = tree["metrics"][name], tree["chance"][name]
    return {
        "percent": f"{100 * value:.0f} %" if value >= 0.095 else f"{100 * value:.1f} %",
        "candidates": f"{tree['candidates'][name]:,}",
        "times": f"{value / chance:,.0f}",
        "language": LANGUAGES.get(language, language),
        "about": ABOUT_SPLITS.get(split, ""),
        "split": split,
    }


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
    """One shard set: rows of a table, one a language and way (or a label), one cell a measure."""
    rows: dict[str, list[Tree]] = {}
    for name, value in tree["metrics"].items():
        if not name.startswith(f"{split}/"):
            continue
        rest = name.removeprefix(f"{split}/")
        low, high = tree["intervals"][name]
        cell = {
            "measure": rest.split("/")[-1].replace("recall@", "R@").replace("mean_per_class_recall", "per class"),
            "value": 100 * value,
            "low": 100 * low,
            "high": 100 * high,
            "chance": 100 * tree["chance"][name],
            "queries": tree["queries"][name],
            "candidates": tree["candidates"][name],
        }
        rows.setdefault(_row_label(rest), []).append(cell)
    samples = tree["data"][split]["samples"]
    return {"name": split, "about": ABOUT_SPLITS.get(split, ""), "samples": samples, "rows": rows}


def _row_label(name: str) -> str:
    parts = name.split("/")
    return _metric_label(name) if len(parts) > 2 else f"zero-shot by {parts[0]}"


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
        (
            "seed",
            f"{tree['seed']} (bootstrap)"
            + (f", {tree['train']['seed']} (training)" if "seed" in tree["train"] else ""),
        ),
        (
            "machine",
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB {machine['gpu']}".strip(),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in tree["versions"].items())),
        ("written", tree["written"]),
    ]
