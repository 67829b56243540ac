"""Shared random numbers for generation: several processes sample the same completions as a single process.

Each token is drawn with one uniform number. A single process draws the numbers for all active rows, in row
order, token by token. With several processes, every rank draws the numbers of all ranks from the same
generator state and uses those of its own rows. For that, the ranks exchange their numbers of active rows, and
whether to stop, before each token. A rank whose rows have all ended continues to draw until the other ranks
are done.

transformers draws each token with `torch.multinomial`, for all rows until the last one has ended. There the
ranks need to exchange only how many tokens they have drawn, at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

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


@contextmanager
def shared_multinomial(process_group: ProcessGroup) -> Iterator[None]:
    """Inside the block, `torch.multinomial` draws for the rows of all ranks and returns those of this rank.

    Args:
        process_group: the processes, each of which has the same generator state and number of rows.
    """
    if process_group.is_single:
        yield
        return
    drawn, noise = 0, torch.empty(0)
    original = torch.multinomial

    def draw_noise() -> torch.Tensor:
        """Numbers for one token of all rows; `torch.multinomial` draws the same."""
        nonlocal drawn
        drawn += 1
        return noise.exponential_(1)

    def multinomial(weights: torch.Tensor, num_samples: int, *args: Any, **kwargs: Any) -> Any:
        nonlocal noise
        if num_samples != 1 or weights.ndim != 2:
            return original(weights, num_samples, *args, **kwargs)
        rows = weights.shape[0] * process_group.world_size
        noise = weights.new_empty(rows, weights.shape[1])
        own = draw_noise()[process_group.local_rows(rows)]
        return (weights / own).argmax(dim=-1, keepdim=True)

    with mock.patch.object(torch, "multinomial", multinomial):
        yield
    for _ in range(max(process_group.all_gather(drawn)) - drawn):
        draw_noise()
