"""The same GRPO step in less time and memory: two of TRL's methods, computed another way.

    _sample                                 `rollout.sample`: shared prompts read once, finished rows dropped
    _get_per_token_logps_and_entropies      `scoring.log_probabilities`: nothing computed twice or for padding

Where a step is one batch, its log-probabilities (with their graph) are computed while the judge still works,
and the loss takes them from there. Everything else (advantages, loss, optimizer, schedule, logging) stays
TRL's code. What the two do not cover is left to TRL, and the log says so; on the first real group the two
ways are compared.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad

from ida_tui.engine.device.device import length_bucket
from ida_tui.engine.loss.logprobs import log_probabilities
from ida_tui.engine.rollout import decoder
from ida_tui.engine.rollout.generate import sample_in_parts
from ida_tui.engine.rollout.progress import Heartbeat
from ida_tui.engine.rollout.sampling import Sampling
from ida_tui.engine.rollout.shared_rng import Lockstep
from ida_tui.engine.trainer.trainer import WatchedTrainer
from ida_tui.events.types import Noticed

Scores = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Log-probabilities, entropies and auxiliary loss, as TRL returns them."""
Early = tuple[torch.Tensor, torch.Tensor]
"""Log-probabilities and entropies of the rows in the order they were sampled in, before anyone asked."""
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
"""Most that a log-probability may differ from TRL's on average, in nats, relative where it exceeds 1.

In float32 the two ways differ by the order of their sums. In 16 bits each rounds its own intermediate values:
bfloat16 keeps 8 bits of a logit, float16 keeps 11.
"""


