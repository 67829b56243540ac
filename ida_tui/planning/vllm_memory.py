"""Memory that a vLLM in the training process takes on its GPU."""

from __future__ import annotations

from dataclasses import replace

from ida_tui.config.model_files import ModelShape
from ida_tui.config.schema import Config
from ida_tui.events.types import PlanPeriod
from ida_tui.planning import memory_terms as terms
from ida_tui.planning.memory_terms import RowBatch
from ida_tui.system.gpu_memory import gpu_memory_bytes


def vllm_period(config: Config) -> PlanPeriod:
    """When vLLM holds its memory: always, or while it samples if it sleeps in between."""
    return "sampling" if config.training.vllm_enable_sleep_mode else "always"


def colocated_bytes(config: Config, shape: ModelShape, batch: RowBatch, weight_bytes: int) -> float:
    """Bytes that vLLM takes on each GPU of a run; 0 without one in the training process.

    vLLM takes its share of the GPU, however much it needs. Where the GPU is unknown, this is what it needs:
    its own weights, and the key-value cache of one completion.

    Args:
        config: the profile.
        shape: layer sizes of the model.
        batch: the completions of a rollout.
        weight_bytes: bytes of a weight.
    """
    training = config.training
    if not training.use_vllm or training.vllm_mode == "server":
        return 0.0
    parameters = config.model.parameters or shape.parameter_count()
    cache = terms.kv_cache_bytes(shape, replace(batch, rows=1), weight_bytes, shares_prompts=False)
    needed = (parameters * weight_bytes + cache) / training.vllm_tensor_parallel_size
    return max(needed, training.vllm_gpu_memory_utilization * (gpu_memory_bytes() or 0.0))
