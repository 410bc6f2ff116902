"""`vlp demo`: everything on the bundled data, from training to search. A stage that is done is skipped."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.console import Console

from eval import run
from eval.configuration import read
from eval.embeddings.cache import cached
from eval.embeddings.together import Ranks
from eval.index.flat import Flat
from eval.progress_bar import progress_bar
from eval.report import assemble as report
from eval.report.page import report_page
from eval.report.results import write_json, write_queries
from eval.search.answer import Answer, ask_picture, ask_text
from eval.search.build import build_gallery
from eval.search.gallery import Gallery
from eval.search.query import print_answer
from eval.search.versions import refuse_other_folder
from vlp.config import build, read_preset
from vlp.config.bounds import Count
from vlp.config.flags_help import common, table
from vlp.errors import UserError
from vlp.files import check_writable, write_whole
from vlp.record import versions

if TYPE_CHECKING:
    from vlp.models.release import Release


@dataclass(frozen=True)
class Question:
    """What a gallery is asked."""

    text: str
    """the words of the question; of a question by picture, the caption of the picture"""
    note: str
    """what a reader should know of it: its language, what it means"""


@dataclass(frozen=True)
class Tour:
    """What the demo shows: the splits it reads, and what it asks."""

    splits: tuple[str, ...]
    """every split of the data; all are verified"""
    train: str
    """the split that is trained on"""
    gallery: tuple[str, ...]
    """the splits whose pictures are searched"""
    about_gallery: str
    """what a reader should know of these pictures"""
    hits: Count
    """pictures shown for each question"""
    questions: tuple[Question, ...]
    """what is asked in words"""
    picture: Question
    """a picture of the training split to ask by, by its caption"""

    @classmethod
    def read(cls) -> Tour:
        """What eval/demo.toml says."""
        return build(cls, read_preset(str(Path(__file__).with_name("demo.toml"))))


@dataclass
class Demo:
    """The folder of a demo, and what is left to do in it."""

    out: Path
    data: str
    preset: Sequence[str]
    tour: Tour = field(default_factory=Tour.read)
    console: Console = field(default_factory=Console)

    @property
    def state(self) -> Path:
        """Settings and times of the stages that are done."""
        return self.out / "demo.json"

    def specs(self, splits: Sequence[str]) -> list[str]:
        """Shard specifications of these splits."""
        return [f"{self.data}/{split}" for split in splits]

    def begin(self) -> dict[str, Any]:
        """The state so far; what later stages need of the folder is looked at now.

        Raises UserError if it was begun with other settings, cannot be written, or holds something else where the
        index will be.
        """
        check_writable(self.out)
        refuse_other_folder(self.out / "index")
        settings = {"data": self.data, "preset": list(self.preset)}
        if not self.state.is_file():
            state: dict[str, Any] = {"settings": settings, "seconds": {}}
            write_json(state, self.state)
            return state
        state = json.loads(self.state.read_text(encoding="utf-8"))
        if state["settings"] != settings:
            was = " ".join(state["settings"]["preset"])
            raise UserError(
                f'{self.out} was begun with "{was}" on {state["settings"]["data"]}; '
                "give the same settings to go on, or another --out to begin anew"
            )
        return state

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Announce a stage, and note in the state how long it took; time before an interruption is added up."""
        self.console.rule(f"[bold]{number} of 5 · {name}", align="left")
        start = time.monotonic()
        try:
            yield
        finally:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            state["seconds"][name] = round(state["seconds"].get(name, 0.0) + time.monotonic() - start, 1)
            write_json(state, self.state)

    def done(self, what: str) -> None:
        """Say that a stage needs no work."""
        self.console.print(f"[dim]done before: {what}")


def verify(demo: Demo) -> None:
    """Check every checksum and every picture of the data, once. Raises UserError with the first problem."""
    from data_pipelines.commands.verify import Verify, problems
    from data_pipelines.shards.shard_set import ShardSet
    from eval.embeddings.encode import data_sha256

    marker = demo.out / "verified.json"
    sets = {spec: ShardSet.open(spec) for spec in demo.specs(demo.tour.splits)}
    sums = {spec: data_sha256(shards) for spec, shards in sets.items()}
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == sums:
        demo.done("the shards are whole")
        return
    with progress_bar("verifying shards", sum(sum(shards.counts) for shards in sets.values())) as advance:
        for url, count in (row for shards in sets.values() for row in zip(shards.urls, shards.counts, strict=True)):
            problem = next(problems(Verify(url)), None)
            if problem:
                raise UserError(f"{problem}; get the data again (git checkout, or vlp shards build)")
            advance(count)
    write_json(sums, marker)


def train(demo: Demo) -> int:
    """The exit status of training; a finished model is not trained again."""
    if (demo.out / "train.json").is_file() and (demo.out / "model" / "model.toml").is_file():
        demo.done(f"the model is in {demo.out / 'model'}")
        return 0
    from train import main as train_main

    # the data come before the caller's flags: a flag given later wins
    first = next((i for i, a in enumerate(demo.preset) if a.startswith("-")), len(demo.preset))
    data = ["--data.shards", f"{demo.data}/{demo.tour.train}", "--out", str(demo.out)]
    return int(train_main([*demo.preset[:first], *data, *demo.preset[first:]]))


