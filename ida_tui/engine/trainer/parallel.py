"""Several processes that train one model: shared random numbers, and the wrapper that averages gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch.nn.parallel import DistributedDataParallel
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from ida_tui.engine.distributed.process_group import ProcessGroup
from ida_tui.engine.distributed.sharding import (
    gather_weights,
    is_sharded,
    reshard,
    trains_shards,
    whole,
)
from ida_tui.engine.distributed.shared_calls import make_call
from ida_tui.engine.distributed.work import GatherWeights, ModelCall
from ida_tui.engine.rollout.shared_rng import shared_multinomial


class ParallelGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` that trains with several processes what a single process would train.

    TRL seeds each process differently. Here all of them draw the random numbers of the full step, and use
    those of their own rows. torch's `DistributedDataParallel` holds every gradient once, in the bucket that
    it communicates; by default the parameter has another copy.

    Args:
        process_group: the processes of the run.
        **arguments: arguments of `trl.GRPOTrainer`.
    """

    def __init__(self, *, process_group: ProcessGroup, **arguments: Any) -> None:
        self._process_group = process_group
        self._rng_after_shuffle: torch.Tensor | None = None
        with _without_saving(arguments["args"], process_group.shares_model):
            super().__init__(**arguments)
        self.trains_shards = process_group.shares_model and trains_shards(self.model)
        """Whether each rank holds a part of the trained weights."""
        process_group.perform = self._perform
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
        if self._process_group.shares_model:
            reshard(self.model)  # the optimizer gets the parts
        prepared = super()._prepare_for_training(*args, **kwargs)
        if adds_up and isinstance(self.model_wrapped, DistributedDataParallel):
            wrapper: Any = self.model_wrapped
            wrapper.zero_grad = partial(wrapper.zero_grad, set_to_none=False)
        return prepared

    def _perform(self, work: Any) -> None:
        """Do what rank 0 has announced, on another rank of a shared model."""
        if isinstance(work, ModelCall):
            make_call(self.accelerator.unwrap_model(self.model), self._process_group, work)
        elif isinstance(work, GatherWeights):
            gather_weights(self.model)

    @contextmanager
    def gathered_weights(self) -> Iterator[None]:
        """Inside the block, rank 0 saves the whole trained weights of a sharded model.

        If they are sharded, all ranks enter it together; the other ranks with `GatherWeights`, or in
        `_save_checkpoint`. transformers and PEFT would gather weights with every attempt to write.
        """
        if not self._process_group.shares_model:
            yield
            return
        model = self.model
        if self.trains_shards:
            weights, owner = gather_weights(model), model
        else:
            weights, owner = _unsharded(model.state_dict()), model.get_base_model()
        save, settings = model.save_pretrained, owner.config.distributed_config

        def save_gathered(folder: str, **arguments: Any) -> None:
            save(folder, **arguments | {"state_dict": weights})

        owner.config.distributed_config = None
        model.save_pretrained = save_gathered
        try:
            yield
        finally:
            owner.config.distributed_config = settings
            model.save_pretrained = save

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        return whole(norm) if isinstance(norm, torch.Tensor) else norm

    # -- random numbers ---------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train until the last step, with the same random numbers on all ranks."""
        self._process_group.sync_rng()
        return super().train(*args, **kwargs)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with shared_multinomial(self._process_group):
            return super()._generate_single_turn(*args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        with self._padding_to_all_ranks():
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if not self._process_group.is_single:
            # TRL shuffles only this rank's rows next. Advance the generator as a shuffle of all rows would.
            rng_state = torch.get_rng_state()
            torch.randperm(len(inputs) * self._process_group.world_size)
            self._rng_after_shuffle = torch.get_rng_state()
            torch.set_rng_state(rng_state)
        return batch

    @contextmanager
    def _padding_to_all_ranks(self) -> Iterator[None]:
        """Inside the block, TRL pads rows to the longest row of all ranks, as a single process would.

        Sums over wider rows round differently. Adam makes steps of one size out of gradients of any size, so
        the smallest gradients would differ visibly.
        """
        if self._process_group.is_single:
            yield
            return
        original = grpo_trainer.pad

        def pad(tensors: list[torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
            longest = max(len(tensor) for tensor in tensors)
            width = max(self._process_group.all_gather_ints(longest)[0])
            multiple = kwargs.pop("pad_to_multiple_of", None) or 1
            kwargs["pad_to_multiple_of"] = max(1, -(-width // multiple) * multiple)
            padded: torch.Tensor = original(tensors, *args, **kwargs)
            return padded

        with mock.patch.object(grpo_trainer, "pad", pad):
            yield

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        if self._rng_after_shuffle is not None:
            torch.set_rng_state(self._rng_after_shuffle)
            self._rng_after_shuffle = None
        return inputs


@contextmanager
def _without_saving(args: Any, is_sharded: bool) -> Iterator[None]:
    """Inside the block, no checkpoints are planned, of which transformers cannot save the optimizer's shards.

    `CheckpointedGRPOTrainer` saves them.
    """
    strategy = args.save_strategy
    if is_sharded:
        args.save_strategy = "no"
    yield
    args.save_strategy = strategy


def _unsharded(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that this process holds as a whole, such as those of an adapter."""
    return {name: tensor for name, tensor in weights.items() if not is_sharded(tensor)}
