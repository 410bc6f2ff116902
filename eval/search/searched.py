"""Tasks whose candidates are ranked: all of them, or through an index, and then with what the index costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from eval.index import Index
from eval.metrics.ranking import Floats, Ints, Relevant, first_relevant_rank
from eval.search.build import chosen_kind
from eval.search.ranks import ranks_through
from eval.tasks import Measured, Task, mean_of


@dataclass(frozen=True, kw_only=True)
class Searched(Task):
    """Base of tasks that give Recall@K of queries among candidates."""

    index: tuple[str, ...] = ()
    """rank through an index of this kind (flat, ivf, hnsw, pq) with these settings, such as ivf probes=32; flat is
    exact, and another kind reports what it loses; none: every candidate is compared"""

    def __post_init__(self) -> None:
        """Raise UserError for an unknown kind of index or setting of one."""
        self.kind()

    def kind(self) -> Index | None:
        """The kind of index that is searched; None where all candidates are compared."""
        return chosen_kind(self.index[0], self.index[1:]) if self.index else None

    def ranked(
        self,
        queries: Floats,
        candidates: Floats,
        relevant: Relevant,
        measure: Callable[[Ints], dict[str, Measured]],
        *,
        most: int,
    ) -> dict[str, Measured]:
        """`measure` of the ranks [Q] of the first relevant candidates, of which those below `most` matter.

        Through an approximate index there is NAME/lost beside each: what exact search gives, less what the index gives.
        """
        kind = self.kind()
        if kind is None:
            return measure(first_relevant_rank(queries, candidates, relevant))
        through = measure(ranks_through(kind, queries, candidates, relevant, most=most))
        if kind.exact:
            return through
        exact = measure(first_relevant_rank(queries, candidates, relevant))
        return through | {f"{name}/lost": self._lost(exact[name], measured) for name, measured in through.items()}

    def _lost(self, exact: Measured, through: Measured) -> Measured:
        """What the index loses of a mean over queries, which both have."""
        assert exact.per_query is not None
        assert through.per_query is not None
        assert through.queries_by is not None
        words = replace(
            through.presentation,
            measure=f"{through.presentation.measure} lost",
            explains=f"lost: what the index {self.index[0]} loses of it against exact search.",
            headline="",
            primary=False,
        )
        return mean_of(
            exact.per_query - through.per_query,
            through.queries_by,
            candidates=through.candidates,
            chance=None,
            seed=self.seed,
            presentation=words,
            groups=through.groups,
            better="lower",
        )