def evaluate(demo: Demo, release: Release) -> dict[str, Any]:
    """The report's tree; measured again only if the model or the data changed."""
    path, config = demo.out / "report.json", read(["demo"], folder=demo.data)
    specs = [dataset.spec for dataset, _ in config.by_split().values()]
    if path.is_file():
        tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        same_model = tree.get("model", {}).get("weights_sha256") == release.id
        same_data = [about["spec"] for about in tree.get("data", {}).values()] == specs
        if report.is_current(tree) and same_model and same_data and tree["versions"] == versions():
            demo.done("the test splits are evaluated")
            run.table(tree, demo.console)
            return tree
    parts = run.measure(cached(release, None, Ranks()), config)
    tree = report.assemble(release, parts)
    run.table(tree, demo.console)
    write_queries({name: m for part in parts for name, m in part.measured.items()}, demo.out)
    write_json(tree, path)
    return tree


def index(demo: Demo, release: Release) -> Gallery:
    """The gallery of all unseen pictures."""
    folder = demo.out / "index"
    if (folder / "index.toml").is_file():
        gallery = Gallery.open(folder)
        if gallery.about["model"]["id"] == release.id:
            demo.done(f"{len(gallery.vectors):,} pictures are indexed")
            return gallery
    return build_gallery(release, "::".join(demo.specs(demo.tour.gallery)), folder, kind=Flat())


def ask(demo: Demo, release: Release, gallery: Gallery) -> list[Answer]:
    """The answers to the questions in words and to the one by a picture."""
    tour = demo.tour
    answers = [ask_text(gallery, release, q.text, tour.hits, note=q.note) for q in tour.questions]
    answers.append(ask_picture(gallery, release, training_picture(demo), tour.hits, note=tour.picture.note))
    for answer in answers:
        print_answer(answer, demo.console, most=3)
    return answers


def training_picture(demo: Demo) -> bytes:
    """The picture of the training split to ask by, or the first where none has its caption."""
    from data_pipelines.ledger import Ledger
    from data_pipelines.shards.read_samples import read_samples
    from data_pipelines.shards.shard_set import ShardSet

    first = b""
    for sample in read_samples(ShardSet.open(f"{demo.data}/{demo.tour.train}"), skip=Ledger()):
        first = first or sample.image
        if demo.tour.picture.text in sample.captions.values():
            return sample.image
    return first


def what_next(demo: Demo, tree: dict[str, Any]) -> None:
    """The last lines: where to look, and what to try."""
    state = json.loads(demo.state.read_text(encoding="utf-8"))
    seconds = round(sum(state["seconds"].values()))
    trained = round(tree["train"].get("seconds", 0))
    beside = Path(sys.executable).parent / "vlp"
    vlp = "vlp" if shutil.which("vlp") or not beside.is_file() else str(beside)
    say: Callable[[str], None] = lambda line: demo.console.print(line, highlight=False, soft_wrap=True)  # noqa: E731
    demo.console.rule("[bold]done", align="left")
    say(f"{seconds // 60}:{seconds % 60:02d} minutes, {trained // 60}:{trained % 60:02d} of them training")
    say(f"\nlook at    [bold]{demo.out / 'report.html'}[/]")
    say(f'try next   {vlp} search {demo.out / "index"} "a happy cat" --html matches.html')
    say(f"           {vlp} search {demo.out / 'index'} --image some_picture.png --grid matches.png")
    say(f"           {vlp} serve {demo.out / 'index'}")
    say(f"           {vlp} eval {demo.out / 'model'} {demo.data}/{demo.tour.gallery[0]} --languages zh")
    say(f"           {vlp} train demo --training.samples 1000000 --out runs/longer")


def main(argv: list[str]) -> int:
    """`vlp demo [--out FOLDER] [training flags]`."""

    def command(
        *,
        out: Path = Path("runs/demo"),
        preset: str = "demo",
        data: str = "bundled:emoji",
    ) -> tuple[Path, str, str]:
        """Its own flags; all others go to the training."""
        return out, preset, data

    if any(flag in ("-h", "--help") for flag in argv):
        print(help_text())
        return 0
    (out, preset, data), flags = tyro.cli(command, args=argv, prog="vlp demo", return_unknown_args=True)
    demo = Demo(out, data, [preset, *flags])
    return run_stages(demo)


def help_text() -> str:
    """The text of `vlp demo --help`: its own flags, and those of the training that people set first."""
    from train import RunConfig

    own = [
        ("--out", "runs/demo", "folder for the model, the index, report.json and report.html"),
        ("--preset", "demo", "the preset to train"),
        ("--data", "bundled:emoji", "where the splits train, val, test_... are"),
    ]
    rows = [row for row in common(build(RunConfig, read_preset("demo"))) if row[0] not in ("--out", "--data.shards")]
    lines = [
        "usage: vlp demo [FLAGS]",
        "",
        "Train, evaluate, index and search on the bundled data; then open OUT/report.html. Give the same command again",
        "after an interruption: it goes on where it was.",
        "",
        *table(own),
        "",
        "Flags of the training, those that people set first and their values in the preset:",
        "",
        *table(rows),
        "",
        "vlp train demo --help-all lists every flag.",
    ]
    return "\n".join(lines)


def run_stages(demo: Demo) -> int:
    """Every stage in order; the exit status."""
    from vlp.models import release as releases

    demo.begin()
    with demo.stage("verify the data", 1):
        verify(demo)
    with demo.stage("train", 2):
        status = train(demo)
    if status:
        return status
    release = releases.load(demo.out / "model")
    with demo.stage("evaluate on unseen pictures", 3):
        tree = evaluate(demo, release)
    with demo.stage("index the unseen pictures", 4):
        gallery = index(demo, release)
    with demo.stage("ask questions", 5):
        answers = ask(demo, release, gallery)
        page = report_page(tree, run=demo.out, answers=answers, about_answers=demo.tour.about_gallery)
        write_whole(demo.out / "report.html", page)
    what_next(demo, tree)
    return 0
