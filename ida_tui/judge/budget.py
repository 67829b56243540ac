"""Judge budget of a run: cost is reserved before each call and committed after it."""

from __future__ import annotations

from ida_tui.judge.errors import JudgeUnavailable


class BudgetExceeded(JudgeUnavailable):
    """The next call could exceed the budget."""


class Budget:
    """Judge spending of one run in US dollars. Use it from one thread.

    Args:
        limit: the maximum to spend; None is unlimited.
        spent: what the run has spent before.
    """

    def __init__(self, limit: float | None = None, spent: float = 0.0) -> None:
        self.limit = limit
        self.spent = spent
        self._reserved = 0.0

    def reserve(self, max_cost: float) -> None:
        """Reserve the maximum cost of a call before it starts.

        Raises:
            BudgetExceeded: together with the calls in progress, it could exceed the budget.
        """
        if self.limit is not None and self.spent + self._reserved + max_cost > self.limit:
            raise BudgetExceeded(
                f"the next call could exceed the judge budget of ${self.limit:g} "
                f"(${self.spent:.4f} spent)",
                "resume with a larger budget: budget=DOLLARS",
            )
        self._reserved += max_cost

    def commit(self, reserved: float, cost: float | None) -> None:
        """Replace the `reserved` amount by the actual cost after the call; None counts all of it."""
        self._reserved = max(0.0, self._reserved - reserved)
        self.spent += reserved if cost is None else cost
