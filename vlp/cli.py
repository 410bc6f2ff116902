"""`vlp COMMAND ...`: a table of commands, each imported only when it is used (so `vlp --help` needs no torch)."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from vlp import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("eval.demo:main", "everything on the bundled data: train, evaluate, index, search, report"),
    "shards build": (
        "data_pipelines.commands.build:main",
        "any source of image-text pairs -> tar shards with a manifest",
    ),
    "shards merge": ("data_pipelines.commands.merge:main", "the parts of a build over many jobs -> one shard set"),
    "shards verify": ("data_pipelines.commands.verify:main", "check sums, counts and every picture of a shard set"),
    "shards show": ("data_pipelines.commands.show:main", "a contact sheet of a shard set, to look at"),
    "shards stats": (
        "data_pipelines.commands.stats:main",
        "what a shard set holds: picture sizes, captions, repetitions; a page",
    ),
    "shards reshard": (
        "data_pipelines.commands.reshard:main",
        "the same samples in tars of another size, shuffled if you like",
    ),
    "shards filter": (
        "eval.filtering.command:main",
        "which samples stay, by their embeddings: CLIP score, near-duplicates, a reference, test sets",
    ),
    "train": ("train:main", "train a preset (the same program as train.py under torchrun or accelerate launch)"),
    "eval": ("eval.run:main", "evaluate a model: table, report.json, report.html"),
    "compare": (
        "eval.compare:main",
        "models on the same queries: which differences are more than chance? a page; one table of many",
    ),
    "blend": (
        "eval.blend:main",
        "the weights between two models (WiSE-FT): a model folder, or how they score along the way",
    ),
    "embed": ("eval.embeddings.embed:main", "a model's embeddings of a shard set, resumable, one part per shard"),
    "index build": ("eval.search.build:main", "a FAISS index over the pictures of a shard set"),
    "index add": ("eval.search.live:add_main", "more pictures for an index, without building it again"),
    "index remove": ("eval.search.live:remove_main", "an index without some pictures"),
    "index update": ("eval.search.live:update_main", "pictures in the place of those with the same keys"),
    "index compact": ("eval.search.live:compact_main", "an index trained anew on what it holds now"),
    "index verify": ("eval.search.verify:main", "check sums of an index, and that every vector has its row"),
    "search": ("eval.search.query:main", "ask an index by texts and pictures, one question or a file of them"),
    "classify": ("eval.search.classify:main", "every picture of an index its class, by a list of classes alone"),
    "serve": ("eval.service.serve:main", "an index as a page and as an interface for programs"),
    "import": (
        "eval.exchange:import_main",
        "a model of open_clip or transformers -> a model folder, compared on pictures",
    ),
    "export": ("eval.exchange:export_main", "a model folder -> open_clip, transformers or ONNX, compared on pictures"),
    "doctor": ("eval.doctor:main", "where the time of a training step goes, what bounds a run, what to change"),
    "plan index": (
        "eval.plan_index:main",
        "what an index of millions or billions of vectors will cost: memory, disk, hours by ranks",
    ),
    "plan run": ("eval.plan_run:main", "what a whole run will cost on a cluster: hours, storage, cores, failures"),
    "plan": (
        "vlp.distributed.plan.table:main",
        "what a run will cost per strategy of sharing negatives: bytes, memory, time",
    ),
}


def usage() -> str:
    """The text of `vlp --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    head = "usage: vlp COMMAND [arguments]      (vlp COMMAND --help tells more; vlp --version)\n\ncommands:\n"
    return head + "\n".join(lines) + "\n\nstart with:  vlp demo"


def run(argv: Sequence[str]) -> int:
    """Find the command that `argv` names and run it."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("--version", "-V"):
        print(f"vlp {__version__}")
        return 0
    for words in (2, 1):
        name = " ".join(argv[:words])
        if len(argv) >= words and name in COMMANDS:
            module, _, function = COMMANDS[name][0].partition(":")
            return int(getattr(importlib.import_module(module), function)(list(argv[words:])) or 0)
    from vlp.config import did_you_mean
    from vlp.errors import UserError

    group = [c for c in COMMANDS if c.split()[0] == argv[0]]
    if group and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        print("\n".join(f"vlp {c:<16} {COMMANDS[c][1]}" for c in group))
        return 0
    asked = " ".join(argv[:2]) if group else argv[0]
    raise UserError(f'no command is called "{asked}"{did_you_mean(asked, list(COMMANDS))}')


def main() -> int:
    """The console command `vlp`; as `python -m vlp.cli` too it imports nothing of the folder it is started in."""
    here = os.getcwd()
    if not os.path.isfile(os.path.join(here, "vlp", "cli.py")):  # in a checkout of vlp, that is what -m is meant for
        sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or here) != here]
    from vlp.config import run_main

    return run_main(run, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
