"""What a run may spend on its judge: money is set aside before a call, and counted after it."""

from __future__ import annotations

from ida_tui.judge.errors import JudgeUnavailable


class BudgetSpent(JudgeUnavailable):
    """The next call could cost more than is left of the budget."""


class Purse:
    """US dollars of one run. Use it from one thread.

    Args:
        budget: the most that may be spent; null is no limit.
        spent: what was spent before, by the same run.
    """

    def __init__(self, budget: float | None = None, spent: float = 0.0) -> None:
        self.budget = budget
        self.spent = spent
        self._set_aside = 0.0

    def set_aside(self, most: float) -> None:
        """Before a call that costs at most so much.

        Raises:
            BudgetSpent: with everything that is under way it could pass the budget.
        """
        if self.budget is not None and self.spent + self._set_aside + most > self.budget:
            raise BudgetSpent(
                f"the judge's budget of ${self.budget:g} would be passed: ${self.spent:.4f} is spent",
                "go on with a larger one: budget=DOLLARS",
            )
        self._set_aside += most

    def settle(self, most: float, cost: float | None) -> None:
        """After the call: what it cost; null where that is not known, and all of it counts."""
        self._set_aside = max(0.0, self._set_aside - most)
        self.spent += most if cost is None else cost
