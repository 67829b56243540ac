"""Fast GRPO trainer: faster, smaller implementations of generation and log-probabilities.

    generation              `rollout.generate`: each distinct prompt is read once, finished rows are dropped
    log-probabilities       `loss.logprobs`: each distinct prompt is computed once, padding is skipped

If a step is a single batch, its log-probabilities (with their autograd graph) are computed while the judge
is still working, and the loss reuses them. Advantages, loss, optimizer, schedule and logging stay TRL's code.
Models that these two do not support are trained by TRL's code, with a warning in the log. On the first group
of a run the log-probabilities are compared with TRL's.
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
"""Log-probabilities and entropies computed ahead of the loss, with the rows in the order of the rollout."""
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}
"""Largest accepted mean difference from TRL's log-probabilities, in nats; relative where they exceed 1.

In float32 the two implementations differ only in summation order. In 16 bits each rounds different
intermediate values: bfloat16 has 8 significant bits per logit, float16 has 11.
"""


class FastTrainer(WatchedTrainer):
    """An `InstrumentedGRPOTrainer` with its own generation and log-probabilities.

    Args:
        rollout_rows: completions generated together; None means all completions of a step.
        **arguments: arguments of `InstrumentedGRPOTrainer`.
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
            self._plain_because = "it is trained with tools or images"
        if self._plain_because is None and self._entropy_bonus_enabled:
            self._plain_because = "the loss has an entropy bonus"
        self._after_shuffle: torch.Tensor | None = None
        if self._plain_because is not None:
            self._say("warning", f"Fast step is off, using TRL's code: {self._plain_because}")

    def train(self, *args: Any, **kwargs: Any) -> Any:
        # TRL seeds each rank differently. Here all ranks draw from the same generator state.
        self._ranks.share_random_numbers()
        return super().train(*args, **kwargs)

    def drop_step(self) -> None:
        super().drop_step()
        self._early = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._early = None
        batch = super()._generate_and_score_completions(inputs)
        if self._early is not None:
            # TRL shuffles the rows next. This column records where each row was before.
            batch["row"] = torch.arange(len(inputs), device=batch["completion_ids"].device)
        if not self._ranks.alone:
            # TRL shuffles only this rank's rows next. Advance the generator as a shuffle of all rows would,
            # so that several processes draw the same random numbers as one.
            rng_state = torch.get_rng_state()
            torch.randperm(len(inputs) * self._ranks.world)
            self._after_shuffle = torch.get_rng_state()
            torch.set_rng_state(rng_state)
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        if self._after_shuffle is not None:
            torch.set_rng_state(self._after_shuffle)
            self._after_shuffle = None
        return inputs

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        # The fast forward pass bypasses the DDP wrapper, which would have averaged the gradients.
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
        lockstep, on_tokens = None, heartbeat.told
        if not self._ranks.alone:
            lockstep = Lockstep(self._ranks, len(prompt_ids) * self._ranks.world)
            on_tokens = partial(heartbeat.told, everywhere=lockstep.counts)
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            torch.no_grad(),
        ):
            completion_ids = sample_in_parts(
                model,
                prompt_ids,
                self._sampling(),
                self._rollout_rows,
                max_new_tokens=settings.max_new_tokens,
                eos=self.eos_token_ids,
                pad=settings.pad_token_id,
                stop=self._watcher.stop_requested,
                told=on_tokens,
                bucket=self._bucket,
                lockstep=lockstep,
            )
        return completion_ids, None

    def _sampling(self) -> Sampling:
        """Sampling parameters of the run."""
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
        unsupported = compute_aux_loss or any(value is not None for value in other.values())
        if not unsupported and not self._compared:
            self._compare(model, input_ids, attention_mask, logits_to_keep)
        if self._plain_because is not None or unsupported:
            outputs: Scores = super()._get_per_token_logps_and_entropies(
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size=batch_size,
                compute_entropy=compute_entropy,
                compute_aux_loss=compute_aux_loss,
                **other,
            )
            return outputs
        self._enter_reference()
        precomputed, self._early = self._early if torch.is_grad_enabled() else None, None
        if precomputed is not None and self._rows is not None:
            return precomputed[0][self._rows], precomputed[1][self._rows], None
        logprobs, entropies = self._own(
            model, input_ids, attention_mask, logits_to_keep, compute_entropy
        )
        return logprobs, entropies, None

    # -- while the judge works ----------------------------------------------------------------

    def _while_judged(self, completion_ids: list[list[int]]) -> None:
        """Run the forward pass of the loss, which needs no verdicts, while the judge works."""
        if (
            self._plain_because is not None
            or not self._one_batch_a_step()
            or not self.model.training
        ):
            return
        ids, mask, logits_to_keep = self._as_trl_pads(completion_ids)
        if not self._compared:
            self._compare(self.model, ids, mask, logits_to_keep)
            if self._plain_because is not None:
                return
        self._watcher.enter("update", self._current_step)
        with torch.enable_grad():
            logprobs, entropies = self._own(self.model, ids, mask, logits_to_keep, entropy=True)
        assert entropies is not None
        self._early = logprobs, entropies

    def _one_batch_a_step(self) -> bool:
        """Whether a rollout is a single micro-batch that is used for a single update."""
        args = self.args
        batches = (args.steps_per_generation, args.gradient_accumulation_steps, self.num_iterations)
        return batches == (1, 1, 1)

    def _as_trl_pads(
        self, completion_ids: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Pad the step as TRL will for the loss.

        Returns:
            Token ids and mask, (rows, prompt + completion) each, and the length of the completion part.
        """

        def padded(rows: list[list[int]], value: int | None, side: str) -> torch.Tensor:
            padding_value = self.processing_class.pad_token_id if value is None else value
            tensors = [torch.tensor(row if value is None else [1] * len(row)) for row in rows]
            batch: torch.Tensor = pad(
                tensors,
                padding_value=padding_value,
                padding_side=side,
                pad_to_multiple_of=self.pad_to_multiple_of,
            )
            return batch.to(self.accelerator.device)

        prompts = self._prompt_ids
        ids = (padded(prompts, None, "left"), padded(completion_ids, None, "right"))
        mask = (padded(prompts, 0, "left"), padded(completion_ids, 0, "right"))
        return torch.cat(ids, dim=1), torch.cat(mask, dim=1), ids[1].shape[1]

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._rows = inputs.pop("row", None)
        return super()._compute_loss(model, inputs)

    # -- log-probabilities, and their comparison with TRL's -------------------------------------

    def _own(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, logits_to_keep: int, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and, if wanted, entropies of the completion tokens, (rows, logits_to_keep)."""
        with self.accelerator.autocast():
            return log_probabilities(
                self.accelerator.unwrap_model(model),
                ids,
                mask,
                logits_to_keep,
                self.temperature,
                entropy=entropy,
                bucket=self._bucket,
            )

    def _compare(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, logits_to_keep: int
    ) -> None:
        """Compare the first group's log-probabilities with TRL's; switch to TRL's code if they differ."""
        self._compared = True
        ids, mask = ids[: self.num_generations], mask[: self.num_generations]
        with torch.no_grad():
            trl_logprobs, _, _ = super()._get_per_token_logps_and_entropies(
                model,
                ids,
                mask,
                logits_to_keep,
                batch_size=1,  # TRL's code needs far more memory for larger batches
            )
            logprobs, _ = self._own(model, ids, mask, logits_to_keep, entropy=False)
        is_token = mask[:, -logits_to_keep:].bool()
        differences = (logprobs - trl_logprobs).abs() / trl_logprobs.abs().clamp(min=1.0)
        differences = differences[is_token]
        weights = self.accelerator.unwrap_model(model).get_output_embeddings().weight.dtype
        half = "float16" if self.args.fp16 else "bfloat16" if self.args.bf16 else ""
        dtype = half or str(weights).removeprefix("torch.")
        # Use the largest value of all ranks, so that all ranks decide the same.
        local_mean = float(differences.mean()) if differences.numel() else 0.0
        mean = max(self._ranks.every(local_mean))
        if mean <= TOLERANCE.get(dtype, TOLERANCE["bfloat16"]):
            self._say("info", f"Fast step: log-probabilities agree with TRL's within {mean:.0e}")
        else:
            self._plain_because = f"log-probabilities differ by {mean:.1e} on average"
            self._say("warning", f"Fast step is off, using TRL's code: {self._plain_because}")

    def _say(self, level: Any, text: str) -> None:
        self._watcher.emit(Noticed(level=level, source="engine", text=text))
