"""A probe of the fast log-probabilities: a few tokens, compared with what the model's own logits say.

The families that the decoder knows have tests. Of any other model it is not known beforehand whether a shared
prompt, padding and the output layer mean the same in its own code.
"""

from __future__ import annotations

from typing import Any

import torch

from ida_tui.engine.architecture.parts import CausalParts
from ida_tui.engine.loss.logprobs import completion_logprobs
from ida_tui.engine.rollout.agreement import agrees, mean_difference

PROMPT_LENGTHS, COMPLETION_LENGTHS = (5, 5, 3), (4, 2, 3)
"""Tokens of each probed row: two rows share a prompt, and another prompt is shorter."""
PADDED_PROMPT, PADDED_COMPLETION = 6, 4
"""Width of the prompts and the completions. One column is padding in all prompts."""


def disagreement(model: Any, dtype: str) -> str | None:
    """Why the fast log-probabilities are not those of this model's logits; None if they agree.

    Args:
        model: a causal language model that `scoring_support.unsupported_reason` accepts; its mode is kept.
        dtype: number format in which log-probabilities are computed.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            difference = _difference(model)
    except Exception as error:  # the code of any model may raise anything
        return f"computing a few tokens with a shared prompt failed ({type(error).__name__}: {_line(error)})"
    finally:
        model.train(was_training)
    if agrees(difference, dtype):
        return None
    return f"log-probabilities differ from the model's own by {difference:.1e} on average"


def _difference(model: Any) -> float:
    """Mean difference of the log-probabilities, as fast and as the model itself computes them."""
    ids, mask = _padded_rows(CausalParts.of(model).head.weight.shape[0], model.device)
    fast, _ = completion_logprobs(model, ids, mask, PADDED_COMPLETION, 1.0, with_entropy=False)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logprobs = torch.log_softmax(logits[:, PADDED_PROMPT - 1 : -1].float(), dim=-1)
    own = logprobs.gather(2, ids[:, PADDED_PROMPT:, None])[..., 0]
    return mean_difference(fast.float().cpu(), own.cpu(), mask[:, PADDED_PROMPT:].cpu())


def _padded_rows(vocabulary: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask as TRL pads them, (rows, prompt + completion)."""
    rows = len(PROMPT_LENGTHS)
    ids = torch.zeros(rows, PADDED_PROMPT + PADDED_COMPLETION, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(
        zip(PROMPT_LENGTHS, COMPLETION_LENGTHS, strict=True)
    ):
        ids[row, PADDED_PROMPT - prompt : PADDED_PROMPT] = 7 * torch.arange(prompt) + 11 * prompt
        ids[row, PADDED_PROMPT : PADDED_PROMPT + completion] = 5 * torch.arange(completion) + row
        mask[row, PADDED_PROMPT - prompt : PADDED_PROMPT + completion] = 1
    return (ids % vocabulary).to(device), mask.to(device)


def _line(error: Exception) -> str:
    """The first line of an error's message, shortened."""
    return (str(error).splitlines() or [""])[0][:120]
