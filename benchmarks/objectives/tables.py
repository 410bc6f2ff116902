"""The record as Markdown: a table for each stage, put between the marks of a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.objectives.recipes import DEMO
from vlp.errors import UserError
from vlp.files import write_whole

Row = Mapping[str, Any]
UNMEASURED = "Not measured yet."


def of_stages(rows: Sequence[Row]) -> dict[str, str]:
    """Mark -> Markdown, of every stage that has rows."""
    by_stage: dict[str, list[Row]] = {}
    for row in rows:
        by_stage.setdefault(row["stage"], []).append(row)
    kinds = {"screen": screen, "race": judged, "report": report, "case": cases}
    return {stage: kinds[stage](some) for stage, some in by_stage.items()}


def screen(rows: Sequence[Row]) -> str:
    """One seed each: an order, and no verdict."""
    lines = [
        "| recipe | condition | MRR | gain | least gain to see | time | memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in ordered(rows):
        head = f"| `{row['recipe']}` | {row['condition']} |"
        if row.get("failed"):
            lines.append(f"{head} {brief(row['failed'])} | | | | |")
        elif row["recipe"] == DEMO:
            lines.append(f"{head} {share(row['ours'])} | | | 1.00 | |")
        else:
            numbers = (share(row["ours"]), signed(row["gain"]), share(row["least"]), *cost(row))
            lines.append(f"{head} {' | '.join(numbers)} |")
    return "\n".join(lines)


def judged(rows: Sequence[Row]) -> str:
    """Gains with corrected intervals, at equal pairs and at equal seconds."""
    timed = any("gain_at_equal_seconds" in row for row in rows)
    heads = ["recipe", "MRR", "gain", "corrected interval", "p (Holm)", "least gain to see"]
    heads += [*(["gain at equal seconds"] if timed else []), "time", "memory", ""]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 2) + "---|"]
    for row in ordered(rows):
        head = f"| {named(row['recipe'])} |"
        if row.get("failed"):
            lines.append(f"{head} {brief(row['failed'])} |" + " |" * (len(heads) - 2))
        elif row["recipe"] == DEMO:
            lines.append(f"{head} {share(row['ours'])} |" + " |" * (5 if timed else 4) + " 1.00 | | |")
        else:
            low, high = row["interval"]
            numbers = [share(row["ours"]), signed(row["gain"]), f"{signed(low)} to {signed(high)}"]
            numbers += [f"{row['p_holm']:.2g}", share(row["least"])]
            numbers += (
                [signed(row["gain_at_equal_seconds"]) if row["gain_at_equal_seconds"] is not None else ""]
                if timed
                else []
            )
            verdict = "**pays**" if row["pays"] else "worse" if high < 0 else ""
            lines.append(f"{head} {' | '.join([*numbers, *cost(row), verdict])} |")
    return "\n".join(lines)


def report(rows: Sequence[Row]) -> str:
    """A table of each split."""
    splits = dict.fromkeys(row["split"] for row in rows if "split" in row)
    own = {split: [row for row in rows if row.get("split") == split] for split in splits}
    return "\n\n".join(f"On {split}:\n\n{judged(some)}" for split, some in own.items()) or judged(rows)


def cases(rows: Sequence[Row]) -> str:
    """What each further case found."""
    lines = ["| case | what | found | 95 % interval |", "|---|---|---:|---|"]
    for row in rows:
        found = row.get("failed") or (share(row["ours"]) if row["unit"] != "pairs" else f"{row['ours']:,.0f}")
        bounds = " to ".join(share(bound) for bound in row["interval"]) if row.get("interval") else ""
        lines.append(f"| `{row['case'].partition('/')[2]}` | {row['what']} | {found} | {bounds} |")
    return "\n".join(lines)


def ordered(rows: Sequence[Row]) -> list[Row]:
    """`demo` first, then by gain within a condition, what failed last."""
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    key = lambda row: (conditions.index(row["condition"]), bool(row.get("failed")), row["recipe"] != DEMO)  # noqa: E731
    return sorted(rows, key=lambda row: (*key(row), -row.get("gain", 0.0)))


def brief(reason: str) -> str:
    """The first clause of a reason; the record has the whole.

    >>> brief("error: training stopped: the loss rose from 4.7 to 5.5, and did not come down again")
    'error: training stopped: the loss rose from 4.7 to 5.5'
    """
    return re.split(r"[,;] ", reason)[0]


def cost(row: Row) -> tuple[str, str]:
    """Seconds as a multiple of `demo`'s, and memory beyond its."""
    return f"{row['slower']:.2f}", f"{row['larger_bytes'] / 2**20:+,.0f} MiB"


def named(recipe: str) -> str:
    """Each part of a name as code.

    >>> named("cyclip + macl")
    '`cyclip` + `macl`'
    """
    return " + ".join(f"`{part}`" for part in recipe.split(" + "))


def share(number: float) -> str:
    """A number of the order of a reciprocal rank.

    >>> share(0.1534), share(-0.02)
    ('.1534', '-.0200')
    """
    return re.sub(r"^(-?)0\.", r"\1.", f"{number:.4f}")


def signed(number: float) -> str:
    """The same, always with its sign.

    >>> signed(0.0123)
    '+.0123'
    """
    return ("+" if number >= 0 else "") + share(number)


def fill(page: Path, texts: Mapping[str, str]) -> None:
    """Put each text between `<!-- MARK -->` and `<!-- end of MARK -->`; a missing mark raises UserError."""
    whole = page.read_text(encoding="utf-8")
    for mark, text in texts.items():
        between = re.compile(rf"(<!-- {mark} -->\n).*?(\n<!-- end of {mark} -->)", re.S)
        if not between.search(whole):
            raise UserError(f"{page} has no <!-- {mark} --> with an <!-- end of {mark} --> after it")
        whole = between.sub(lambda found, text=text: f"{found[1]}{text}{found[2]}", whole)
    write_whole(page, whole)
