"""The frontier of a choice: what each kind gives for its time and memory, as a table and as a page with its curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from eval.search.choose import Candidate
from vlp.page import render
from vlp.page.chart import Series, line_chart

COLUMNS = ("kind", "effort", "", "recall", "ms", "queries/s", "MB")
TEMPLATE = Path(__file__).parent / "frontier_page.html"


def frontier(measured: Sequence[Candidate]) -> list[Candidate]:
    """Of each kind and its way to keep vectors: those that no other one beats in recall and latency, fastest first."""
    kept: list[Candidate] = []
    for kind in dict.fromkeys(map(label, measured)):
        best = -1.0
        for one in sorted((m for m in measured if label(m) == kind), key=lambda m: (m.latency_s, -m.recall)):
            if one.recall > best:
                kept.append(one)
                best = one.recall
    return kept


def label(one: Candidate) -> str:
    """The name of a kind, with how its better codes are kept."""
    return f"{one.kind['name']} {one.kind['better']}" if "better" in one.kind else str(one.kind["name"])


def effort(one: Candidate) -> str:
    """What is turned up to find more, in short."""
    knobs = {"probes": "probes", "candidates": "refined", "search_effort": "visited"}
    return ", ".join(f"{one.kind[knob]} {word}" for knob, word in knobs.items() if knob in one.kind)


def best(measured: Sequence[Candidate], chosen: dict[str, object]) -> list[Candidate]:
    """One of each kind: the chosen one, else the fastest within the limits, else the one with the highest recall."""
    rows = []
    for kind in dict.fromkeys(map(label, measured)):
        own = [one for one in measured if label(one) == kind]
        fitting = [one for one in own if one.kind == chosen] or [one for one in own if one.fits]
        fastest = min(fitting, key=lambda one: one.latency_s) if fitting else None
        rows.append(fastest or max(own, key=lambda one: one.recall))
    return rows


def print_frontier(measured: Sequence[Candidate], chosen: dict[str, object], console: Console) -> None:
    """Print the best of each kind, the chosen one marked."""
    rows = Table(title="of each kind, on a sample, asked by real queries", title_justify="left", box=SIMPLE)
    for name in COLUMNS:
        rows.add_column(name, justify="left" if name in COLUMNS[:3] else "right", overflow="fold")
    for one in best(measured, chosen):
        rows.add_row(*cells(one, chosen))
    console.print(rows)


def cells(one: Candidate, chosen: dict[str, object]) -> list[str]:
    """One row of the table, as COLUMNS: the mark says whether it is chosen, or within the limits."""
    mark = "chosen" if one.kind == chosen else "fits" if one.fits else ""
    numbers = [
        f"{one.recall:.3f}",
        f"{one.latency_s * 1e3:.3f}",
        f"{one.queries_per_s:,.0f}",
        f"{one.bytes / 1e6:,.1f}",
    ]
    return [label(one), effort(one), mark, *numbers]


def page(measured: Sequence[Candidate], chosen: dict[str, object], title: str) -> str:
    """The HTML of the frontier: recall against latency for each kind, and the table of the best of each."""
    kept = frontier(measured)
    lines = [
        Series(kind, sorted((one.latency_s * 1e3, one.recall) for one in kept if label(one) == kind))
        for kind in dict.fromkeys(map(label, kept))
    ]
    chart = line_chart(lines, x_label="ms a query, asked alone", y_label="recall@10")
    return render(
        TEMPLATE, title=title, chart=chart, columns=COLUMNS, rows=[cells(one, chosen) for one in best(measured, chosen)]
    )


def frontier_of(path: Path) -> list[Candidate]:
    """What `choose.as_json` wrote."""
    return [Candidate(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
