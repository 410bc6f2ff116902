"""The one progress bar of evaluation: done, rate and time to go, on stderr so that stdout stays data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vlp.legible import plain


@contextmanager
def progress_bar(
    what: str, total: int | None, *, unit: str = "pictures", show: bool = True
) -> Iterator[Callable[[int], None]]:
    """A bar to be advanced by calling what it gives, with the number of things done since the last call.

    show: False where another bar is on the screen already, such as that of training.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Task as Row
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Row) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {unit}/s" if speed else "", style="cyan", no_wrap=True)

    label = TextColumn("{task.description}", markup=False)
    columns = (label, BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn(elapsed_when_finished=True))
    with Progress(*columns, console=Console(stderr=True), disable=not show) as progress:
        row = progress.add_task(plain(what, 60), total=total)
        yield lambda done: progress.advance(row, done)
