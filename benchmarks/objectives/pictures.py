"""Two pictures of the record: every gain with its interval, and gain against what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.objectives.recipes import DEMO

Row = Mapping[str, Any]
INK, QUIET, PAYS, WORSE = "#1f2933", "#9aa5b1", "#0b7a4b", "#b3261e"
FLOOR = -0.06  # what loses more is named at the edge: one recipe that fails would squeeze all others


def draw(rows: Sequence[Row], folder: Path) -> dict[Path, str]:
    """Write objectives_gain.png and objectives_cost.png: each with what it shows."""
    compared = [row for row in rows if not row.get("failed") and row.get("recipe") != DEMO and "gain" in row]
    as_is = [row for row in compared if row["condition"] == "as is" and row.get("split", "val") == "val"]
    stages = {stage: [row for row in as_is if row["stage"] == stage] for stage in ("screen", "race", "report")}
    if not as_is:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    return {
        intervals(stages, folder / "objectives_gain.png"): "the gain of each recipe, with its interval",
        costs(stages, folder / "objectives_cost.png"): "gain against time and memory",
    }


def intervals(stages: Mapping[str, Sequence[Row]], path: Path) -> Path:
    """A line a recipe, the best of the last stage on top: grey without a verdict, and coloured where there is one."""
    import matplotlib.pyplot as plt

    best: dict[str, float] = {}
    for some in stages.values():  # a later stage says more than an earlier one
        best |= {row["recipe"]: row["gain"] + 10 * (some is not stages["screen"]) for row in some}
    names = sorted(best, key=lambda name: best[name])
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.3 * len(names)), layout="constrained")
    looks = {"screen": (0.0, 3.5, 1.0), "race": (0.18, 5.0, 2.0), "report": (-0.18, 6.5, 2.6)}
    for stage, (offset, size, width) in looks.items():
        for row in stages[stage]:
            place, (low, high) = names.index(row["recipe"]) + offset, row["interval"]
            colour = QUIET if stage == "screen" else colour_of(row)
            if row["gain"] < FLOOR:
                axes.text(FLOOR, place, f"◂ {row['gain']:.3f}", color=colour, va="center", fontsize=9)
                continue
            low = max(low, FLOOR)
            axes.plot([low, high], [place, place], color=colour, linewidth=width, solid_capstyle="butt")
            axes.plot(row["gain"], place, "o" if stage != "report" else "D", color=colour, markersize=size)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel("gain in mean reciprocal rank on val, at equal pairs")
    legend(axes, {stage: looks[stage][1] for stage, some in stages.items() if some})
    axes.grid(axis="x", color="#e4e7eb")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return saved(figure, path)


def legend(axes: Any, sizes: Mapping[str, float]) -> None:
    """What the three kinds of dots are."""
    words = {
        "screen": "screen: one seed, 95 % interval",
        "race": "race: three seeds, corrected interval",
        "report": "report: three seeds, corrected interval",
    }
    for stage, size in sizes.items():
        colour = QUIET if stage == "screen" else INK
        axes.plot([], [], "o-" if stage != "report" else "D-", color=colour, markersize=size, label=words[stage])
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1, frameon=False, fontsize=9)


def costs(stages: Mapping[str, Sequence[Row]], path: Path) -> Path:
    """Gain against time; the size of a dot is the memory beyond `demo`'s."""
    import matplotlib.pyplot as plt

    last = {row["recipe"]: row for some in stages.values() for row in some}
    figure, axes = plt.subplots(figsize=(9, 8), layout="constrained")
    shown = {name: row for name, row in last.items() if row["gain"] >= FLOOR}
    for row in shown.values():
        colour = QUIET if row["stage"] == "screen" else colour_of(row)
        size = 20 + max(0.0, row["larger_bytes"]) / 2**20
        axes.scatter(row["slower"], row["gain"], s=size, color=colour, alpha=0.8, linewidths=0)
    below = ", ".join(f"{name} {row['gain']:.3f}" for name, row in last.items() if name not in shown)
    if below:
        axes.set_title(f"below the picture: {below}", fontsize=8, loc="left", wrap=True)
    axes.set_xscale("log")
    axes.set_xticks(ticks := (0.8, 0.9, 1, 1.2, 1.5, 2, 3, 5), [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.7, 1.2 * max(row["slower"] for row in shown.values()))
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xlabel("seconds a pair, as a multiple of demo's (a larger dot: more memory, 1 MiB a unit of area)")
    axes.set_ylabel("gain in mean reciprocal rank on val")
    axes.grid(color="#e4e7eb")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    name_dots(figure, axes, {name: (row["slower"], row["gain"]) for name, row in shown.items()})
    return saved(figure, path)


def name_dots(figure: Any, axes: Any, dots: Mapping[str, tuple[float, float]]) -> None:
    """Each dot's name beside it, in the first of some places where it covers no other name; a thin line leads there."""
    figure.draw_without_rendering()
    taken: list[Any] = []
    near = [
        (x, y)
        for radius in (1, 1.5, 2, 3, 4.5, 6, 8)
        for x, y in ((6, 4), (6, -10), (-6, 4), (-6, -10), (0, 11), (0, -17), (9, 14), (9, -20))
        for x, y in [(x * radius, y * radius)]
    ]
    for name, dot in sorted(dots.items(), key=lambda item: -item[1][1]):
        for place in near:
            side = "left" if place[0] > 0 else "right" if place[0] < 0 else "center"
            line = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.6} if max(map(abs, place)) > 17 else None
            text = axes.annotate(
                name, dot, xytext=place, textcoords="offset points", fontsize=8, ha=side, arrowprops=line
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken) or place == near[-1]:
                taken.append(box)
                break
            text.remove()


def colour_of(row: Row) -> str:
    """Green where it pays, red where it costs, else the colour of ink."""
    return PAYS if row["pays"] else WORSE if row["interval"][1] < 0 else INK


def saved(figure: Any, path: Path) -> Path:
    """Write the picture, and let go of it."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
