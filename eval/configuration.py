"""What an evaluation measures, and on what: presets (TOML, eval/presets) and flags -> `EvalConfig`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from data_pipelines.shards import manifest
from data_pipelines.shards.shard_set import PACKED_TARS
from eval.datasets import Dataset
from eval.datasets.shards import Shards
from eval.tasks import Measured, Task
from vlp.config import build, component, did_you_mean, merge, read_preset
from vlp.config.components import component_names
from vlp.errors import UserError

PRESETS = Path(__file__).parent / "presets"
Tree = dict[str, Any]


@dataclass(frozen=True)
class EvalConfig:
    """The tasks of an evaluation by names of one's choosing, and the datasets and shard sets they run on."""

    tasks: dict[str, Task] = field(default_factory=dict)
    """what is measured: a table [tasks.NAME] has name = "retrieval" (a file of eval/tasks) and the task's fields"""
    data: tuple[str, ...] = ()
    """shard sets that every task without `data` of its own runs on"""
    folder: str = ""
    """where the shard sets of `data` are, such as bundled:emoji; empty: `data` says it all"""
    datasets: dict[str, Dataset] = field(default_factory=dict)
    """datasets that such tasks run on as well: [datasets.NAME] has name = "cifar" (a file of eval/datasets) and root"""
    root: str = ""
    """folder that the datasets lie in, those that have no absolute path of their own"""
    collection: str = ""
    """name of the collection that the datasets make up: those that are not there are named, only all are averaged"""
    skip_damaged: bool = False
    """go on without what a damaged dataset has lost, counted and said, instead of refusing it"""

    def placed(self) -> dict[str, Dataset]:
        """The datasets where they are: in `root`, or `root` itself where one alone is asked for and is not in it."""
        placed = {name: dataset.below(self.root) for name, dataset in self.datasets.items()}
        if len(placed) == 1 and not self.collection:
            name, dataset = next(iter(placed.items()))
            if dataset != self.datasets[name] and not Path(dataset.root).exists():
                return {name: replace(dataset, root=self.root)}
        return placed

    def by_split(self) -> dict[str, tuple[Dataset, dict[str, Task]]]:
        """Short name of each dataset or shard set -> itself, and the tasks that run on it by name.

        Raises UserError if a task has nothing to run on.
        """
        own = {spec: opened(spec) for spec in (f"{self.folder}/{s}" if self.folder else s for s in self.data)}
        named = self.placed()
        datasets: dict[str, Dataset] = {**own, **named}
        tasks = {name: {n: task for n, task in self.tasks.items() if not task.data} for name in datasets}
        for name, task in self.tasks.items():
            if task.data:
                datasets.setdefault(task.data, opened(task.data))
                tasks.setdefault(task.data, {})[name] = task
            elif not own and not named:
                raise UserError(
                    f'the task "{name}" has no data: name a shard set to evaluate on, such as bundled:emoji/test_style'
                )
        splits: dict[str, tuple[Dataset, dict[str, Task]]] = {}
        for name, some in tasks.items():
            if some:
                short = split_name(name if name in named else datasets[name].spec, splits)
                splits[short] = (datasets[name], some)
        return splits


def opened(spec: str) -> Dataset:
    """The shard set of a specification, or the dataset in a folder that has no tars.

    Raises UserError for a folder that is of no known layout.
    """
    folder = Path(spec).expanduser()
    if not folder.is_dir() or (folder / manifest.FILE).is_file() or any(map(_is_tar, folder.iterdir())):
        return Shards(root=spec)
    layouts = component_names(Dataset)
    for name in layouts:
        if dataset := component(Dataset, name).at(folder):  # type: ignore[attr-defined]
            return dataset  # type: ignore[no-any-return]
    raise UserError(
        f"{folder} is no shard set and no dataset that is known by its looks: expected tars, folders of pictures (a "
        f"class each), or a layout that a preset names ({', '.join(layouts)})"
    )


def _is_tar(path: Path) -> bool:
    return path.name.endswith((".tar", *PACKED_TARS))


def refuse_missing(config: EvalConfig) -> None:
    """Raise UserError for a dataset that is not there, with where to get it; of a collection, if none is there."""
    for dataset, _ in present(config)[0].by_split().values():
        if reason := dataset.missing():
            raise UserError(reason)


