"""Judge budget of a run: cost is reserved before each call and committed after it."""

from __future__ import annotations

from ida_tui.judge.errors import JudgeUnavailable


class BudgetSpent(JudgeUnavailable):
    """The next call could exceed the budget."""


class Purse:
    """Judge spending of one run in US dollars. Use it from one thread.

    Args:
        budget: the maximum to spend; None is unlimited.
        spent: what the run has spent before.
    """

    def __init__(self, budget: float | None = None, spent: float = 0.0) -> None:
        self.budget = budget
        self.spent = spent
        self._set_aside = 0.0

    def set_aside(self, most: float) -> None:
        """Reserve the maximum cost of a call before it starts.

        Raises:
            BudgetSpent: together with the calls in progress, it could exceed the budget.
        """
        if self.budget is not None and self.spent + self._set_aside + most > self.budget:
            raise BudgetSpent(
                f"the next call could exceed the judge budget of ${self.budget:g} "
                f"(${self.spent:.4f} spent)",
                "resume with a larger budget: budget=DOLLARS",
            )
        self._set_aside += most

    def settle(self, most: float, cost: float | None) -> None:
        """Replace the reserved `most` by the actual cost after the call; None counts all of `most`."""
        self._set_aside = max(0.0, self._set_aside - most)
        self.spent += most if cost is None else cost
