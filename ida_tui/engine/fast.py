"""The same GRPO step in less time and memory: three of TRL's methods, computed another way.

    _sample                                 `rollout.sample`: shared prompts read once, finished rows dropped
    _get_per_token_logps_and_entropies      `scoring.log_probabilities`: nothing computed twice or for padding

Everything else (advantages, loss, optimizer, schedule, logging) stays TRL's code. What the two do not cover
is left to TRL, and the log says so; on the first real batch the two ways are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from trl.models import unwrap_model_for_generation

from ida_tui.engine import decoder
from ida_tui.engine.heartbeat import Heartbeat
from ida_tui.engine.rollout import sample
from ida_tui.engine.sampling import Sampling
from ida_tui.engine.scoring import log_probabilities
from ida_tui.engine.trainer import WatchedTrainer
from ida_tui.events import Noticed

Scores = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Log-probabilities, entropies and auxiliary loss, as TRL returns them."""
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
"""Most that a log-probability may differ from TRL's on average, in nats, relative where it exceeds 1.

In float32 the two ways differ by the order of their sums. In 16 bits each rounds its own intermediate values:
bfloat16 keeps 8 bits of a logit, float16 keeps 11.
"""


class FastTrainer(WatchedTrainer):
    """A `WatchedTrainer` that samples and scores its own way."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._compared = False
        self._plain_because = decoder.unsupported(self.accelerator.unwrap_model(self.model))
        if self._plain_because is None and (self.tools or self._is_vlm):
            self._plain_because = "it uses tools or images"
        if self._plain_because is None and self._entropy_bonus_enabled:
            self._plain_because = "the loss has an entropy bonus"
        if self._plain_because is not None:
            self._say("warning", f"TRL's own code trains this model: {self._plain_because}")

    def _sample(
        self, heartbeat: Heartbeat, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> list[list[int]]:
        if self._plain_because is not None:
            return super()._sample(heartbeat, prompt_ids, *args, **kwargs)
        settings = self.generation_config
        sampling = Sampling(
            temperature=self.args.temperature,
            top_k=self.args.top_k or 0,
            top_p=self.args.top_p,
            min_p=self.args.min_p,
            repetition_penalty=self.args.repetition_penalty,
        )
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            torch.no_grad(),
        ):
            return sample(
                model,
                prompt_ids,
                sampling,
                max_new_tokens=settings.max_new_tokens,
                eos=self.eos_token_ids,
                pad=settings.pad_token_id,
                stop=self._watcher.stop_requested,
                told=heartbeat.told,
            )

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **other: Any,
    ) -> Scores:
        def plain() -> Scores:
            found: Scores = super(FastTrainer, self)._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **other,
            )
            return found

        uncovered = compute_aux_loss or any(value is not None for value in other.values())
        if self._plain_because is not None or uncovered:
            return plain()
        if not self._compared:
            self._compare(plain, model, input_ids, attention_mask, logits_to_keep)
            if self._plain_because is not None:
                return plain()
        self._enter_reference()
        found = self._own(model, input_ids, attention_mask, logits_to_keep, compute_entropy)
        return found[0], found[1], None

    def _own(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        with self.accelerator.autocast():
            return log_probabilities(
                self.accelerator.unwrap_model(model),
                ids,
                mask,
                kept,
                self.temperature,
                entropy=entropy,
            )

    def _compare(
        self,
        plain: Callable[[], Scores],
        model: Any,
        ids: torch.Tensor,
        mask: torch.Tensor,
        kept: int,
    ) -> None:
        """Compute the first real batch both ways; where they differ, TRL's way is taken from here on."""
        self._compared = True
        with torch.no_grad():
            theirs, _, _ = plain()
            ours, _ = self._own(model, ids, mask, kept, entropy=False)
        there = mask[:, -kept:].bool()
        gap = ((ours - theirs).abs() / theirs.abs().clamp(min=1.0))[there]
        weights = self.accelerator.unwrap_model(model).get_output_embeddings().weight.dtype
        half = "float16" if self.args.fp16 else "bfloat16" if self.args.bf16 else ""
        dtype = half or str(weights).removeprefix("torch.")
        mean = float(gap.mean()) if gap.numel() else 0.0
        if mean <= TOLERANCE.get(dtype, TOLERANCE["bfloat16"]):
            self._say("info", f"Fast step: log-probabilities agree with TRL's within {mean:.0e}")
        else:
            self._plain_because = f"its log-probabilities differ by {mean:.1e} on average"
            self._say("warning", f"TRL's own code trains this model: {self._plain_because}")

    def _say(self, level: Any, text: str) -> None:
        self._watcher.emit(Noticed(level=level, source="engine", text=text))
