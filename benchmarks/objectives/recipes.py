"""What is compared: every recipe is preset `demo` at 48 px with some flags changed. To add one, add a line.

Objectives, samplers and teachers keep the defaults of their files, which are the papers' where those say them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PIXELS = ("--model.image-size", "48", "--augment.size", "48")
TEACHER, STORED = "{teacher}", "{stored}"
"""in a flag: the folder of a trained model, and of that model's embeddings of the training set"""

Condition = Literal["as is", "small", "noisy"]
CONDITIONS: Mapping[Condition, tuple[str, ...]] = {
    "as is": (),
    "small": ("--training.batch", "64"),
    "noisy": ("--data.captions.swapped", "0.3"),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One line of the table."""

    flags: tuple[str, ...] = ()
    """for train.py, after preset demo"""
    kind: Literal["objective", "sampler", "teacher", "demo"] = "objective"
    claims: Condition = "as is"
    """the condition in which its paper says that it gains, besides the usual one"""
    paper: str = ""
    """arXiv number of what is compared, as published"""

    @property
    def words(self) -> tuple[str, ...]:
        """Preset and flags."""
        return ("demo", *PIXELS, *self.flags)

    @property
    def needs_teacher(self) -> bool:
        """Whether another model has to be trained first."""
        return any(TEACHER in flag or STORED in flag for flag in self.flags)


def loss(name: str, *more: str) -> tuple[str, ...]:
    """Flags for an objective, and for its fields: "alpha=0.25"."""
    fields = (field.partition("=") for field in more)
    return ("--loss.name", name, *(word for key, _, value in fields for word in (f"--loss.{key}", value)))


DEMO, PLAIN = "demo", "infonce"
FROZEN = ("--teacher.name", "frozen", "--teacher.model", TEACHER)
VECTORS = ("--teacher.name", "stored", "--teacher.folder", STORED)
BESIDE = "base.name=multi_positive"  # what adds to another objective adds to that of `demo`
MOMENTUM = ("--teacher.name", "momentum")
FEATURES = loss("features", BESIDE, "teacher-width=256")
LOOKED_UP = (*FEATURES, *VECTORS)
"""the recipe `features` with vectors that were written once, before the run"""
RECIPES: Mapping[str, Recipe] = {
    DEMO: Recipe(kind="demo", paper="2004.11362"),
    PLAIN: Recipe(flags=loss("infonce"), paper="2103.00020"),
    "smoothed": Recipe(flags=loss("multi_positive", "label-smoothing=0.1"), claims="noisy"),
    "siglip": Recipe(flags=loss("siglip"), claims="small", paper="2303.15343"),
    "dcl": Recipe(flags=loss("dcl"), claims="small", paper="2110.06848"),
    "hn_nce": Recipe(flags=loss("hn_nce"), paper="2301.02280"),
    "macl": Recipe(flags=loss("macl"), claims="small", paper="2207.07874"),
    "contrastive_gap": Recipe(flags=loss("contrastive_gap", BESIDE), paper="2405.18570"),
    "cyclip": Recipe(flags=loss("cyclip", BESIDE), paper="2205.14459"),
    "spectral": Recipe(flags=loss("spectral"), claims="small", paper="2106.04156"),
    "decoupled_uniformity": Recipe(flags=loss("decoupled_uniformity"), claims="small", paper="2206.01646"),
    "kernel": Recipe(flags=loss("kernel"), paper="2303.15103"),
    "cacr": Recipe(flags=loss("cacr"), paper="2105.03746"),
    "barlip": Recipe(flags=loss("barlip", BESIDE), paper="2305.08675"),
    "classes": Recipe(flags=loss("classes", BESIDE, "classes=8192"), paper="2407.17331"),
    "history": Recipe(flags=loss("history", BESIDE), claims="noisy", paper="2302.03357"),
    "isogclr": Recipe(flags=loss("isogclr"), claims="small", paper="2305.11965"),
    "alip": Recipe(flags=loss("alip", BESIDE), claims="noisy", paper="2308.08428"),
    "counting": Recipe(flags=(*loss("counting", BESIDE), "--data.negatives.name", "count"), paper="2302.12066"),
    "attributes": Recipe(flags=("--data.negatives.name", "attribute"), kind="sampler", paper="2210.01936"),
    "poly_view": Recipe(flags=(*loss("poly_view"), "--data.views", "2"), claims="small", paper="2403.05490"),
    "m3col": Recipe(flags=loss("m3col", BESIDE), paper="2409.17777"),
    "features": Recipe(flags=(*FEATURES, *FROZEN), kind="teacher", paper="2307.12732"),
    "cwcl": Recipe(flags=(*loss("cwcl"), *FROZEN), kind="teacher", paper="2309.14580"),
    "distill": Recipe(
        flags=(*loss("distill", "share=1", "teacher-scale=14"), *FROZEN),
        kind="teacher",
        paper="2207.01426",
    ),
    "ccl_k": Recipe(flags=(*loss("ccl_k"), *VECTORS), kind="teacher", claims="small", paper="2202.05458"),
    "albef": Recipe(flags=(*loss("albef", "queue=4096"), *MOMENTUM), claims="noisy", paper="2107.07651"),
    "moco": Recipe(flags=(*loss("moco", "queue=4096"), *MOMENTUM), claims="small", paper="2103.06561"),
    "mochi": Recipe(
        flags=(*loss("mochi", "queue=4096", "hardest=256", "mixed=64", "own-mixed=32"), *MOMENTUM),
        claims="small",
        paper="2010.01028",
    ),
    "jest": Recipe(flags=("--choose.name", "jest", *FROZEN), kind="sampler", claims="noisy", paper="2406.17711"),
    "neighbours": Recipe(flags=("--plan.order.name", "neighbours"), kind="sampler", paper="2303.11851"),
    "clusters": Recipe(flags=("--plan.order.name", "clusters"), kind="sampler", claims="small", paper="2207.04452"),
}

LEFT_OUT: Mapping[str, str] = {
    "gcl": "It wants a score for each pair (data.weights), and the corpus has none.",
    "negclip": "The text tower of demo is a bag of tokens, for which two words in each other's place are the same "
    "caption; the case word_order asks it of a transformer.",
    "own": "No tower of demo is locked, and an open one does not teach.",
}
"""what could have been compared, and why it is not: a sentence each"""


def together(first: Recipe, second: Recipe) -> tuple[str, ...] | None:
    """The flags of both recipes in one run; None where they contradict each other.

    Of two objectives one has to add to another: it then adds to the other one.
    """
    for inner, outer in ((first, second), (second, first)):
        one, other = in_pairs(inner), in_pairs(outer)
        if "--loss.name" in one and "--loss.name" in other:
            if "--loss.base.name" not in other:
                continue
            one = {key.replace("--loss.", "--loss.base.", 1): value for key, value in one.items()}
            del other["--loss.base.name"]
        if all(other.get(key, value) == value for key, value in one.items()):
            return tuple(word for pair in (other | one).items() for word in pair)
    return None


def in_pairs(recipe: Recipe) -> dict[str, str]:
    """Flag -> value; every flag of the table has one."""
    return dict(zip(recipe.flags[::2], recipe.flags[1::2], strict=True))


def filled(words: Sequence[str], teacher: str = "", stored: str = "") -> tuple[str, ...]:
    """The words with the folders of the teacher and of its embeddings."""
    return tuple(word.replace(TEACHER, teacher).replace(STORED, stored) for word in words)
