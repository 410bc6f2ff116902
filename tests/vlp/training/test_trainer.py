from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Poisoned, Tiny, TinyStream, pairs, trainer
from torch import Tensor

from vlp.augment import Draws
from vlp.batch import Batch
from vlp.errors import UserError
from vlp.losses import Side
from vlp.losses.infonce import InfoNCE
from vlp.losses.siglip import SigLIP
from vlp.training.checkpoints.folder import Checkpoints, Keep
from vlp.training.checkpoints.place import Folder
from vlp.training.guard import Guard
from vlp.training.optimizers.adamw import AdamW
from vlp.training.optimizers.muon import Muon
from vlp.training.trainer import Training

BEFORE = Path(__file__).parents[2] / "written_before"
BASE = Training(samples=12 * 16, batch=16, log_every=3, ema=0.9, tensorboard=False, checkpoint_every=1e9)


def rows(folder: Path) -> list[dict[str, Any]]:
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k and k != "memory_mib"} for row in logged]


def brighter(image: Tensor, draws: Draws) -> Tensor:
    return image + draws.uniform(0, 20, 1, 1, 1)


class Stop(Exception):
    pass


class BreaksAfter(TinyStream):
    """A stream whose machine fails when it is asked for one batch too many."""

    def __init__(self, state: Any, *, batches: int, batch: int) -> None:
        super().__init__(state, batch=batch)
        self.left = batches

    def __iter__(self):  # type: ignore[no-untyped-def]
        for batch in super().__iter__():
            if self.left == 0:
                raise Stop
            self.left -= 1
            yield batch


def test_the_loss_falls_and_everything_is_written(tmp_path: Path) -> None:
    training = replace(BASE, samples=2000, tensorboard=True)
    evals = {"val": lambda model: {"pairs": float(model.training)}}
    fitted = trainer(tmp_path, replace(training, eval_every=50), evals=evals).fit()
    logged = rows(tmp_path)
    assert logged[-2]["loss"] < 0.7 * logged[0]["loss"]
    assert fitted.steps == training.steps == 125
    assert fitted.samples == logged[-1]["samples"] == 2000
    assert fitted.metrics == {"val/pairs": 0.0}  # models are evaluated in evaluation mode
    assert [r["step"] for r in logged if "val/pairs" in r] == [50, 100, 125]
    assert [r["step"] for r in logged if "loss" in r] == [*range(3, 125, 3), 125]
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert not fitted.model.training


@pytest.mark.parametrize(
    "changes",
    [{}, {"chunk": 4}, {"optimizer": Muon(), "ema": 0.0}],
    ids=["whole", "cached", "muon"],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    training = replace(BASE, **changes)
    whole = trainer(tmp_path / "whole", training, augment=brighter).fit()

    broken = replace(training, checkpoint_every=0.0, log_every=2)  # neither changes the result
    first = trainer(tmp_path / "parts", broken, augment=brighter)
    stream = lambda state: BreaksAfter(state, batches=7, batch=16)  # noqa: E731
    with pytest.raises(Stop):
        replace(first, open_stream=stream).fit()
    # the second part begins with another model and other random numbers about
    again = trainer(tmp_path / "parts", broken, model=Tiny(seed=5), augment=brighter).fit()

    for (name, a), b in zip(whole.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert again.steps == whole.steps
    straight = trainer(tmp_path / "straight", replace(broken, keep=1), augment=brighter)
    straight.fit()
    assert rows(tmp_path / "parts") == rows(tmp_path / "straight")


def test_rows_after_the_checkpoint_are_not_written_twice(tmp_path: Path) -> None:
    late = replace(BASE, checkpoint_every=1e9, log_every=1)
    stream = lambda state: BreaksAfter(state, batches=7, batch=16)  # noqa: E731
    with pytest.raises(Stop):
        replace(trainer(tmp_path, late), open_stream=stream).fit()
    assert [r["step"] for r in rows(tmp_path)] == list(range(1, 8))
    trainer(tmp_path, late).fit()
    assert [r["step"] for r in rows(tmp_path)] == list(range(1, 13))


def test_a_run_of_the_format_before_goes_on(tmp_path: Path) -> None:
    """From a checkpoint that the version before wrote after seven steps, to the weights that it came to."""
    shutil.copytree(BEFORE / "run", tmp_path / "run")
    training = replace(BASE, checkpoint_every=0.0, keep=1, precision="fp32")
    fitted = trainer(tmp_path / "run", training, model=Tiny(seed=5)).fit()
    then = torch.load(BEFORE / "run" / "final.pt", weights_only=True)
    torch.testing.assert_close(dict(fitted.model.state_dict()), then, rtol=1e-4, atol=1e-5)
    assert [r["step"] for r in rows(tmp_path / "run")] == [9, 12]
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000012"]


def test_a_finished_run_is_given_back_as_it_is(tmp_path: Path) -> None:
    first = trainer(tmp_path, BASE).fit()
    again = trainer(tmp_path, BASE, model=Tiny(seed=9)).fit()
    assert again.steps == first.steps
    assert again.seconds == first.seconds
    assert torch.equal(first.model.text.weight, again.model.text.weight)


def test_resume_false_starts_over(tmp_path: Path) -> None:
    trainer(tmp_path, BASE).fit()
    shorter = replace(BASE, samples=48, resume=False)
    assert trainer(tmp_path, shorter).fit().steps == 3
    assert [r["step"] for r in rows(tmp_path)] == [3]


@pytest.mark.parametrize(
    ("changes", "parts", "named"),
    [
        ({"seed": 1}, {}, "training.seed is 0, here it is 1"),
        ({"optimizer": Muon()}, {}, "training.optimizer"),
        ({}, {"loss": SigLIP()}, "loss.kind"),
        ({}, {"identity": {"data": {"spec": "other"}}}, "data.spec is nothing, here it is other"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    tmp_path: Path, changes: dict[str, Any], parts: dict[str, Any], named: str
) -> None:
    trainer(tmp_path, BASE).fit()
    with pytest.raises(UserError, match=named):
        trainer(tmp_path, replace(BASE, **changes), **parts).fit()


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, BASE).fit()
    model = Tiny()
    model.text = torch.nn.Embedding(50, 16)
    with pytest.raises(UserError, match=r"weight.text.weight is \(40, 16\), here it is \(50, 16\)"):
        trainer(tmp_path, BASE, model=model).fit()


def test_a_bad_batch_leaves_no_trace(tmp_path: Path) -> None:
    run = replace(trainer(tmp_path, BASE), open_stream=lambda state: Poisoned(state, batch=16, bad=range(4, 6)))
    fitted = run.fit()
    assert fitted.refused == 2
    assert all(v.isfinite().all() for v in fitted.model.state_dict().values())  # running statistics too
    assert all(r["loss"] is not None for r in rows(tmp_path))


def test_nothing_but_bad_batches_end_the_run_with_a_sentence(tmp_path: Path) -> None:
    run = replace(trainer(tmp_path, BASE), open_stream=lambda state: Poisoned(state, batch=16, bad=range(4, 10**6)))
    with pytest.raises(UserError, match=r"not finite .*lower training.optimizer.lr"):
        replace(run, training=replace(BASE, samples=10_000)).fit()


def test_the_scale_stays_in_its_bounds(tmp_path: Path) -> None:
    model = Tiny()
    model.logit_scale.data.fill_(6.0)
    fitted = trainer(tmp_path, replace(BASE, max_scale=50.0, ema=0.0), model=model).fit()
    assert fitted.model.logit_scale.exp().item() <= 50.001


def test_too_large_a_batch_is_refused_before_data_are_opened(tmp_path: Path) -> None:
    def never(state: Any) -> TinyStream:
        raise AssertionError("the stream was opened")

    example: Batch = pairs(0, 4)
    huge = replace(trainer(tmp_path, replace(BASE, batch=2**28, samples=2**30), example=example), open_stream=never)
    with pytest.raises(UserError, match=r"needs about .* GiB per process .* are free"):
        huge.fit()
    trainer(tmp_path, BASE, example=example).fit()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"samples": 0}, "training.samples"), ({"ema": 1.0}, "training.ema"), ({"clip": -1.0}, "training.clip")],
)
def test_impossible_settings_are_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        replace(BASE, **changes)


