"""What a training run leaves beside its metrics: the model folder, its record, and what the data lost."""

from __future__ import annotations

import json
from pathlib import Path

from data_pipelines.ledger import Ledger
from data_pipelines.loading.position import check_losses, merge_states
from vlp.files import write_whole
from vlp.models import Model, release
from vlp.models.adapt.lora import merged
from vlp.models.dual_encoder import DualEncoder
from vlp.models.tokenizer import Tokenizer
from vlp.training.saving import Positions
from vlp.training.trainer import Fitted

LEDGER = "ledger.json"  # in the run's folder: what was delivered, and what was not, by reason and shard


def record_losses(out: Path, streams: Positions, budget: float) -> None:
    """Write down what all ranks lost. Raises DropBudgetExceeded if together they lost more than the budget."""
    merged_states = merge_states(streams)
    Ledger.of(merged_states["ledger"]).save(out / LEDGER)
    check_losses(merged_states, budget)


def finish(out: Path, config: Model, fitted: Fitted, tokenizer: Tokenizer, *, notes: dict[str, str]) -> None:
    """Write OUT/model, of which `notes` are said, and OUT/train.json, on rank 0."""
    trained = merged(fitted.model)
    assert isinstance(trained, DualEncoder)
    id = release.save(out / "model", config=config, encoder=trained, tokenizer=tokenizer, notes=notes)
    record = {
        "model_id": id,
        "steps": fitted.steps,
        "samples": fitted.samples,
        "seconds": round(fitted.seconds, 2),
        "samples_per_second": round(fitted.samples_per_second, 2),
        "refused_steps": fitted.refused,
        "seed": int(notes["seed"]),
    }
    write_whole(out / "train.json", json.dumps(record, indent=1) + "\n")
    ledger = Ledger.read(out / LEDGER)
    print(f"{ledger.sentence()}; by reason and shard: {out / LEDGER}")
    rate = f"{fitted.samples_per_second:.0f} pairs/s"
    print(f"trained on {fitted.samples:,} pairs in {fitted.seconds:.0f} s ({rate}); the model is in {out / 'model'}")
