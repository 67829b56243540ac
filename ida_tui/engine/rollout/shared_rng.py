"""Sampling a step's rows on several processes with the random numbers that one process would draw.

A token of a row is drawn with one uniform number. One process draws them for all rows that have not ended
yet, in their order, token after token. Here every rank draws all of them, from the same state, and takes
those of its own rows: before each token the ranks tell each other how many rows they have left, which is
also where they agree to stop. A rank whose rows have all ended goes on drawing until the last one has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ida_tui.engine.distributed.process_group import Ranks


class Lockstep:
    """One rollout of several ranks.

    Args:
        ranks: the processes; each samples its part of the step's rows in order.
        rows: the step's completions, over all ranks.
    """

    def __init__(self, ranks: Ranks, rows: int) -> None:
        self._ranks = ranks
        self.rows = rows
        self.tokens = 0
        """Sampled so far, over all ranks."""
        self._alive = rows
        self.stopped = False
        """Whether somebody asked to stop."""

    def counts(self) -> tuple[int, int, int]:
        """Tokens, rows that have ended, and rows, over all ranks."""
        return self.tokens, self.rows - self._alive, self.rows

    def numbers(self, alive: int, stop: bool, device: torch.device) -> torch.Tensor | None:
        """The numbers for the next token of this rank's rows.

        Args:
            alive: rows of this rank that have not ended.
            stop: whether this rank was asked to stop.
            device: where they are drawn.

        Returns:
            (alive, 1), uniform; None where no rank has a row left, or one was asked to stop.

        Raises:
            RankLost: a rank is gone.
        """
        found = self._ranks.numbers(alive, int(stop))
        counts, stops = found[::2], found[1::2]
        total, before = sum(counts), sum(counts[: self._ranks.rank])
        self.stopped = any(stops)
        if self.stopped or not total:
            return None
        self.tokens, self._alive = self.tokens + total, total
        return torch.rand(total, 1, device=device)[before : before + alive]
