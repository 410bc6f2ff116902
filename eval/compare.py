"""`vlp compare A B ...`: models on the same queries, with paired significance; or one table of many reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from eval.report.changed import changed_queries
from eval.report.compare_page import compare_page, in_words, signed
from eval.report.comparison import Evaluated, compared, opened, per_class, reliability
from eval.report.gathered import gathered, written
from eval.report.results import write_json
from eval.report.units import UNITS
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import cell

MOST_MODELS = 4  # as many colours as a page has
Tree = dict[str, Any]


def main(argv: list[str]) -> int:
    """`vlp compare A B ... [flags]`."""

    def command(
        evaluations: Annotated[Positional[tuple[str, ...]], arg(metavar="A B ...")],
        *,
        out: Path | None = None,
        table: bool = False,
        format: Literal["markdown", "csv", "json"] = "markdown",
        metrics: tuple[str, ...] = (),
        average: bool = False,
    ) -> int:
        """Compare models that were evaluated on the same data: which differences are more than chance?

        A is what the others are compared with. An evaluation is the folder that `vlp eval ... --out FOLDER` wrote, its
        report.json, or a model folder beside which one lies (RUN/eval for RUN/model).

        Args:
            evaluations: two to four of them; with --table any number.
            out: folder for compare.html and compare.json; without it only the table is shown.
            table: print one table of all of them instead, a row a model.
            format: of --table.
            metrics: which of them --table has, as names or patterns such as "*/acc1"; none: all.
            average: a column with the mean of these metrics, refused where they cannot be averaged.
        """
        models = opened(evaluations)
        if table:
            print(written(gathered(models, metrics, average=average), format), end="")
            return 0
        if not 2 <= len(models) <= MOST_MODELS:
            raise UserError(
                f"two to {MOST_MODELS} evaluations are compared, and {len(models)} are given; --table takes any number"
            )
        tree = compared(models)
        show(tree, Console())
        if out is not None:
            write(models, tree, out)
        return 0

    return int(tyro.cli(command, args=argv, prog="vlp compare"))


def show(tree: Tree, console: Console) -> None:
    """Print one table for each data set and each model against the first."""
    for other in range(len(tree["models"]) - 1):
        for split in tree["data"]:
            console.print(_rows(tree, split, other))
    tests = tree["tests"]
    console.print(
        f"p is corrected for {tests['count']} tests (Holm); below {tests['level']} it is better or worse",
        style="dim",
    )
    if tree["only_in_some"]:
        console.print(cell(f"left out, for not all have them: {', '.join(tree['only_in_some'])}", 1000), style="dim")


def _rows(tree: Tree, split: str, other: int) -> Table:
    first, label = tree["models"][0]["label"], tree["models"][other + 1]["label"]
    title = cell(f"{split} · {label} against {first}")
    rows = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE, padding=(0, 0), pad_edge=False)
    rows.add_column("metric", overflow="fold")
    for heading in (first, label, "", "95 % interval"):
        rows.add_column(cell(f" {heading}", 16), justify="right", no_wrap=True)
    rows.add_column(" p (Holm)", no_wrap=True)
    for name, metric in tree["metrics"].items():
        if not name.startswith(f"{split}/"):
            continue
        plain, against = UNITS[metric["units"]].plain, metric["against_first"][other]
        words: list[Text | str] = [
            cell(name.removeprefix(f"{split}/"), 80),
            f" {plain(metric['values'][0])}",
            f" {plain(metric['values'][other + 1])}",
        ]
        if against is None:
            rows.add_row(*words, "", "", " not by query")
            continue
        low, high = (signed(bound, metric["units"]) for bound in against["interval"])
        colour = {"better": "bold green", "worse": "bold red", "": "dim"}[against["verdict"]]
        p = in_words(against["p_holm"]).removeprefix("p ").removeprefix("= ").replace(" ", "")
        difference = f" [{colour}]{signed(against['difference'], metric['units'])}[/]"
        rows.add_row(*words, difference, f" {low} – {high}", f" {p} [{colour}]{against['verdict']}[/]")
    return rows


def write(models: Sequence[Evaluated], tree: Tree, out: Path) -> None:
    """Write compare.json and compare.html."""
    names = list(tree["metrics"])
    classified = per_class(models, names)
    changed = changed_queries(models, tree, classified)
    page = compare_page(tree, classified=classified, reliability=reliability(models, names), changed=changed)
    write_json(tree, out / "compare.json")
    write_whole(out / "compare.html", page)
    print(f"written: {out / 'compare.json'}, {out / 'compare.html'}")
