"""`vlp blend A B`: the weights between two models (WiSE-FT), as a model folder or as a curve of scores."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from eval.configuration import EvalConfig, gather, preset_files, read, refuse_missing, sorted_words, spread
from eval.embeddings.split import KeptSplit
from eval.report.results import write_json
from eval.report.units import UNITS
from eval.tasks import Measured
from vlp.config import parse
from vlp.config.bounds import Share
from vlp.config.flags_help import field_docs
from vlp.errors import UserError
from vlp.files import check_writable, write_whole
from vlp.legible import cell
from vlp.page import render
from vlp.page.chart import Series, line_chart
from vlp.record import versions

if TYPE_CHECKING:
    from vlp.models.release import Release

Tree = dict[str, Any]
CACHE_BYTES = 2 << 30  # of decoded pictures, which every point of a curve asks for again
TEMPLATE = Path(__file__).parent / "blend_page.html"


@dataclass(frozen=True)
class BlendRun(EvalConfig):
    """The settings of `vlp blend`: where between the models, and where the result goes."""

    alpha: Share = 0.5
    """how far from A to B: 0 is A, 1 is B"""
    out: Path | None = None
    """folder for the model between A and B"""
    curve: Path | None = None
    """folder for curve.json and curve.html: the tasks of the presets at each of `alphas`"""
    alphas: tuple[Share, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    """the points of the curve"""
    device: str = "cpu"
    """cpu, cuda, cuda:1 ..."""
    random_weights: bool = False
    """take an open_clip name without a tag, whose weights are random"""
    trust: bool = False
    """run code that a model's folder names and that is no part of vlp"""


USAGE = """usage: vlp blend A B [SHARDS... [PRESET...]] [flags]

A, B    model folders or open_clip names; B was finetuned from A
SHARDS  what a curve is measured on, as in vlp eval;  PRESET  what is measured, as in vlp eval

  vlp blend ViT-B-32:laion2b_s34b_b79k runs/finetuned/model --alpha 0.5 --out runs/blended
  vlp blend runs/first/model runs/finetuned/model bundled:emoji/val --curve runs/curve

%s"""


def usage() -> str:
    """The text of `vlp blend --help`."""
    docs = {f.name: field_docs(BlendRun)[f.name] for f in fields(BlendRun) if f.name != "tasks"}
    wide = max(map(len, docs)) + 4
    rows = []
    for name, text in docs.items():
        first, *more = textwrap.wrap(text, 114 - wide)
        rows += [f"  --{name.replace('_', '-'):<{wide}}{first}", *(" " * (wide + 4) + line for line in more)]
    return USAGE % "\n".join(rows)


def measured_between(first: Release, second: Release, run: BlendRun) -> dict[float, dict[str, Measured]]:
    """alpha -> every metric of the tasks of `run`, of the model so far from the first to the second."""
    from vlp.models.adapt.wise_ft import blend

    curve: dict[float, dict[str, Measured]] = {alpha: {} for alpha in sorted(set(run.alphas))}
    for name, (dataset, tasks) in run.by_split().items():
        pictures = KeptSplit(dataset, second.transform, cache_bytes=CACHE_BYTES, skip_damaged=run.skip_damaged)
        fit = {task: one for task, one in tasks.items() if not one.unfit(pictures.split)}
        if not fit:
            raise UserError(f"there is nothing to evaluate on {dataset.spec}: no task has something to measure there")
        for alpha, metrics in curve.items():
            between = replace(second, encoder=blend(first, second, alpha))
            split = pictures.embedded(between, bar=True)
            metrics |= gather(name, ((task, one.measure(split)) for task, one in fit.items()))
    return curve


def curve_tree(first: Release, second: Release, curve: Mapping[float, Mapping[str, Measured]]) -> Tree:
    """The tree of curve.json."""
    names = next(iter(curve.values()))
    return {
        "first": {"name": first.name, "weights_sha256": first.id},
        "second": {"name": second.name, "weights_sha256": second.id},
        "alphas": list(curve),
        "metrics": {name: [round(metrics[name].value, 6) for metrics in curve.values()] for name in names},
        "intervals": {name: [list(metrics[name].interval) for metrics in curve.values()] for name in names},
        "primary": [name for name, m in names.items() if m.presentation.primary],
        "versions": versions(),
    }


