"""`vlp eval MODEL SHARDS...`: retrieval in every language and zero-shot classification, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from eval.embeddings.split import EmbeddedSplit
from eval.report import assemble as report
from eval.report.page import report_page
from eval.tasks import Measured, Task
from eval.tasks.retrieval import Retrieval
from eval.tasks.zero_shot import ZeroShot
from vlp.config import did_you_mean
from vlp.errors import UserError
from vlp.files import write_whole

if TYPE_CHECKING:
    from vlp.models.release import Release

Tree = dict[str, Any]


def evaluate(
    release: Release, specs: Sequence[str], *, languages: Sequence[str] = (), label: str = "subgroup", seed: int = 0
) -> Tree:
    """The tree of report.json for each shard set of `specs`; a set is named by the last part of its path.

    Retrieval in `languages` (none: all that a set has), classification where at least two classes are in `label`.
    """
    splits: dict[str, EmbeddedSplit] = {}
    tasks: dict[str, list[Task]] = {}
    measured: dict[str, Measured] = {}
    for spec in specs:
        split = EmbeddedSplit(release, spec)
        name = split_name(spec, splits)
        splits[name] = split
        tasks[name] = [Retrieval(languages=tuple(languages), seed=seed)] if split.languages or languages else []
        if len({sample.metadata.get(label) for sample in split.samples} - {None, ""}) > 1:
            tasks[name].append(ZeroShot(label=label, seed=seed))
        if not tasks[name]:
            raise UserError(f'{spec} has neither captions nor two classes in "{label}": there is nothing to evaluate')
        for task in tasks[name]:
            measured |= {f"{name}/{metric}": m for metric, m in task.measure(split).items()}
    return report.assemble(release, splits, measured, tasks, seed)


def split_name(spec: str, taken: Mapping[str, object]) -> str:
    """A short name for a shard set, not yet taken.

    >>> split_name("bundled:emoji/test_style", {}), split_name("/data/coco/{000..011}.tar", {})
    ('test_style', 'coco')
    """
    path = Path(spec.split("::", maxsplit=1)[0].removeprefix("bundled:"))
    name = path.parent.name if path.suffix == ".tar" else path.name
    name = name or "data"
    number = 2
    while name in taken:
        name = f"{name.rstrip('0123456789').rstrip('_')}_{number}"
        number += 1
    return name


def table(tree: Tree, console: Console) -> None:
    """Print one table a shard set: each metric against chance, with its interval."""
    for split, about in tree["data"].items():
        rows = Table(
            title=f"{split} · {about['samples']:,} pictures", title_justify="left", title_style="bold", box=SIMPLE
        )
        rows.add_column("metric", no_wrap=True)
        for heading in ("value", "95 % interval", "chance", "of"):
            rows.add_column(heading, justify="right", no_wrap=True)
        for name, value in tree["metrics"].items():
            if name.startswith(f"{split}/"):
                low, high = tree["intervals"][name]
                rows.add_row(
                    name.removeprefix(f"{split}/"),
                    f"[bold]{value:.4f}",
                    f"{low:.4f} – {high:.4f}",
                    f"{tree['chance'][name]:.4f}",
                    f"{tree['candidates'][name]:,}",
                )
        console.print(rows)


def unmet(tree: Tree, wanted: Sequence[str]) -> list[str]:
    """One sentence for each `metric=value` of `wanted` that the report does not reach.

    Raises UserError for a metric that was not measured.
    """
    sentences = []
    for want in wanted:
        name, sign, least = want.rpartition("=")
        try:
            bound = float(least)
        except ValueError:
            sign = ""
            bound = 0.0
        if not sign:
            raise UserError(f'"{want}" should be metric=value, such as test/en/image_to_text/recall@1=0.2')
        if name not in tree["metrics"]:
            raise UserError(f'no metric is called "{name}"{did_you_mean(name, list(tree["metrics"]))}')
        if tree["metrics"][name] < bound:
            sentences.append(f"{name} is {tree['metrics'][name]:.4f}, but at least {least} was asked for")
    return sentences


def main(argv: list[str]) -> int:
    """`vlp eval MODEL SHARDS...`."""
    from vlp.models import release

    def command(
        model: Annotated[Positional[str], arg(metavar="MODEL")],
        shards: Annotated[Positional[tuple[str, ...]], arg(metavar="SHARDS...")],
        *,
        out: Path | None = None,
        at_least: tuple[str, ...] = (),
        languages: tuple[str, ...] = (),
        label: str = "subgroup",
        device: str = "cpu",
        seed: int = 0,
    ) -> int:
        """Evaluate a model on shard sets: retrieval both ways in each language, zero-shot classification.

        Args:
            model: model folder (RUN/model), or an open_clip name such as ViT-B-32:laion2b_s34b_b79k.
            shards: one or more of: folder with a manifest, glob, brace range, union (a::b), bundled:NAME.
            out: folder for report.json and report.html; without it only the table is shown.
            at_least: metric=value pairs; if one is not reached, the exit status is 1.
            languages: languages of captions; without it all that the data have.
            label: metadata field whose values are the classes of zero-shot classification.
            device: cpu, cuda, cuda:1 ...
            seed: seed of the bootstrap.
        """
        if not shards:
            raise UserError("name at least one shard set to evaluate on, such as bundled:emoji/test_style")
        tree = evaluate(release.load(model, device), shards, languages=languages, label=label, seed=seed)
        table(tree, Console())
        if out is not None:
            report.write_json(tree, out / "report.json")
            write_whole(out / "report.html", report_page(tree, run=Path(model).parent))
            print(f"written: {out / 'report.json'}, {out / 'report.html'}")
        short = unmet(tree, at_least)
        for sentence in short:
            Console(stderr=True).print(f"not met: {sentence}", style="bold red")
        return 1 if short else 0

    return int(tyro.cli(command, args=argv, prog="vlp eval"))
