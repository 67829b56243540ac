"""GRPO trainer: `trl.GRPOTrainer` with step events, a judge as its reward, and verified checkpoints.

`InstrumentedGRPOTrainer` computes exactly what `trl.GRPOTrainer` computes:
`tests/engine/trainer/test_parity.py` compares losses and final weights. It overrides these methods, listed
in the order of one step:

    _get_train_sampler                  order of the prompts, also after a resume
    _generate_and_score_completions     rollout: generation, reference log-probabilities, reward, advantages
    _generate_single_turn               generation, with progress events and a stop after any token
    reward                              the reward function: waits for the scores
    training_step, _get_grad_norm       loss and gradient, checked for NaN and infinity
    log                                 end of the step: StepFinished event, alerts, pauses
    _save_checkpoint                    in `checkpointing`: saves and seals, and waits while the disk is full

Each override calls TRL's method and reports what happened to a `StepRecorder`. Two overrides also change
behavior: a non-finite loss or gradient ends the run before it reaches the weights, and with a loss scaler
the gradient norm is computed without unscaling the gradients in place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ida_tui.config.conversation import Context
from ida_tui.engine.device.device import measure_rank
from ida_tui.engine.distributed.process_group import ProcessGroup
from ida_tui.engine.distributed.sharding import whole
from ida_tui.engine.exceptions import NonFiniteError
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.model.generation import without_published_sampling
from ida_tui.engine.rollout.progress import GenerationProgress, RolloutCounts, attach
from ida_tui.engine.trainer.arguments import CustomOptimizer
from ida_tui.engine.trainer.prompt_sampler import ResumableRepeatSampler
from ida_tui.engine.trainer.recorder import StepRecorder, UpdateStats
from ida_tui.engine.trainer.reference import reference_loaded_by
from ida_tui.engine.trainer.reward import PromptRow, RewardSource
from ida_tui.engine.trainer.step_work import StepAccount
from ida_tui.engine.trainer.vllm import VLLMSampledGRPOTrainer
from ida_tui.engine.trainer.weight_delta import WeightDelta
from ida_tui.events.types import MAX_NUMBER, CompletionFinished, RankFigures, RolloutStarted
from ida_tui.judge.verdict import mean_scores

MAX_SKIPPED_UPDATES = 20
"""Consecutive overflows allowed. The loss scale starts at 65,536 and halves each time, to below 0.1."""

MEANS_OVER_TOKENS = {"kl", "entropy"}
"""TRL's metrics that are means over the tokens of a micro-batch."""


@dataclass(frozen=True, slots=True)
class RolloutRow:
    """One completion of a rollout, as the ranks exchange it."""

    prompt: PromptRow
    text: str
    tokens: int
    ended: bool
    """Whether the completion ended with EOS; false if it was truncated."""
    thought_tokens: int
    token_ids: Sequence[int] = ()


