"""Completions that vLLM draws for TRL's trainer, in this process or on a server.

TRL sends the weights, asks for the completions and corrects the loss for the difference between vLLM's
policy and the trained one. Here a stop is heard between these calls, the figures of the correction are
recorded, and the base model of an adapter is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer

from ida_tui.engine.rollout.importance import RatioBounds, RatioSums, SamplingFigures
from ida_tui.engine.trainer.checkpointing import CheckpointedGRPOTrainer

NamedTensors = Iterator[tuple[str, torch.Tensor]]
PEFT_PREFIX, BASE_LAYER = "base_model.model.", ".base_layer"
"""Parts that PEFT adds to the names of a model's weights."""


class VLLMSampledGRPOTrainer(CheckpointedGRPOTrainer):
    """A `CheckpointedGRPOTrainer` whose completions vLLM draws if its arguments have `use_vllm`."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        if self.use_vllm and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            self._send_merged_copies()
        if self.use_vllm and self.vllm_mode == "colocate" and self._process_group.is_single:
            self._stop_after_any_token()

    def _stop_after_any_token(self) -> None:
        """Have a stop end the drawing of an engine in this process.

        Several processes draw different numbers of tokens, so they agree on a stop between their calls.
        """
        engine = self.vllm_generation.llm.llm_engine
        step = engine.step

        def step_unless_stopped() -> Any:
            self._recorder.raise_if_stopped()
            return step()

        engine.step = step_unless_stopped

    def _send_merged_copies(self) -> None:
        """Send merged copies of the weights instead of merging an adapter into the base model and back.

        Each merge rounds the base model's weights; in 16 bits, steps would move a model that is not trained.
        """
        model = self.accelerator.unwrap_model(self.model)
        if can_merge_copies(model):
            self.vllm_generation._iter_named_params = lambda: merged_weights(model)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Run the rollout of a step, and record how far the policy that drew is from the trained one."""
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if "importance_sampling_ratio" in batch:
            sums = self._process_group.all_gather(RatioSums.of(batch, RatioBounds.of(self.args)))
            self._recorder.record_sampling(SamplingFigures.of_ranks(sums))
        return batch

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's generation; with vLLM, a stop is heard between sending the weights and drawing.

        Raises:
            RunInterrupted: a stop was requested.
        """
        step = self.state.global_step
        if self.use_vllm and step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step: int = step
            self._recorder.raise_if_stopped()
        return super()._generate_single_turn(*args, **kwargs)


def can_merge_copies(model: Any) -> bool:
    """Whether a model has an adapter of plain LoRA layers only."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    others = any(".modules_to_save." in name for name, _ in model.named_parameters())
    return bool(layers) and not others and all(map(_is_plain, layers))


def _is_plain(layer: BaseTunerLayer) -> bool:
    """Whether a layer adds one product of two matrices: no DoRA, no trained parameter of another kind."""
    return type(layer) is LoraLinear and not layer.lora_variant and len(layer.active_adapters) == 1


def merged_weights(model: Any) -> NamedTensors:
    """The weights of a model with its adapter added, under the base model's names, one copy at a time.

    Args:
        model: a model for which `can_merge_copies` holds.
    """
    modules = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if model.prefix in name:
            continue
        weight = parameter.data
        owner, _, kind = name.rpartition(".")
        if owner.endswith(BASE_LAYER) and kind == "weight":
            layer = modules[owner.removesuffix(BASE_LAYER)]
            delta = layer.get_delta_weight(layer.active_adapters[0])
            weight = (weight + delta).to(weight.dtype)
        yield name.removeprefix(PEFT_PREFIX).replace(BASE_LAYER, ""), weight
