"""Shared random numbers for generation: several processes sample the same completions as a single process.

Each token is drawn with one uniform number. A single process draws the numbers for all active rows, in row
order, token by token. With several processes, every rank draws the numbers of all ranks from the same
generator state and uses those of its own rows. For that, the ranks exchange their numbers of active rows, and
whether to stop, before each token. A rank whose rows have all ended continues to draw until the other ranks
are done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ida_tui.engine.rollout.progress import RolloutCounts

if TYPE_CHECKING:
    from ida_tui.engine.distributed.process_group import ProcessGroup


class SharedSampler:
    """Random numbers of one rollout on several ranks.

    Args:
        process_group: the processes; each generates a contiguous part of the step's rows.
        rows: the step's completions, over all ranks.
    """

    def __init__(self, process_group: ProcessGroup, rows: int) -> None:
        self._process_group = process_group
        self._rows = self._active_rows = rows
        self._tokens = 0
        self.stopped = False
        """Whether a stop was requested on some rank."""

    def counts(self) -> RolloutCounts:
        """Progress of the rollout, over all ranks."""
        return RolloutCounts(self._tokens, self._rows - self._active_rows, self._rows)

    def next_uniforms(
        self, active_rows: int, stop: bool, device: torch.device
    ) -> torch.Tensor | None:
        """Draw the numbers for the next token of this rank's rows.

        Args:
            active_rows: number of this rank's rows that have not ended.
            stop: whether a stop was requested on this rank.
            device: the device to draw on.

        Returns:
            Uniform numbers in [0, 1), (active_rows, 1); None after a stop, or if no rank has active rows.

        Raises:
            PeerLostError: another process of the run has exited.
        """
        active_by_rank, stop_by_rank = self._process_group.all_gather_ints(active_rows, int(stop))
        total, offset = sum(active_by_rank), sum(active_by_rank[: self._process_group.rank])
        self.stopped = any(stop_by_rank)
        if self.stopped or not total:
            return None
        self._tokens, self._active_rows = self._tokens + total, total
        return torch.rand(total, 1, device=device)[offset : offset + active_rows]