def table(tree: Tree, units: Mapping[str, str], console: Console) -> None:
    """Print the primary metrics, a row for each alpha; the best of each column stands out."""
    rows = Table(title="from A (0) to B (1)", title_justify="left", title_style="bold", box=SIMPLE)
    rows.add_column("alpha", justify="right", no_wrap=True)
    for name in tree["primary"]:
        rows.add_column(cell(name, 60), justify="right")
    for i, alpha in enumerate(tree["alphas"]):
        values = [(tree["metrics"][name], UNITS[units[name]].precise) for name in tree["primary"]]
        cells = [f"[bold]{shown(v[i])}[/]" if v[i] == max(v) else shown(v[i]) for v, shown in values]
        rows.add_row(f"{alpha:g}", *cells)
    console.print(rows)


def page(tree: Tree, labels: Mapping[str, str]) -> str:
    """curve.html: a line for each primary metric."""
    lines = [
        Series(labels[name], list(zip(tree["alphas"], tree["metrics"][name], strict=True))) for name in tree["primary"]
    ]
    chart = line_chart(lines, x_label="alpha: 0 is the first model, 1 the second", y_label="score")
    rows = [(f"{alpha:g}", [tree["metrics"][n][i] for n in tree["primary"]]) for i, alpha in enumerate(tree["alphas"])]
    titles = [labels[name] for name in tree["primary"]]
    return render(TEMPLATE, title="between two models", tree=tree, chart=chart, rows=rows, titles=titles)


def draw(first: Release, second: Release, run: BlendRun, folder: Path) -> None:
    """Measure the curve, print it, and write it into `folder`."""
    curve = measured_between(first, second, run)
    tree = curve_tree(first, second, curve)
    some = next(iter(curve.values()))
    table(tree, {name: m.unit for name, m in some.items()}, Console())
    words = {n: ", ".join((*m.presentation.label, m.presentation.measure, n.split("/")[0])) for n, m in some.items()}
    write_json(tree, folder / "curve.json")
    write_whole(folder / "curve.html", page(tree, words))
    print(f"written: {folder / 'curve.json'}, {folder / 'curve.html'}")


def save(first: Release, second: Release, alpha: float, out: Path) -> None:
    """Write the model folder of the model between the two."""
    from vlp.models import release
    from vlp.models.adapt.wise_ft import blend

    assert second.config is not None
    notes = {
        "blend": f"{1 - alpha:g} of {first.name} ({first.id[:12]}) and {alpha:g} of {second.name} ({second.id[:12]})",
        **versions(),
    }
    encoder = blend(first, second, alpha)
    release.save(out, config=second.config, encoder=encoder, tokenizer=second.tokenizer, notes=notes)
    print(f"the model at alpha {alpha:g} is in {out}")


def main(argv: Sequence[str]) -> int:
    """`vlp blend A B [SHARDS... [PRESET...]] [flags]`."""
    from vlp.models import release
    from vlp.models.adapt.wise_ft import refuse_unlike

    split = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    words, flags = list(argv[:split]), list(argv[split:])
    if not argv or {"-h", "--help", "--help-all"} & set(flags):
        print(usage())
        return 0
    if len(words) < 2:
        raise UserError("name two models before the flags: vlp blend A B [SHARDS... [PRESET...]] [flags]")
    presets, shards = sorted_words(words[2:])
    own = {f.name for f in fields(BlendRun)}
    data = ["--data", *shards, "--folder="] if shards else []
    flags = [*preset_files(presets), *data, *spread(flags, own, read(presets).tasks)]
    run = parse(BlendRun, flags, "vlp blend", __doc__ or "")
    if run.out is None and run.curve is None:
        raise UserError(
            "say what to write: --out FOLDER for the model between the two, --curve FOLDER for how they score"
        )
    if run.curve is not None:
        refuse_missing(run)  # before a model is loaded
    elif shards:
        raise UserError(f"{shards[0]} is what a curve is measured on: give --curve FOLDER too, or leave it out")
    first, second = (
        release.load(name, run.device, random_weights=run.random_weights, trust=run.trust) for name in words[:2]
    )
    refuse_unlike(first, second)
    for folder in filter(None, (run.out, run.curve)):
        check_writable(folder)
    if run.out is not None:
        save(first, second, run.alpha, run.out)
    if run.curve is not None:
        draw(first, second, run, run.curve)
    return 0
