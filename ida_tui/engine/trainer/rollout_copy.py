"""Copy of a rollout that later updates reuse, for the checkpoints between these updates.

With `num_iterations` above 1, several steps update the weights with the same completions; with
`steps_per_generation`, each with another part of them. TRL keeps them only in memory. A checkpoint between
two of these steps contains a copy, so that a resumed run reuses them, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

ROLLOUT_FILE = "rollout.pt"
"""Checkpoint file with the copy; only in checkpoints after which the next step reuses completions."""
PROMPT_COLUMNS = ("prompt_ids", "prompt_mask")
"""Columns that are padded on the left; all other columns of tokens are padded on the right."""

Rows = dict[str, Any]
"""TRL's batch: by column, a tensor with one row per completion, or a value for all rows."""


@dataclass(frozen=True, slots=True)
class RolloutCopy:
    """All completions of a rollout, with their advantages and log-probabilities, in host memory."""

    step: int
    """The step that generated the completions."""
    rows_by_rank: Sequence[Rows]
    """Rows of each rank, in the order in which they are divided into micro-batches."""

    def save(self, folder: Path, reward: float | None) -> None:
        """Write the copy into a checkpoint folder, with the mean reward of its completions."""
        contents = {"step": self.step, "reward": reward, "rows_by_rank": list(self.rows_by_rank)}
        torch.save(contents, folder / ROLLOUT_FILE)

    @staticmethod
    def load(folder: Path) -> tuple[RolloutCopy, float | None] | None:
        """The copy in a checkpoint folder and its mean reward; None if the checkpoint has no copy."""
        if not (folder / ROLLOUT_FILE).is_file():
            return None
        contents = torch.load(folder / ROLLOUT_FILE, map_location="cpu", weights_only=True)
        reward = contents.get("reward", contents.get("r_ida"))
        return RolloutCopy(contents["step"], contents["rows_by_rank"]), reward

    def rows_of_rank(self, rank: int, world_size: int, pad_token_id: int, steps: int = 1) -> Rows:
        """The rows that a rank reuses. The number of ranks may differ from that of the rollout.

        Args:
            rank: the rank.
            world_size: number of ranks.
            pad_token_id: fills rows that are shorter than others.
            steps: steps that divide the rollout, each of which keeps its rows.
        """
        if world_size == len(self.rows_by_rank):
            return self.rows_by_rank[rank]
        padded = _pad_to_same_width(self.rows_by_rank, pad_token_id)
        parts = []
        for step in range(steps):
            rows = concatenate_rows([_part(batch, step, steps) for batch in padded])
            parts.append(_part(rows, rank, world_size))
        return concatenate_rows(parts)


def concatenate_rows(batches: Sequence[Rows]) -> Rows:
    """The rows of several batches as one batch; a value for all rows is that of the first batch."""
    return {
        name: torch.cat([batch[name] for batch in batches]) if _has_rows(value) else value
        for name, value in batches[0].items()
    }


def to_device(rows: Mapping[str, Any], device: torch.device | str) -> Rows:
    """A copy of a batch on another device."""
    return {
        name: value.detach().to(device, copy=True) if isinstance(value, torch.Tensor) else value
        for name, value in rows.items()
    }


def _part(rows: Rows, index: int, count: int) -> Rows:
    """One of `count` equal consecutive parts of a batch."""
    size = len(rows["completion_ids"]) // count
    own = slice(index * size, (index + 1) * size)
    return {name: value[own] if _has_rows(value) else value for name, value in rows.items()}


def _has_rows(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _pad_to_same_width(batches: Sequence[Rows], pad_token_id: int) -> list[Rows]:
    padded = [dict(batch) for batch in batches]
    for name, value in batches[0].items():
        if not isinstance(value, torch.Tensor) or value.ndim < 2:
            continue
        widest = max(batch[name].shape[1] for batch in batches)
        filler = pad_token_id if name.endswith("_ids") else int(name == "importance_sampling_ratio")
        for batch in padded:
            missing = widest - batch[name].shape[1]
            sides = (missing, 0) if name in PROMPT_COLUMNS else (0, missing)
            batch[name] = functional.pad(batch[name], sides, value=filler)
    return padded