def present(config: EvalConfig) -> tuple[EvalConfig, dict[str, str]]:
    """The configuration without those datasets of a collection that are not there, and why each of them is not.

    Raises UserError if none is there.
    """
    placed = config.placed() if config.collection else {}
    absent = {name: reason for name, dataset in placed.items() if (reason := dataset.missing())}
    if absent and len(absent) == len(config.datasets):
        name, reason = next(iter(absent.items()))
        raise UserError(f"nothing of {config.collection} is there; {name}, for one: {reason}")
    return replace(config, datasets={n: d for n, d in config.datasets.items() if n not in absent}), absent


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


def gather(split: str, results: Iterable[tuple[str, Mapping[str, Measured]]]) -> dict[str, Measured]:
    """The (task name, metrics) of one shard set as one table: `SPLIT/METRIC`.

    A metric that an earlier task has given already is called `SPLIT/TASK/METRIC`, and its label begins with the task.
    """
    named: dict[str, Measured] = {}
    for task, metrics in results:
        for metric, measured in metrics.items():
            name = f"{split}/{metric}"
            if name in named:
                words = measured.presentation
                name = f"{split}/{task}/{metric}"
                measured = replace(measured, presentation=replace(words, label=(task, *words.label)))
            named[name] = measured
    return named


def known_presets() -> list[str]:
    """Names of the presets that come with vlp."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def is_preset(word: str) -> bool:
    """Whether a word of the command line is a preset (a .toml file, or a name of eval/presets), not a shard set."""
    return word.endswith(".toml") or word in known_presets()


def preset_files(names: Sequence[str]) -> list[str]:
    """The files of these presets in order; default.toml before them where none of them names a task.

    Raises UserError for a preset that is not there or is not TOML.
    """
    files = [name if name.endswith(".toml") else str(PRESETS / f"{name}.toml") for name in names]
    for name, file in zip(names, files, strict=True):
        if not Path(file).is_file():
            raise UserError(f'there is no preset "{name}"; give a .toml file, or one of: {", ".join(known_presets())}')
    if any(read_preset(file).get("tasks") for file in files):
        return files
    return [str(PRESETS / "default.toml"), *(file for file in files if file != str(PRESETS / "default.toml"))]


def read(names: Sequence[str] = (), *, data: Sequence[str] = (), folder: str = "") -> EvalConfig:
    """The configuration of these presets; `data` replaces the shard sets that they name, `folder` where these are.

    Raises UserError for a preset that is not there, and for keys and values that do not fit.
    """
    tree: Tree = {}
    for file in preset_files(names):
        tree = merge(tree, read_preset(file))
    if data:
        tree |= {"data": list(data), "folder": folder}
    elif folder:
        tree["folder"] = folder
    return build(EvalConfig, tree)


def sorted_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(presets, shard sets) among the words of a command line. Raises UserError for a bare word that is neither."""
    presets = [word for word in words if is_preset(word)]
    shards = [word for word in words if not is_preset(word)]
    for word in shards:
        if word.isidentifier() and not Path(word).exists():
            raise UserError(f'there is no shard set and no preset "{word}"{did_you_mean(word, known_presets())}')
    return presets, shards


def spread(flags: Sequence[str], own: Collection[str], tasks_of: Mapping[str, Task]) -> list[str]:
    """Flags with each short one written out for the tasks that have such a field.

    `--languages zh` is `--tasks.retrieval.languages zh`, and `--seed 3` goes to every task; `own` are the settings
    of the command itself. Raises UserError if neither the command nor a task has a setting of that name.
    """
    written: list[str] = []
    for flag, values in _grouped(flags):
        word, equals, value = flag.partition("=")
        setting = word[2:].replace("-", "_")
        if not word.startswith("--") or "." in setting or setting in own:
            written += [flag, *values]
            continue
        tasks = [name for name, task in tasks_of.items() if setting in {f.name for f in fields(task)}]
        if not tasks:
            known = sorted({*own, *(f.name for task in tasks_of.values() for f in fields(task))})
            raise UserError(f'no task of this evaluation has a setting "{word}"{did_you_mean(setting, known)}')
        for name in tasks:
            written += [f"--tasks.{name}.{word[2:]}{equals}{value}", *values]
    return written


def _grouped(flags: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag with the values that come after it; a negative number is a value."""
    groups: list[tuple[str, list[str]]] = []
    for word in flags:
        if groups and not (word.startswith("-") and not word[1:2].isdigit()):
            groups[-1][1].append(word)
        else:
            groups.append((word, []))
    return groups