def test_mixed_precision_is_gone_from_the_model_afterwards(tmp_path: Path) -> None:
    """bf16 after fp32 in one process, and fp32 after bf16: accelerate's state is global."""
    losses = {}
    for precision in ("fp32", "bf16", "auto"):
        model = Tiny()
        fitted = trainer(tmp_path / precision, replace(BASE, precision=precision, ema=0.0), model=model).fit()
        assert fitted.model is model
        assert "forward" not in vars(model)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        losses[precision] = rows(tmp_path / precision)[-1]["loss"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert losses["bf16"] != losses["fp32"]
    assert losses["auto"] in (losses["bf16"], losses["fp32"])


@dataclass(frozen=True, kw_only=True)
class NanWhilePoisoned(InfoNCE):
    """InfoNCE that is NaN while `folder` holds a file called poison."""

    folder: str = ""

    def each(self, side: Side) -> Tensor:
        value = super().each(side)
        return value * float("nan") if (Path(self.folder) / "poison").exists() else value


def test_a_run_that_the_guard_stopped_goes_on_from_its_last_good_checkpoint_at_a_lower_rate(tmp_path: Path) -> None:
    few = {"samples": 12 * 16, "batch": 16, "checkpoint_every": 0.0, "log_every": 1, "tensorboard": False, "keep": 2}
    guard = Guard(patience=4)
    run = tmp_path / "run"

    def poison(positions: object) -> None:
        if len(list((run / "checkpoints").glob("step-*"))) == 2 and not (tmp_path / "poison").exists():
            (tmp_path / "poison").touch()

    parts = {"model": Tiny(), "loss": NanWhilePoisoned(folder=str(tmp_path)), "saving": poison}
    with pytest.raises(UserError, match=r"4 steps in a row were refused.*--training.resume-from good"):
        trainer(run, Training(guard=guard, **few), **parts).fit()  # type: ignore[arg-type]
    good = Checkpoints(Folder(run / "checkpoints"), Keep(2)).good()
    assert len(good) == 2  # the ones of refused steps did not push them out
    (tmp_path / "poison").unlink()
    lower = Training(guard=guard, optimizer=AdamW(lr=1e-4), resume_from="good", **few)  # type: ignore[arg-type]
    fitted = trainer(run, lower, model=Tiny(), loss=NanWhilePoisoned(folder=str(tmp_path))).fit()
    assert fitted.steps == 12
    assert fitted.refused == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert max(row["learning_rate"] for row in rows[-6:]) <= 1e-4
