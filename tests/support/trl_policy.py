"""Policies with TRL's output layer, and TRL's log-probabilities, for tests of parity with it."""

from __future__ import annotations

from typing import Any

import peft
import torch
from trl.trainer.utils import add_fused_lm_head


def as_policy(model: Any, temperature: float, *, lora_rank: int | None = None) -> Any:
    """The model with TRL's output layer and, with a rank, an adapter that is not at its initial values."""
    add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    if lora_rank is None:
        return model
    lora = peft.LoraConfig(
        r=lora_rank, lora_alpha=2 * lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def trl_logprobs(model: Any, ids: torch.Tensor, mask: torch.Tensor, length: int) -> tuple[Any, Any]:
    """The computation of `GRPOTrainer._get_per_token_logps_and_entropies`."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-length] = -100
    out = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    return out.log_probs[:, -length:], out.entropy[:, -length:]


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Norm of the difference, relative to the norm of `theirs`."""
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-12))
