"""The order of the prompts, also of a run that goes on in a later epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from trl.trainer.utils import RepeatSampler


class ResumedSampler(RepeatSampler):  # type: ignore[misc]
    """`trl`'s sampler, which draws each epoch's order after those of the epochs before it.

    Its generator is in no checkpoint: a trainer that goes on in the third epoch would have the first one's
    order again. Here the orders of the epochs that are done are drawn and passed over first.

    Args:
        done: asked once, when the first order is wanted: how many epochs are done.
        **arguments: `RepeatSampler`'s own.
    """

    def __init__(self, done: Callable[[], int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._done: Callable[[], int] | None = done

    def __iter__(self) -> Iterator[int]:
        done, self._done = self._done, None
        if self.shuffle and done is not None:
            for _ in range(done()):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()
