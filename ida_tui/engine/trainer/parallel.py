"""Wrappers of the model for several processes, which average or shard its gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from trl import GRPOTrainer

from ida_tui.engine.distributed.process_group import ProcessGroup


class ParallelGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` whose `DistributedDataParallel` keeps one copy of the gradients, in its buckets.

    By default every gradient exists twice: as the parameter's own, and in a bucket that is communicated.

    Args:
        process_group: the processes of the run.
        **arguments: arguments of `trl.GRPOTrainer`.
    """

    def __init__(self, *, process_group: ProcessGroup, **arguments: Any) -> None:
        self._process_group = process_group
        super().__init__(**arguments)
        if self.accelerator.ddp_handler is not None:
            self.accelerator.ddp_handler.gradient_as_bucket_view = True

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """Wrap the model and create the optimizer.

        The wrapper does not see the passes before the last one of a step. They add to gradients in its
        buckets, which therefore exist before the first pass and are not dropped after a step.
        """
        adds_up = self.args.gradient_accumulation_steps > 1 and not self._process_group.is_single
        if adds_up:
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
        prepared = super()._prepare_for_training(*args, **kwargs)
        if adds_up and isinstance(self.model_wrapped, DistributedDataParallel):
            zero_grad = self.model_wrapped.zero_grad
            self.model_wrapped.zero_grad = partial(zero_grad, set_to_none=False)
        return prepared
