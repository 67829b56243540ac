"""Shared random numbers for generation: several processes sample the same completions as one.

Each token is drawn with one uniform number. A single process draws the numbers for all active rows, in row
order, token by token. With several processes, every rank draws the numbers of all ranks from the same
generator state and uses those of its own rows. For that, the ranks exchange their numbers of active rows, and
whether to stop, before each token. A rank whose rows have all ended continues to draw until the other ranks
are done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

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
        self.rows = rows
        self.tokens = 0
        """Tokens generated so far, over all ranks."""
        self._active_rows = rows
        self.stopped = False
        """Whether a stop was requested on some rank."""

    def counts(self) -> tuple[int, int, int]:
        """Tokens generated, rows ended, and rows, over all ranks."""
        return self.tokens, self.rows - self._active_rows, self.rows

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
        gathered = self._process_group.all_gather_ints(active_rows, int(stop))
        counts, stops = gathered[::2], gathered[1::2]
        total, offset = sum(counts), sum(counts[: self._process_group.rank])
        self.stopped = any(stops)
        if self.stopped or not total:
            return None
        self.tokens, self._active_rows = self.tokens + total, total
        return torch.rand(total, 1, device=device)[offset : offset + active_rows]
