"""Fast GRPO trainer: faster, smaller implementations of generation and log-probabilities.

    generation              `rollout.generate`: each distinct prompt is read once, finished rows are dropped
    log-probabilities       `loss.logprobs`: each distinct prompt is computed once, padding is skipped

`FastTrainer` overrides the methods that compute these, `_generate_completion_ids` and
`_get_per_token_logps_and_entropies`. Its other overrides handle the row order and several processes. With
several processes the loss's forward pass goes through torch's `DistributedDataParallel`, which averages the
gradients during the backward pass.

If a step is a single batch, its log-probabilities (with their autograd graph) are computed while the judge
is still working, and the loss reuses them. Advantages, loss, optimizer, schedule and logging stay TRL's code.
Each of the two is replaced by TRL's code, with a warning in the log, where it does not support the model:
sampling needs a family that the decoder knows, log-probabilities only a backbone and an output layer.

The longest row of a rollout and the shortest one of its group are checked: their log-probabilities as drawn,
as the loss scores them and as TRL computes them must agree. This is done for the first rollout, for the first
one after the weights have moved (an adapter starts as zero, so only then does it show), and then every
`CHECK_INTERVAL` steps. If they do not agree, TRL's code takes over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from trl.models import unwrap_model_for_generation
from trl.models.utils import _ForwardRedirection
from trl.trainer.utils import pad

from ida_tui.config.sections.training import SamplingWeights
from ida_tui.engine.architecture.parts import longest_exact_sequence
from ida_tui.engine.device.cuda_graph import graph_choice
from ida_tui.engine.device.device import length_bucket
from ida_tui.engine.loss import scoring_support
from ida_tui.engine.loss.logprobs import completion_logprobs
from ida_tui.engine.model.generation import token_sampler
from ida_tui.engine.rollout import decoder_support
from ida_tui.engine.rollout.agreement import (
    DrawnLogprobs,
    agrees,
    mean_difference,
    rows_to_compare,
    worst,
)
from ida_tui.engine.rollout.generate import generate_in_chunks
from ida_tui.engine.rollout.progress import GenerationProgress
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.engine.rollout.shared_rng import SharedSampler
from ida_tui.engine.trainer import scoring_probe
from ida_tui.engine.trainer.checkpointing import CheckpointedGRPOTrainer
from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
from ida_tui.events.types import Noticed

LogprobOutputs = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]
"""Log-probabilities, entropies and auxiliary loss, as TRL returns them."""
TRL_SAMPLING_ARGUMENTS = ("generation_kwargs", "cache_implementation")
"""Arguments of `trl.GRPOConfig` that change how transformers samples."""
CHECK_INTERVAL = 25
"""Steps between two checks of the log-probabilities."""


@dataclass(frozen=True, slots=True)
class PrecomputedLogprobs:
    """Outputs of the policy's forward pass, computed ahead of the loss; rows in the order of the rollout."""

    logprobs: torch.Tensor
    """(rows, completion length), with its autograd graph."""
    entropies: torch.Tensor
    """(rows, completion length)."""


