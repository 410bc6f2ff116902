"""`vlp eval MODEL SHARDS|PRESET...`: the tasks that a preset names, with intervals."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

from annotated_types import Ge
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from eval.configuration import (
    EvalConfig,
    gather,
    known_presets,
    preset_files,
    read,
    refuse_missing,
    sorted_words,
    spread,
)
from eval.embeddings.cache import LIMIT, EmbeddingCache, cached
from eval.embeddings.sound import refuse_unlike_widths
from eval.embeddings.split import KeptSplit
from eval.embeddings.together import Ranks
from eval.published import compare, expected
from eval.report import assemble as report
from eval.report import clip_benchmark
from eval.report.gates import unmet
from eval.report.page import report_page
from eval.report.results import write_json, write_queries
from eval.report.units import UNITS
from vlp.config import parse
from vlp.config.flags_help import field_docs
from vlp.distributed.collectives import gather_objects
from vlp.distributed.world import World, connect
from vlp.errors import UserError
from vlp.files import write_whole
from vlp.legible import cell

if TYPE_CHECKING:
    from vlp.models.release import Release

Tree = dict[str, Any]


def evaluate(release: Release, config: EvalConfig) -> Tree:
    """The tree of report.json: every task of `config` on its shard sets, named by the last part of their paths.

    Raises UserError as `measure` does.
    """
    return report.assemble(release, measure(release, config))


def measure(
    release: Release, config: EvalConfig, *, cache: EmbeddingCache | None = None, ranks: Ranks | None = None
) -> list[report.Part]:
    """What came of each shard set of `config` (all ranks participate, and get the same).

    A task that has nothing to measure on a shard set is left out there, with the reason. cache: where vectors are kept
    from one evaluation to the next. ranks: who embeds. Raises UserError if no task has anything to measure on a shard
    set, if it lacks something that was asked for by name, or if the model's vectors are of no use.
    """
    refuse_unlike_widths(release)
    ranks = ranks or Ranks()
    release = cached(release, cache, ranks)
    parts: list[report.Part] = []
    for split_name, (dataset, tasks) in config.by_split().items():
        pictures = KeptSplit(
            dataset, release.transform, cache_bytes=None, skip_damaged=config.skip_damaged, ranks=ranks, cache=cache
        )
        reasons = {name: task.unfit(pictures.split) for name, task in tasks.items()}
        if all(reasons.values()):
            why = "; ".join(f"{task}: {reason}" for task, reason in reasons.items())
            raise UserError(f"there is nothing to evaluate on {dataset.spec} ({why})")
        split = pictures.embedded(release, bar=ranks.rank == 0)
        results = ((task, tasks[task].measure(split)) for task, reason in reasons.items() if not reason)
        parts.append(report.Part(split_name, split, tasks, gather(split_name, results), reasons))
    if not parts:
        raise UserError("there is nothing to evaluate: name a shard set, such as bundled:emoji/test_style")
    return parts


def table(tree: Tree, console: Console) -> None:
    """Print one table a shard set: each metric against chance, with its interval; and what was left out."""
    for split, about in tree["data"].items():
        rows = Table(
            title=cell(f"{split} · {about['samples']:,} pictures"), title_justify="left", title_style="bold", box=SIMPLE
        )
        rows.add_column("metric", no_wrap=True)
        for heading in ("value", "95 % interval", "chance", "of"):
            rows.add_column(heading, justify="right", no_wrap=True)
        for name, value in tree["metrics"].items():
            if name.startswith(f"{split}/"):
                precise = UNITS[tree["units"][name]].precise
                low, high = tree["intervals"][name]
                chance = tree["chance"][name]
                rows.add_row(
                    cell(name.removeprefix(f"{split}/"), 80),
                    f"[bold]{precise(value)}",
                    f"{precise(low)} – {precise(high)}",
                    "" if chance is None else precise(chance),
                    f"{tree['candidates'][name]:,}",
                )
        console.print(rows)
        if about["skipped"]:
            lost = ", ".join(f"{count:,} {reason}" for reason, count in about["skipped"].items())
            console.print(cell(f"skipped on {split}: {lost}"), style="yellow")
        for task in tree["tasks"][split]:
            if task["left_out"]:
                left_out = f"left out on {split}: {task['name']}, because {task['left_out']}"
                console.print(cell(left_out, 1000), style="dim")


@dataclass(frozen=True)
class EvalRun(EvalConfig):
    """The settings of `vlp eval`: the tasks, and where the report goes."""

    out: Path | None = None
    """folder for report.json, report.html and what each query scored; without it only the table is shown"""
    json: str = ""
    """file for the report as JSON, - for stdout; {dataset}, {task} and {language} in it make a file of each"""
    format: Literal["vlp", "clip-benchmark"] = "vlp"
    """keys of --json: those of report.json, or those of clip-benchmark's results"""
    at_least: tuple[str, ...] = ()
    """metric=value pairs; if one is not reached, the exit status is 1"""
    at_most: tuple[str, ...] = ()
    """metric=value pairs; if one is exceeded, the exit status is 1"""
    cache: Path | None = None
    """folder of embeddings that are kept for the next evaluation; none: $VLP_CACHE/embeddings, in ~/.cache/vlp"""
    no_cache: bool = False
    """embed everything, and keep nothing: an interrupted evaluation then starts anew"""
    cache_bytes: Annotated[int, Ge(0)] = LIMIT
    """most that kept embeddings take on disk, bytes; what was not used for longest is removed"""
    published: bool = False
    """compare with what was published for the model; the exit status is 1 beyond 0.1 percentage points"""
    device: str = "cpu"
    """cpu, cuda, cuda:1 ..."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """what the model computes in; bf16 is faster and moves accuracies by some hundredths of a point"""
    random_weights: bool = False
    """take an open_clip name without a tag, whose weights are random"""
    trust: bool = False
    """run code that the model's folder names and that is no part of vlp"""