class InstrumentedGRPOTrainer(VLLMSampledGRPOTrainer):
    """`trl.GRPOTrainer` with the judge as its only reward, reporting to a `StepRecorder`.

    The dataset needs the columns `prompt` (a conversation), `prompt_id`, `prompt_text`, `kind`, `context` and
    `columns` (JSON).

    Args:
        chat_format: turns completions into texts.
        recorder: records the step and emits its events.
        reward_source: supplies the verdicts of a step.
        on_step_end: called on the trainer's thread when a step is complete.
        between_steps: called after every step except the last, at a point where the state can be saved.
        checkpoint_metadata: returns the run metadata that a checkpoint's seal stores.
        optimizer: an optimizer that transformers cannot create from a name; None uses `args.optim`.
        load_reference: loads the reference model if TRL needs one; None has TRL load it by name.
        process_group: the processes of the run. Rank 0 emits events for the rows of all ranks.
        **arguments: arguments of `trl.GRPOTrainer`, without `reward_funcs`.
    """

    def __init__(
        self,
        *,
        chat_format: ChatFormat,
        recorder: StepRecorder,
        reward_source: RewardSource,
        on_step_end: Callable[[], None] = lambda: None,
        between_steps: Callable[[], None] = lambda: None,
        checkpoint_metadata: Callable[[], Mapping[str, Any]] = dict,
        optimizer: CustomOptimizer | None = None,
        load_reference: Callable[[], Any] | None = None,
        process_group: ProcessGroup | None = None,
        **arguments: Any,
    ) -> None:
        self._chat_format = chat_format
        self._reward_source = reward_source
        self._on_step_end = on_step_end
        self._between_steps = between_steps
        self._epochs_done = 0
        self._in_rollout = False
        self._reused_step: int | None = None
        self._tokens_generated = 0
        self._consecutive_skips = 0
        self._non_finite_gradients = 0
        with reference_loaded_by(load_reference):
            super().__init__(
                recorder=recorder,
                process_group=process_group or ProcessGroup(),
                checkpoint_metadata=checkpoint_metadata,
                reward_funcs=self.reward,
                **arguments,
            )
        if optimizer is not None:
            # An argument of transformers.Trainer that TRL's constructor does not forward.
            self.optimizer_cls_and_kwargs = (optimizer.optimizer_class, optimizer.arguments)
        self._weight_delta = WeightDelta(self.model)
        self._account: StepAccount | None = None

    @property
    def world_size(self) -> int:
        """Number of processes that train together."""
        return self._process_group.world_size

    @property
    def _current_step(self) -> int:
        """Number of the step in progress, from 1."""
        return int(self.state.global_step) + 1

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train until the last step, as `trl.GRPOTrainer.train`."""
        self.capture_rng_before_step()
        if self._process_group.is_single:
            model = self.accelerator.unwrap_model(self.model)
            trains_all = not hasattr(model, "get_base_model")
            self._account = StepAccount(model, self._compute_dtype(), trains_all_weights=trains_all)
        return super().train(*args, **kwargs)

    def _compute_dtype(self) -> torch.dtype:
        """Number format in which the model's matrices are multiplied."""
        if self.args.fp16 or self.args.bf16:
            return torch.float16 if self.args.fp16 else torch.bfloat16
        dtype: torch.dtype = self.accelerator.unwrap_model(self.model).dtype
        return dtype

    # -- data ---------------------------------------------------------------------------------

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Note how many epochs a checkpoint has finished, for the order of the prompts."""
        self._epochs_done, batches = super()._init_training_state(*args, **kwargs)
        return self._epochs_done, batches

    def _get_train_sampler(self, dataset: Any = None) -> ResumableRepeatSampler:
        """TRL's sampler, which continues with the next epoch's order after a resume."""
        sampler = super()._get_train_sampler(dataset)
        return ResumableRepeatSampler(
            lambda: self._epochs_done,
            data_source=sampler.data_source,
            mini_repeat_count=sampler.mini_repeat_count,
            batch_size=sampler.batch_size,
            repeat_count=sampler.repeat_count,
            shuffle=sampler.shuffle,
            seed=sampler.seed,
        )

    # -- rollout ------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Run the rollout of a step: generation, reference log-probabilities, reward and advantages.

        Args:
            inputs: this rank's rows of the dataset, one per completion.

        Returns:
            TRL's batch for the loss.
        """
        step = self._current_step
        rows = self._process_group.all_gather_rows(
            [
                PromptRow(
                    row["prompt_id"],
                    row["prompt_text"],
                    row["kind"],
                    json.loads(row["columns"]),
                    _as_context(row["context"]),
                )
                for row in inputs
            ]
        )
        prompts = rows[:: self.num_generations]
        self._reward_source.begin_step(step, rows)
        self._recorder.enter_phase("generate", step)
        self._recorder.emit(
            RolloutStarted(
                step=step,
                generations=self.num_generations,
                prompt_ids=tuple(row.prompt_id for row in prompts),
                kinds=tuple(row.kind or "" for row in prompts),
                prompts=tuple(row.prompt for row in prompts),
            )
        )
        self._in_rollout = True
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self._in_rollout = False
        advantages = self._process_group.all_gather_rows(batch["advantages"].tolist())
        self._recorder.record_scores(step, self.num_generations, advantages)
        return batch

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """Generate this rank's completions and report their progress.

        Returns:
            As `_generate_completion_ids`.

        Raises:
            NonFiniteError: a token probability is not finite.
            RunInterrupted: a stop was requested.
        """
        self._recorder.raise_if_stopped()
        progress = GenerationProgress(
            self._recorder.emit,
            self._recorder.stop_requested,
            self._current_step,
            self.eos_token_ids,
            self._chat_format.decode_all,
            self._reward_source.completion_ended,
            self._recorder.clock,
        )
        try:
            completion_ids, logprobs = self._generate_completion_ids(
                progress, prompt_ids, *args, **kwargs
            )
        except RuntimeError as error:
            if "probability" in str(error):
                raise NonFiniteError("a token probability", self._current_step) from error
            raise
        self._recorder.raise_if_stopped()
        if self._account is not None:
            self._account.record_rollout(prompt_ids, completion_ids, progress.stragglers_s)
        self._tokens_generated = sum(map(len, completion_ids))
        ended = sum(ids[-1] in self.eos_token_ids for ids in completion_ids)
        tokens_by_rank, ended_by_rank = self._process_group.all_gather_ints(
            self._tokens_generated, ended
        )
        rows = len(completion_ids) * self.world_size
        progress.emit_counts(RolloutCounts(sum(tokens_by_rank), sum(ended_by_rank), rows))
        return completion_ids, logprobs

    def _generate_completion_ids(
        self, progress: GenerationProgress, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """Generate one completion per row.

        Returns:
            The completions' token ids, and their log-probabilities if vLLM sampled them, otherwise None.
        """
        if self.use_vllm:
            vllm_ids, logprobs = super()._generate_single_turn(prompt_ids, *args, **kwargs)
            return list(vllm_ids), logprobs
        model = self.accelerator.unwrap_model(self.model_wrapped)
        with attach(model, progress), without_published_sampling(model):
            completion_ids, _ = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return list(completion_ids), None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        self._mark_reference_phase()
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _mark_reference_phase(self) -> None:
        """Start the reference phase if called within a rollout.

        Log-probabilities computed in a rollout belong to the reference model or the old policy, all others
        to the loss.
        """
        if self._in_rollout:
            self._recorder.enter_phase("reference", self._current_step)

    def reward(
        self,
        completion_ids: list[list[int]],
        prompt_id: list[str],
        prompt_text: list[str],
        kind: list[Any],
        context: list[Any],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """The reward function: the reward of each completion, or None where scoring failed.

        TRL calls it with one list per dataset column, one item per completion, and logs it under its name.

        Args:
            completion_ids: the completions' token ids.
            prompt_id: a column of the dataset, like the next three.
            prompt_text: the prompts' texts.
            kind: the prompts' kinds.
            context: the messages before the prompts' texts.
            log_metric: adds a metric to TRL's log of the step.
            **_: other columns and arguments of TRL.
        """
        step, group_size = self._current_step, self.num_generations
        texts = self._chat_format.decode_all(completion_ids)
        rows = self._process_group.all_gather_rows(
            [
                RolloutRow(
                    PromptRow(
                        prompt_id[row],
                        prompt_text[row],
                        kind[row],
                        context=_as_context(context[row]),
                    ),
                    text=text,
                    tokens=len(ids),
                    ended=ids[-1] in self.eos_token_ids,
                    thought_tokens=self._chat_format.count_thought_tokens(text, len(ids)),
                    token_ids=ids,
                )
                for row, (text, ids) in enumerate(zip(texts, completion_ids, strict=True))
            ]
        )
        self._record_completions(rows)
        if not self._process_group.is_single:
            # Rank 0 has not seen the completions of the other ranks yet.
            for index, row in enumerate(rows):
                self._reward_source.completion_ended(index, row.text)
        self._during_judging(completion_ids)
        self._recorder.enter_phase("judge", step)
        verdicts, stats = self._reward_source.collect_verdicts(
            [row.text for row in rows], group_size, [row.token_ids for row in rows]
        )
        self._recorder.record_verdicts(step, verdicts, stats)
        for axis, mean in mean_scores(verdicts).items():
            if mean is not None:
                log_metric(axis, mean)
        local_verdicts = verdicts[self._process_group.local_rows(len(verdicts))]
        return [verdict.reward for verdict in local_verdicts]

    def _record_completions(self, rows: Sequence[RolloutRow]) -> None:
        """Report the completions of all ranks to the recorder."""
        self._recorder.record_completions(
            [
                CompletionFinished(
                    step=self._current_step,
                    group=index // self.num_generations,
                    index=index % self.num_generations,
                    prompt_id=row.prompt.prompt_id,
                    prompt=row.prompt.prompt,
                    text=row.text,
                    tokens=row.tokens,
                    ended=row.ended,
                    context=row.prompt.context,
                    thought_tokens=row.thought_tokens,
                )
                for index, row in enumerate(rows)
            ],
            [row.prompt.kind for row in rows],
        )

    def _during_judging(self, completion_ids: list[list[int]]) -> None:
        """Hook for work that can run while the judge is busy. Does nothing here."""

    # -- update -------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Get the next micro-batch, with a new rollout if the step needs one; the update follows."""
        inputs = super()._prepare_inputs(generation_batch)
        self._recorder.enter_phase("update", self._current_step)
        self._reused_step = self.rollout_step
        return inputs

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        loss = super()._compute_loss(model, inputs)
        if self.mask_truncated_completions:
            tokens = self._process_group.all_reduce_sum(int(inputs["completion_mask"].sum()))
            if not tokens:
                # TRL appends zeros, although nothing was measured. It ignores NaN in the mean of a step.
                for name in MEANS_OVER_TOKENS & self._metrics["train"].keys():
                    self._metrics["train"][name][-1] = math.nan
        return loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run one forward and backward pass over a micro-batch and return its loss, a scalar.

        Raises:
            NonFiniteError: the loss is not finite on some rank.
            RunInterrupted: a stop was requested.
        """
        self._recorder.raise_if_stopped()
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self._process_group.any_rank(not torch.isfinite(loss)):
            raise NonFiniteError("the loss", self._current_step)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Return the L2 norm of the gradient without modifying the gradients.

        transformers would compute it through the loss scaler, which unscales the gradients in place and
        rejects 16-bit gradients. Dividing the norm of the scaled gradients by the scale gives the same
        number.

        Raises:
            NonFiniteError: the norm is not finite without a scaler, or after too many skipped updates.
        """
        scaler = self.accelerator.scaler
        if scaler is None:
            grad_norm = super()._get_grad_norm(model, grad_norm)
        elif grad_norm is None:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(gradients) / scaler.get_scale()
        if torch.isfinite(torch.as_tensor(grad_norm)):
            self._consecutive_skips = 0
            return grad_norm
        gradients = [whole(p.grad) for p in model.parameters() if p.grad is not None]
        self._non_finite_gradients = sum(int((~torch.isfinite(g)).sum()) for g in gradients)
        if scaler is None:
            raise NonFiniteError("the gradient", self._current_step)
        # An overflow is normal with a scaler: it skips the update and lowers the scale.
        self._consecutive_skips += 1
        if self._consecutive_skips > MAX_SKIPPED_UPDATES:
            raise NonFiniteError("the gradient (at every loss scale)", self._current_step)
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Pass TRL's metrics to its callbacks, then finish the step: events, judge drift check, pause."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        step, scaler = int(self.state.global_step), self.accelerator.scaler
        change = self._weight_delta.change()
        # Larger values do not fit an event and would overflow in the next step. The comparison fails for NaN.
        figures = (change.model, change.relative, change.norm, change.largest)
        if not all(size <= MAX_NUMBER for size in figures):
            raise NonFiniteError("a weight", step)
        self._recorder.record_step(
            step,
            logs,
            self._reused_step,
            UpdateStats(
                relative_change=change.relative,
                weight_norm=change.norm,
                largest_change=change.largest,
                skipped=bool(self.accelerator.optimizer_step_was_skipped),
                non_finite_gradients=self._non_finite_gradients,
                loss_scale=scaler.get_scale() if scaler else None,
                model_change=change.model,
            ),
            self._collect_rank_figures(),
            self._account.least_seconds() if self._account else {},
            self._account.stragglers_s if self._account else None,
        )
        self._non_finite_gradients = 0
        self._reward_source.after_step(step)
        self._on_step_end()
        self.capture_rng_before_step()
        if step < self.state.max_steps:
            self._between_steps()

    def _collect_rank_figures(self) -> tuple[RankFigures, ...]:
        """Memory use and speed of every process of the run; empty for a single process."""
        if self._process_group.is_single:
            return ()
        local_figures = measure_rank(
            self._tokens_generated, self._recorder.phase_seconds, self.accelerator.device
        )
        return tuple(self._process_group.all_gather(local_figures))

    def discard_step(self) -> None:
        """Free the gradients and everything that the step in progress has computed."""
        self._buffered_inputs = None
        self._entropy_window_stats = None
        self.model.zero_grad(set_to_none=True)

    @property
    def has_finite_weights(self) -> bool:
        """Whether the change of the trainable weights is finite, and fits an event."""
        change = self._weight_delta.change()
        # The comparison fails for NaN, which `max` would drop.
        return change.model <= MAX_NUMBER and change.relative <= MAX_NUMBER


def _as_context(column: Sequence[Sequence[str]] | None) -> Context:
    """A cell of the dataset's column `context`."""
    return tuple((role, content) for role, content in column or ())
