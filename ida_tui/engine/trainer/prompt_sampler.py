"""Prompt sampler that keeps the order of the prompts when a run resumes in a later epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from trl.trainer.utils import RepeatSampler


class ResumableRepeatSampler(RepeatSampler):  # type: ignore[misc]
    """TRL's `RepeatSampler`, fast-forwarded past the epochs that are already done.

    All epochs draw their order from one generator, whose state is not in the checkpoint. A run resumed in
    its third epoch would therefore repeat the order of the first. This sampler first draws and discards the
    orders of the finished epochs.

    Args:
        epochs_done: returns the number of finished epochs; called once, before the first order is drawn.
        **arguments: arguments of `RepeatSampler`.
    """

    def __init__(self, epochs_done: Callable[[], int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._epochs_done: Callable[[], int] | None = epochs_done

    def __iter__(self) -> Iterator[int]:
        done, self._epochs_done = self._epochs_done, None
        if self.shuffle and done is not None:
            for _ in range(done()):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()