USAGE = """usage: vlp eval MODEL SHARDS... [PRESET...] [flags]

MODEL   a model folder (RUN/model), or an open_clip name such as ViT-B-32:laion2b_s34b_b79k
SHARDS  shard sets: a folder with a manifest, glob, brace range, union (a::b) or bundled:NAME
PRESET  what to measure: a .toml file, or one of %s; default where none names a task.
        A folder that is called like a preset is a shard set when it is written ./NAME

  vlp eval runs/demo/model bundled:emoji/test_style --languages zh --out runs/eval
  vlp eval runs/demo/model my_data/test my_tasks.toml --at-least test/en/image_to_text/recall@1=0.2

Flags; what is a setting of tasks is meant for every task that has it, --tasks.NAME.SETTING for one of them:

%s

vlp eval --help-all lists every flag; each is also a key of a preset (TOML)."""


def usage(config: EvalConfig) -> str:
    """The text of `vlp eval --help`: the flags of the command and those of the tasks of `config`."""
    docs = {f.name: text for f in fields(EvalRun) if (text := field_docs(EvalRun)[f.name]) and f.name != "tasks"}
    for task in config.tasks.values():
        docs = {**{f.name: field_docs(type(task))[f.name] for f in fields(task)}, **docs}
    wide = max(map(len, docs)) + 4
    rows = []
    for name, text in sorted(docs.items()):
        first, *more = textwrap.wrap(text, 114 - wide)
        rows += [f"  --{name.replace('_', '-'):<{wide}}{first}", *(" " * (wide + 4) + line for line in more)]
    return USAGE % (", ".join(known_presets()), "\n".join(rows))


def main(argv: list[str]) -> int:
    """`vlp eval MODEL SHARDS... [PRESET...] [flags]`, by any number of ranks."""
    split = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
    words, flags = argv[:split], argv[split:]
    presets, shards = sorted_words(words[1:])
    tasks = read(presets).tasks
    if not argv or {"-h", "--help"} & set(flags):
        print(usage(read(presets)))
        return 0
    if not words and "--help-all" not in flags:
        raise UserError(f"name a model before the flags, not after {flags[0]}: vlp eval MODEL SHARDS... [flags]")
    data = ["--data", *shards, "--folder="] if shards else []
    own = {f.name for f in fields(EvalRun)} | {"help_all"}
    run = parse(EvalRun, [*preset_files(presets), *data, *spread(flags, own, tasks)], "vlp eval", __doc__ or "")
    refuse_missing(run)  # before a model is loaded
    with connect() as world:
        return command(run, words[0], world, shlex.join(["vlp", "eval", *argv]))


def command(run: EvalRun, model: str, world: World, typed: str) -> int:
    """Evaluate, show and write; the exit status. All ranks participate, and rank 0 alone shows and writes."""
    from vlp.models import release

    device = str(world.device) if world.size > 1 and run.device == "cuda" else run.device
    ranks = Ranks(world.rank, world.size, gather_objects) if world.size > 1 else Ranks()
    cache = None if run.no_cache else EmbeddingCache(run.cache, run.cache_bytes)
    values = expected(model, list(run.by_split()), trust=run.trust) if run.published else {}
    loaded = release.load(model, device, random_weights=run.random_weights, trust=run.trust)
    loaded = replace(loaded, precision=run.precision)
    parts = measure(loaded, run, cache=cache, ranks=ranks)
    tree = report.assemble(loaded, parts, typed)
    short = unmet(tree, run.at_least, run.at_most)
    compared = compare(tree["metrics"], values)
    short += [str(one) for one in compared if not one.agrees]
    if world.rank == 0:
        table(tree, Console(stderr=run.json == "-"))
        for one in compared:
            print(one if one.agrees else f"{one}: OTHER THAN PUBLISHED", file=_where(run))
        write(run, tree, parts, Path(model).parent)
        for sentence in short:
            Console(stderr=True).print(cell(f"not met: {sentence}", 1000), style="bold red")
    return 1 if short else 0


def write(run: EvalRun, tree: Tree, parts: Sequence[report.Part], folder: Path) -> None:
    """Write what was asked for; `folder` is that of the run the model came from."""
    if run.out is not None:
        write_queries({name: m for part in parts for name, m in part.measured.items()}, run.out)
        write_json(tree, run.out / "report.json")
        write_whole(run.out / "report.html", report_page(tree, run=folder))
        print(f"written: {run.out / 'report.json'}, {run.out / 'report.html'}", file=_where(run))
    if run.json:
        named = clip_benchmark.files(tree, run.json) if run.format == "clip-benchmark" else [(run.json, tree)]
        for name, content in named:
            if name == "-":
                print(json.dumps(content, indent=1, ensure_ascii=False))
            else:
                write_json(content, Path(name))
                print(f"written: {name}", file=_where(run))


def _where(run: EvalRun) -> TextIO:
    """Where sentences go: stdout, unless that is for JSON."""
    return sys.stderr if run.json == "-" else sys.stdout