class FastTrainer(InstrumentedGRPOTrainer):
    """An `InstrumentedGRPOTrainer` with its own generation and log-probabilities.

    Args:
        rollout_rows: completions generated together; None means all completions of a step.
        sampling_weights: number format of the frozen weights while completions are drawn.
        **arguments: arguments of `InstrumentedGRPOTrainer`.
    """

    def __init__(
        self,
        *,
        rollout_rows: int | None = None,
        sampling_weights: SamplingWeights = "model",
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._rollout_rows = rollout_rows
        self._sampling_weights: SamplingWeights = sampling_weights
        self._last_check: int | None = None
        """Step of the last check; None before the first one in this process."""
        self._adapter_checked = False
        """Whether a check has been made with weights that differ from the base model's."""
        self._drawn: DrawnLogprobs | None = None
        """Log-probabilities of the rollout as drawn, if they are needed."""
        self._length_bucket = length_bucket(self.accelerator.device.type)
        self._graphs = graph_choice(self.accelerator.device, partial(self._notify, "info"))
        self._prompt_ids: list[list[int]] = []
        self._precomputed: PrecomputedLogprobs | None = None
        self._row_order: torch.Tensor | None = None
        self._scores_old_policy = False
        """Whether TRL asks next for the policy's log-probabilities before the update."""
        self._noted_own_weights = False
        self._samples_fast = self._scores_fast = True
        """Whether completions and log-probabilities are computed here, not by TRL's code."""
        self._choose_code()

    def _choose_code(self) -> None:
        """Leave to TRL what the fast code does not support, and say why."""
        sampling = self._unsupported_sampling_reason()
        scoring = self._unsupported_scoring_reason(is_tested=sampling is None)
        if self.args.use_vllm:  # it samples, whatever the decoder supports
            self._samples_fast, self._scores_fast = False, scoring is None
            if scoring:
                self._notify("warning", f"TRL's code scores what vLLM samples: {scoring}")
        elif sampling and scoring:
            self._fall_back(sampling if sampling == scoring else f"{sampling}; {scoring}")
        elif sampling:
            self._samples_fast = False
            self._notify("warning", f"TRL's code samples; only scoring is fast: {sampling}")
        elif scoring:
            self._scores_fast = False
            self._notify("warning", f"TRL's code scores; only sampling is fast: {scoring}")

    def _unsupported_sampling_reason(self) -> str | None:
        """Why the decoder cannot sample; None if it can."""
        if self.tools or self._is_vlm:
            return "the model is trained with tools or images"
        for name in TRL_SAMPLING_ARGUMENTS:
            if getattr(self.args, name) is not None:
                return f"only TRL's sampling reads {name} of training.extra"
        return decoder_support.unsupported_reason(self.accelerator.unwrap_model(self.model))

    def _unsupported_scoring_reason(self, is_tested: bool) -> str | None:
        """Why log-probabilities cannot be computed fast; None if they can.

        Args:
            is_tested: whether the model is of a kind that the decoder supports, which needs no probe.
        """
        if self.tools or self._is_vlm:
            return "the model is trained with tools or images"
        if self.aux_loss_enabled:
            return (
                "only TRL's code computes the loss that balances the experts"
                " (training.extra={router_aux_loss_coef: 0} leaves it out)"
            )
        model = self.accelerator.unwrap_model(self.model)
        if reason := scoring_support.unsupported_reason(model):
            return reason
        if is_tested:
            return None
        with self.accelerator.autocast():
            return scoring_probe.disagreement(model, self._logprob_dtype())

    def _fall_back(self, reason: str) -> None:
        self._samples_fast = self._scores_fast = False
        self._notify("warning", f"The fast step is off; TRL's code is used instead: {reason}")

    def _notify(self, level: Any, text: str) -> None:
        self._recorder.emit(Noticed(level=level, source="engine", text=text))

    def discard_step(self) -> None:
        super().discard_step()
        self._precomputed = None

    # -- rollout ----------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._precomputed = None
        batch = super()._generate_and_score_completions(inputs)
        if self._precomputed is not None:
            # TRL shuffles the rows next. This column records where each row was before.
            batch["row"] = torch.arange(len(inputs), device=batch["completion_ids"].device)
        return batch

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        is_check_due = self._is_check_due()
        draws_otherwise = self._sampling_weights != "model" and self._samples_fast
        drawn = DrawnLogprobs()
        self._drawn = drawn if is_check_due or draws_otherwise else None
        self.use_vllm = self.args.use_vllm
        completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        is_fast = self._samples_fast or self._scores_fast
        if is_check_due and is_fast and not self._check_agreement(completion_ids, drawn):
            # The completions come from another policy than the loss scores.
            completion_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self._drawn = None
        # TRL corrects the loss for completions that another policy drew if it takes that for vLLM.
        self.use_vllm = logprobs is not None
        self._scores_old_policy = self.use_vllm and self.vllm_importance_sampling_correction
        if self._sampling_weights != "model" and not self.use_vllm and not self._noted_own_weights:
            self._noted_own_weights = True
            self._notify(
                "warning", "training.sampling_weights is without effect: TRL's code samples"
            )
        return completion_ids, logprobs

    def _generate_completion_ids(
        self, progress: GenerationProgress, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        self._prompt_ids = prompt_ids
        self._check_lengths(prompt_ids)
        if not self._samples_fast:
            return super()._generate_completion_ids(progress, prompt_ids, *args, **kwargs)
        settings = self.generation_config
        shared_sampler, on_tokens = None, progress.on_tokens
        if not self._process_group.is_single:
            shared_sampler = SharedSampler(self._process_group, len(prompt_ids) * self.world_size)
            on_tokens = partial(progress.on_tokens, global_counts=shared_sampler.counts)
        with (
            unwrap_model_for_generation(self.model_wrapped, self.accelerator) as model,
            torch.no_grad(),
        ):
            completion_ids = generate_in_chunks(
                model,
                prompt_ids,
                self._token_sampler(),
                self._rollout_rows,
                max_new_tokens=settings.max_new_tokens,
                eos_token_ids=self.eos_token_ids,
                pad_token_id=settings.pad_token_id,
                should_stop=self._recorder.stop_requested,
                on_tokens=on_tokens,
                on_draw=None if self._drawn is None else self._drawn.add,
                bucket=self._length_bucket,
                shared_sampler=shared_sampler,
                weights=self._sampling_weights,
                graphs=self._graphs,
            )
        if self._sampling_weights == "model" or self._drawn is None:
            return completion_ids, None
        return completion_ids, self._drawn.of_rows(range(len(completion_ids)))

    def _check_lengths(self, prompt_ids: list[list[int]]) -> None:
        """Leave sequences to TRL whose length would change the rotary embedding while they grow."""
        limit = longest_exact_sequence(self.accelerator.unwrap_model(self.model))
        if limit is None or not (self._samples_fast or self._scores_fast):
            return
        longest = max(map(len, prompt_ids)) + self.max_completion_length
        longest = max(self._process_group.all_gather(longest))
        if longest > limit:
            self._fall_back(
                f"a prompt with its completion may have {longest} tokens, and beyond {limit} tokens"
                " the model's rotary embedding depends on the length"
            )

    def _token_sampler(self) -> TokenSampler:
        """Sampling parameters of the run."""
        return token_sampler(self.args, self.args.temperature)

    # -- while the judge works --------------------------------------------------------------

    def _during_judging(self, completion_ids: list[list[int]]) -> None:
        """Run the forward pass of the loss, which needs no verdicts, while the judge works."""
        if self._precomputed is not None or not (
            self._scores_fast and self._is_single_batch_step() and self.model.training
        ):
            return
        self._precompute(*self._pad_like_trl(self._prompt_ids, completion_ids))

    def _precompute(self, ids: torch.Tensor, mask: torch.Tensor, logits_to_keep: int) -> None:
        """Run the forward pass of the loss ahead of the loss."""
        self._recorder.enter_phase("update", self._current_step)
        with torch.enable_grad():
            logprobs, entropies = self._fast_logprobs(
                self.model, ids, mask, logits_to_keep, entropy=True
            )
        assert entropies is not None
        self._precomputed = PrecomputedLogprobs(logprobs, entropies)

    def _is_single_batch_step(self) -> bool:
        """Whether a rollout is a single micro-batch that is used for a single update."""
        args = self.args
        batches = (args.steps_per_generation, args.gradient_accumulation_steps, self.num_iterations)
        return batches == (1, 1, 1)

    def _pad_like_trl(
        self, prompts: list[list[int]], completion_ids: list[list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Pad rows as TRL will for the loss.

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

        ids = (padded(prompts, None, "left"), padded(completion_ids, None, "right"))
        mask = (padded(prompts, 0, "left"), padded(completion_ids, 0, "right"))
        return torch.cat(ids, dim=1), torch.cat(mask, dim=1), ids[1].shape[1]

    # -- update -----------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        self._row_order = inputs.pop("row", None)
        self.use_vllm = "importance_sampling_ratio" in inputs  # also after a resume
        return super()._compute_loss(model, inputs)

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
    ) -> LogprobOutputs:
        of_old_policy, self._scores_old_policy = self._scores_old_policy, False
        unsupported = compute_aux_loss or any(value is not None for value in other.values())
        if not self._scores_fast or unsupported:
            outputs: LogprobOutputs = super()._get_per_token_logps_and_entropies(
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
        if (
            of_old_policy
            and self._is_single_batch_step()
            and self.model.training
            and not self.args.gradient_checkpointing
        ):
            # The update is the first one of this policy, so the loss's own forward pass has these values.
            self._precompute(input_ids, attention_mask, logits_to_keep)
            assert self._precomputed is not None
            return self._precomputed.logprobs.detach(), None, None
        self._mark_reference_phase()
        order = self._row_order
        if self._precomputed is not None and order is not None and torch.is_grad_enabled():
            precomputed, self._precomputed = self._precomputed, None
            return precomputed.logprobs[order], precomputed.entropies[order], None
        # In a rollout TRL asks for batches of the update's size, which limits memory like the update's.
        rows_at_once = batch_size or len(input_ids)
        logprobs, entropies = [], []
        for start in range(0, len(input_ids), rows_at_once):
            rows = slice(start, start + rows_at_once)
            part, entropy = self._fast_logprobs(
                model, input_ids[rows], attention_mask[rows], logits_to_keep, compute_entropy
            )
            logprobs.append(part)
            entropies += [] if entropy is None else [entropy]
        return torch.cat(logprobs), torch.cat(entropies) if entropies else None, None

    # -- log-probabilities, and their agreement ---------------------------------

    def _fast_logprobs(
        self, model: Any, ids: torch.Tensor, mask: torch.Tensor, logits_to_keep: int, entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities and, on request, entropies of the completion tokens, (rows, logits_to_keep)."""
        unwrapped = self.accelerator.unwrap_model(model)
        compute = partial(
            completion_logprobs,
            unwrapped,
            ids,
            mask,
            logits_to_keep,
            self.temperature,
            with_entropy=entropy,
            entropy_gradient=self._entropy_bonus_enabled,
            bucket=self._length_bucket,
        )
        with self.accelerator.autocast():
            if self._process_group.is_single or not torch.is_grad_enabled():
                return compute()
            # Only a forward pass of the wrapper prepares it for the gradients of the backward pass.
            outputs: tuple[torch.Tensor, torch.Tensor | None] = _ForwardRedirection()(
                self.model_wrapped, unwrapped, compute
            )
            return outputs

    def _is_check_due(self) -> bool:
        """Whether the next rollout is checked."""
        if not (self._samples_fast or self._scores_fast):
            return False
        if self._last_check is None or self._current_step >= self._last_check + CHECK_INTERVAL:
            return True
        return not self._adapter_checked and self._weights_differ_from_base()

    def _weights_differ_from_base(self) -> bool:
        """Whether the policy is not the base model anymore; an adapter is visible once its B is not zero."""
        ups = [weight for name, weight in self.model.named_parameters() if ".lora_B." in name]
        return any(bool(up.any()) for up in ups) if ups else self._weight_delta.change().model > 0

    def _check_agreement(self, completion_ids: list[list[int]], drawn: DrawnLogprobs) -> bool:
        """Compare the log-probabilities of two rows, with the adapter on; fall back if they differ.

        Where TRL's code samples or scores, its part is not compared.

        Returns:
            Whether the completions can be used: they were drawn from the policy that the loss will score.
        """
        rows = rows_to_compare([len(ids) for ids in completion_ids], self.num_generations)
        prompts, completions = (
            [ids[row] for row in rows] for ids in (self._prompt_ids, completion_ids)
        )
        ids, mask, width = self._pad_like_trl(prompts, completions)
        is_token = mask[:, -width:].cpu()
        with torch.no_grad():
            trl = torch.zeros(len(rows), width)
            # One row at a time and without padding: TRL's code needs more memory and time for a batch.
            for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
                logprobs, _, _ = CheckpointedGRPOTrainer._get_per_token_logps_and_entropies(
                    self, self.model, *self._pad_like_trl([prompt], [completion])
                )
                trl[index, : logprobs.shape[1]] = logprobs[0].float().cpu()
            scored = trl
            if self._scores_fast:
                fast, _ = self._fast_logprobs(self.model, ids, mask, width, entropy=False)
                scored = fast.float().cpu()
        as_drawn = drawn.padded(rows, width) if self._samples_fast else scored
        # Use the largest value of all ranks, so that all ranks decide the same.
        differences = self._process_group.all_gather(
            tuple(
                mean_difference(a, b, is_token)
                for a, b in ((scored, trl), (as_drawn, scored), (as_drawn, trl))
            )
        )
        from_trl, gap, drawn_from_trl = (worst(values) for values in zip(*differences, strict=True))
        if self._samples_fast:
            self._recorder.record_logprob_gap(gap)
        dtype = self._logprob_dtype()
        differs, is_first = self._weights_differ_from_base(), self._last_check is None
        if not agrees(from_trl, dtype):
            self._fall_back(f"log-probabilities differ from TRL's by {from_trl:.1e} on average")
        elif self._sampling_weights == "model" and not agrees(gap, dtype):
            self._fall_back(
                f"log-probabilities of the drawn tokens differ from the loss's by {gap:.1e} on average"
            )
        elif is_first or (differs and not self._adapter_checked):
            agreements = [f"with TRL's within {from_trl:.0e}"] if self._scores_fast else []
            agreements += [f"with the sampling's within {gap:.0e}"] if self._samples_fast else []
            self._notify(
                "info",
                f"Fast step: log-probabilities agree {' and '.join(agreements)}"
                + ("" if is_first else ", with the trained weights"),
            )
        self._last_check = self._current_step
        self._adapter_checked = self._adapter_checked or differs
        if self._sampling_weights != "model":  # TRL's code has no correction
            return self._samples_fast
        if self.args.use_vllm:  # the loss is corrected for what it draws
            return True
        return agrees(drawn_from_trl, dtype)

    def _logprob_dtype(self) -> str:
        """Number format in which the log-probabilities are computed."""
        weight_dtype = (
            self.accelerator.unwrap_model(self.model).get_output_embeddings().weight.dtype
        )
        autocast_dtype = "float16" if self.args.fp16 else "bfloat16" if self.args.bf16 else ""
        return autocast_dtype or str(weight_dtype).removeprefix("torch.")
