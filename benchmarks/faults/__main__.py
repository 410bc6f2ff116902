"""Attack runs, folders, streams and readers at random moments, and count what goes wrong.

python -m benchmarks.faults --json benchmarks/results/faults.json        a quarter of an hour on two cores
python -m benchmarks.faults --only blame strangers --seed 7              two of the attacks, with their moments again
"""

from __future__ import annotations

import argparse
import random
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import record
from benchmarks.faults import answers, blame, bombs, damaged, index_kills, kills, strangers, writers

Counts = dict[str, tuple[int, str]]
ATTACKS: dict[str, Callable[[Path, random.Random, int], Counts]] = {
    "damaged": damaged.attack,
    "answers": answers.attack,
    "bombs": bombs.attack,
    "blame": blame.attack,
    "strangers": strangers.attack,
    "writers": writers.attack,
    "kills": kills.attack,
    "index_kills": index_kills.attack,
}
FULL = {
    "damaged": 40,
    "answers": 10,
    "bombs": 65,
    "blame": 30,
    "strangers": 3,
    "writers": 3,
    "kills": 40,
    "index_kills": 60,
}
QUICK = {
    "damaged": 6,
    "answers": 10,
    "bombs": 65,
    "blame": 5,
    "strangers": 1,
    "writers": 1,
    "kills": 4,
    "index_kills": 5,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), default=list(ATTACKS))
    parser.add_argument("--quick", action="store_true", help="few attacks of each kind")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    rows, about = [], record.conditions(("torch", "open_clip_torch", "faiss-cpu"), threads=1)
    for name in options.only:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"vlp-faults-{name}-") as folder:
            size = (QUICK if options.quick else FULL)[name]
            counts = ATTACKS[name](Path(folder), random.Random(f"{options.seed} {name}"), size)
        for case, (count, unit) in counts.items():
            rows.append(record.row(f"{name}.{case}", unit, [count]))
            print(f"{name}.{case}: {count} {unit} ({time.monotonic() - begun:.0f} s)", flush=True)
    record.write(options.json, {**about, "seed": options.seed}, rows)


if __name__ == "__main__":
    main()