class FastTrainer(WatchedTrainer):
    """A `WatchedTrainer` that samples and scores its own way.

    Args:
        rollout_rows: completions sampled at once; None is all of a step.
        **arguments: `WatchedTrainer`'s.
    """

    def __init__(self, *, rollout_rows: int | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._rollout_rows = rollout_rows
        self._compared = False
        self._bucket = length_bucket(self.accelerator.device.type)
        self._prompt_ids: list[list[int]] = []
        self._early: Early | None = None
        self._rows: torch.Tensor | None = None
        self._plain_because = decoder.unsupported(self.accelerator.unwrap_model(self.model))
        if self._plain_because is None and (self.tools or self._is_vlm):
            self._plain_because = "it uses tools or images"
        if self._plain_because is None and self._entropy_bonus_enabled:
            self._plain_because = "the loss has an entropy bonus"
        self._after_shuffle: torch.Tensor | None = None
        if self._plain_because is not None:
            self._say("warning", f"TRL's own code trains this model: {self._plain_because}")

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # TRL seeds every process differently; ours draw the step's numbers together.
        self._ranks.share_random_numbers()
        return super().train(*args, **kwargs)

    def drop_step(self) -> None:
        super().drop_step()
        self._early = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._early = None
        batch = super()._generate_and_score_completions(inputs)
        if self._early is not None:
            # TRL shuffles the rows after this, and their numbers with them.
            batch["row"] = torch.arange(len(inputs), device=batch["completion_ids"].device)
        if not self._ranks.alone:
            # TRL shuffles a rank's rows next; one process would shuffle, and draw numbers for, all of them.
            before = torch.get_rng_state()
            torch.randperm(len(inputs) * self._ranks.world)
            self._after_shuffle = torch.get_rng_state()
            torch.set_rng_state(before)
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        if self._after_shuffle is not None:
            torch.set_rng_state(self._after_shuffle)
            self._after_shuffle = None
        return inputs

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        # Our pass goes around the wrapper that would average the gradients.
        if self._plain_because is None and self.accelerator.sync_gradients:
            self._ranks.mean_gradients(self.model.parameters())
        return loss

    def _sample(
        self, heartbeat: Heartbeat, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        if self._plain_because is not None:
            return super()._sample(heartbeat, prompt_ids, *args, **kwargs)
        self._prompt_ids = prompt_ids
        settings = self.generation_config
        lockstep, told = None, heartbeat.told
        if not self._ranks.alone:
            lockstep = Lockstep(self._ranks, len(prompt_ids) * self._ranks.world)
            told = partial(heartbeat.told, everywhere=lockstep.counts)
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            torch.no_grad(),
        ):
            found = sample_in_parts(
                model,
                prompt_ids,
                self._sampling(),
                self._rollout_rows,
                max_new_tokens=settings.max_new_tokens,
                eos=self.eos_token_ids,
                pad=settings.pad_token_id,
                stop=self._watcher.stop_requested,
                told=told,
                bucket=self._bucket,
                lockstep=lockstep,
            )
        return found, None

    def _sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(
            temperature=self.args.temperature,
            top_k=self.args.top_k or 0,
            top_p=self.args.top_p,
            min_p=self.args.min_p,
            repetition_penalty=self.args.repetition_penalty,
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
        uncovered = compute_aux_loss or any(value is not None for value in other.values())
        if not uncovered and not self._compared:
            self._compare(model, input_ids, attention_mask, logits_to_keep)
        if self._plain_because is not None or uncovered:
            found: Scores = super()._get_per_token_logps_and_entropies(
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
        self._enter_reference()
        early, self._early = self._early if torch.is_grad_enabled() else None, None
        if early is not None and self._rows is not None:
            return early[0][self._rows], early[1][self._rows], None
        scores, entropies = self._own(
            model, input_ids, attention_mask, logits_to_keep, compute_entropy
        )
        return scores, entropies, None

    # -- while verdicts are out ---------------------------------------------------------------

    def _while_judged(self, completion_ids: list[list[int]]) -> None:
        """The loss's forward pass, which needs no verdict; done whether or not the judge is slow."""
        if (
            self._plain_because is not None
            or not self._one_batch_a_step()
            or not self.model.training
        ):
            return
        ids, mask, kept = self._as_trl_pads(completion_ids)
        if not self._compared:
            self._compare(self.model, ids, mask, kept)
            if self._plain_because is not None:
                return
        self._watcher.enter("update", self._current_step)
        with torch.enable_grad():
            scores, entropies = self._own(self.model, ids, mask, kept, entropy=True)
        assert entropies is not None
        self._early = scores, entropies

    def _one_batch_a_step(self) -> bool:
        """Whether the rows of a rollout are one micro-batch, used once."""
        args = self.args
        batches = (args.steps_per_generation, args.gradient_accumulation_steps, self.num_iterations)
        return batches == (1, 1, 1)

    def _as_trl_pads(
        self, completion_ids: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Ids and mask of the step, and the columns of its completions, as the loss will get them."""

        def padded(rows: list[list[int]], value: int | None, side: str) -> torch.Tensor:
            filler = self.processing_class.pad_token_id if value is None else value
            tensors = [torch.tensor(row if value is None else [1] * len(row)) for row in rows]
            joined: torch.Tensor = pad(
                tensors,
                padding_value=filler,
                padding_side=side,
                pad_to_multiple_of=self.pad_to_multiple_of,
            )
            return joined.to(self.accelerator.device)

        prompts = self._prompt_ids
        ids = (padded(prompts, None, "left"), padded(completion_ids, None, "right"))
        mask = (padded(prompts, 0, "left"), padded(completion_ids, 0, "right"))
        return torch.cat(ids, dim=1), torch.cat(mask, dim=1), ids[1].shape[1]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._rows = inputs.pop("row", None)
        return super()._compute_loss(model, inputs)

    # -- our way, and TRL's beside it -----------------------------------------------------------

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
                bucket=self._bucket,
            )

    def _compare(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int) -> None:
        """Compute the first real group both ways; where they differ, TRL's way is taken from here on."""
        self._compared = True
        ids, mask = ids[: self.num_generations], mask[: self.num_generations]
        with torch.no_grad():
            theirs, _, _ = super()._get_per_token_logps_and_entropies(
                model,
                ids,
                mask,
                kept,
                batch_size=1,  # TRL's way takes far more memory for more
            )
            ours, _ = self._own(model, ids, mask, kept, entropy=False)
        there = mask[:, -kept:].bool()
        gap = ((ours - theirs).abs() / theirs.abs().clamp(min=1.0))[there]
        weights = self.accelerator.unwrap_model(model).get_output_embeddings().weight.dtype
        half = "float16" if self.args.fp16 else "bfloat16" if self.args.bf16 else ""
        dtype = half or str(weights).removeprefix("torch.")
        # The same on every rank, and so is what follows from it.
        mean = max(self._ranks.every(float(gap.mean()) if gap.numel() else 0.0))
        if mean <= TOLERANCE.get(dtype, TOLERANCE["bfloat16"]):
            self._say("info", f"Fast step: log-probabilities agree with TRL's within {mean:.0e}")
        else:
            self._plain_because = f"its log-probabilities differ by {mean:.1e} on average"
            self._say("warning", f"TRL's own code trains this model: {self._plain_because}")

    def _say(self, level: Any, text: str) -> None:
        self._watcher.emit(Noticed(level=level, source="engine", text=text))
