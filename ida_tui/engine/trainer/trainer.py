"""TRL's GRPO trainer, watched.

`WatchedTrainer` computes exactly what `trl.GRPOTrainer` computes (`tests/engine/test_parity.py` compares losses
and final weights). Each override calls TRL's own code and tells the watcher what happened; two of them
also guard: a number that is not finite ends the run before it reaches the weights, and with clipping
off no gradient norm is computed through the scaler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from trl import GRPOTrainer

from ida_tui.config.schema import AXES
from ida_tui.engine.device import device as devices
from ida_tui.engine.device.rank_figures import figures
from ida_tui.engine.distributed.process_group import Ranks
from ida_tui.engine.exceptions import NonFinite
from ida_tui.engine.model.load import WeightDelta
from ida_tui.engine.rollout.progress import Heartbeat, heard
from ida_tui.engine.trainer.prompt_sampler import ResumedSampler
from ida_tui.engine.trainer.recorder import Movement, Watcher
from ida_tui.engine.trainer.reward import Judge, Row
from ida_tui.events.types import (
    MOST,
    CheckpointSaved,
    CompletionFinished,
    RankFigures,
    RolloutStarted,
    RunPaused,
    RunResumed,
)
from ida_tui.runs.log.disk_errors import Refusal, refusal
from ida_tui.runs.log.writer import LOOK_AGAIN_S
from ida_tui.runs.store import checkpoints

DEVICE_RNG = "device_rng.pt"
"""Metal's random numbers in a checkpoint: transformers saves CUDA's alone."""
RANDOM = "rng_state.pth"
"""The other random numbers in a checkpoint, by the name that transformers gives them for one process."""
MAX_SKIPPED_UPDATES = 20
"""The scaler starts at 65,536 and halves at each overflow: after this many in a row it is below 0.1."""


class WatchedTrainer(GRPOTrainer):  # type: ignore[misc]
    """`trl.GRPOTrainer` with a judge as its one reward, reporting to a `Watcher`.

    The dataset has the columns `prompt` (a conversation), `prompt_id`, `prompt_text` and `kind`.

    Args:
        watcher: is told what happens.
        judging: asks the judge.
        after_step: called when a step is complete, on the trainer's thread.
        between_steps: called after every step but the last, where everything can be saved.
        checkpoint_facts: what a checkpoint's seal says of the run.
        optimizer: class and arguments of an optimizer that transformers does not know by name.
        ranks: the processes of the run; what happens to the step's rows on all of them is told by rank 0.
        **arguments: `trl.GRPOTrainer`'s own, without `reward_funcs`.
    """

    def __init__(
        self,
        *,
        watcher: Watcher,
        judging: Judge,
        after_step: Callable[[], None] = lambda: None,
        between_steps: Callable[[], None] = lambda: None,
        checkpoint_facts: Callable[[], Mapping[str, Any]] = dict,
        optimizer: tuple[Any, dict[str, Any]] | None = None,
        ranks: Ranks | None = None,
        **arguments: Any,
    ) -> None:
        self._ranks = ranks or Ranks()
        self._tokens = 0
        self._watcher = watcher
        self._judging = judging
        self._after_step = after_step
        self._between_steps = between_steps
        self._checkpoint_facts = checkpoint_facts
        self._writing_to: str | None = None
        self._in_rollout = False
        self._epochs_done = 0
        self._skipped_in_a_row = 0
        self._non_finite = 0
        self._randomness: devices.Randomness | None = None
        super().__init__(reward_funcs=self.r_ida, **arguments)
        # transformers' own argument for it, which TRL's constructor does not pass on.
        self.optimizer_cls_and_kwargs = optimizer
        self._weight_delta = WeightDelta(self.model)

    @property
    def processes(self) -> int:
        """How many train together."""
        return self._ranks.world

    @property
    def _current_step(self) -> int:
        """Number of the step under way, from 1."""
        return int(self.state.global_step) + 1

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train to the end; as `trl.GRPOTrainer.train`."""
        self._randomness = devices.Randomness.now(self.accelerator.device)
        return super().train(*args, **kwargs)

    # -- data ---------------------------------------------------------------------------------

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        self._epochs_done, batches = super()._init_training_state(*args, **kwargs)
        return self._epochs_done, batches

    def _get_train_sampler(self, dataset: Any = None) -> ResumedSampler:
        theirs = super()._get_train_sampler(dataset)
        return ResumedSampler(
            lambda: self._epochs_done,
            data_source=theirs.data_source,
            mini_repeat_count=theirs.mini_repeat_count,
            batch_size=theirs.batch_size,
            repeat_count=theirs.repeat_count,
            shuffle=theirs.shuffle,
            seed=theirs.seed,
        )

    # -- rollout ------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        step = self._current_step
        rows = self._ranks.joined_rows(
            [Row(row["prompt_id"], row["prompt_text"], row["kind"]) for row in inputs]
        )
        prompts = rows[:: self.num_generations]
        self._judging.begin(step, rows)
        self._watcher.enter("generate", step)
        self._watcher.emit(
            RolloutStarted(
                step=step,
                generations=self.num_generations,
                prompt_ids=tuple(row.prompt_id for row in prompts),
                kinds=tuple(row.kind for row in prompts),
                prompts=tuple(row.prompt for row in prompts),
            )
        )
        self._in_rollout = True
        try:
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        finally:
            self._in_rollout = False
        advantages = self._ranks.joined_rows(batch["advantages"].tolist())
        self._watcher.completions_scored(step, self.num_generations, advantages)
        return batch

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        self._watcher.raise_if_stopped()
        heartbeat = Heartbeat(
            self._watcher.emit,
            self._watcher.stop_requested,
            self._current_step,
            self.eos_token_ids,
            partial(self.processing_class.batch_decode, skip_special_tokens=True),
            self._judging.ended,
        )
        try:
            completion_ids, scores = self._sample(heartbeat, prompt_ids, *args, **kwargs)
        except RuntimeError as error:
            if "probability" in str(error):
                raise NonFinite("a token's probability", self._current_step) from error
            raise
        self._watcher.raise_if_stopped()
        self._tokens = sum(map(len, completion_ids))
        if not self._ranks.alone or self.use_vllm:
            ended = sum(ids[-1] in self.eos_token_ids for ids in completion_ids)
            found = self._ranks.numbers(self._tokens, ended)
            heartbeat.count(sum(found[::2]), sum(found[1::2]))
        heartbeat.beat(len(completion_ids) * self._ranks.world)
        return completion_ids, scores

    def _sample(
        self, heartbeat: Heartbeat, prompt_ids: list[list[int]], *args: Any, **kwargs: Any
    ) -> tuple[list[list[int]], Any]:
        """The completions' token ids, one list a row, and vLLM's log-probabilities where it sampled them."""
        if self.use_vllm:
            found, scores = super()._generate_single_turn(prompt_ids, *args, **kwargs)
            return list(found), scores
        with heard(self.accelerator.unwrap_model(self.model_wrapped), heartbeat):
            completion_ids, _ = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return list(completion_ids), None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        self._enter_reference()
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    def _enter_reference(self) -> None:
        """Within the rollout, scoring is the reference's (or the old policy's) pass, else the loss's."""
        if self._in_rollout:
            self._watcher.enter("reference", self._current_step)

    def r_ida(
        self,
        completions: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        prompt_id: list[str],
        prompt_text: list[str],
        kind: list[Any],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """The one reward function: R_IDA of each completion, or None where there is no verdict.

        TRL calls it with a list per column, one item per completion, and reports it by its name.
        """
        step, size = self._current_step, self.num_generations
        rows = self._ranks.joined_rows(
            [
                (
                    prompt_id[row],
                    prompt_text[row],
                    kind[row],
                    turns[-1]["content"],
                    completion_ids[row],
                )
                for row, turns in enumerate(completions)
            ]
        )
        self._watcher.completions_finished(
            [
                CompletionFinished(
                    step=step,
                    group=row // size,
                    index=row % size,
                    prompt_id=about,
                    prompt=prompt,
                    text=text,
                    tokens=len(ids),
                    ended=ids[-1] in self.eos_token_ids,
                )
                for row, (about, prompt, _, text, ids) in enumerate(rows)
            ],
            [of for _, _, of, _, _ in rows],
        )
        texts = [text for _, _, _, text, _ in rows]
        if not self._ranks.alone:
            for row, text in enumerate(texts):
                self._judging.ended(row, text)
        self._while_judged(completion_ids)
        self._watcher.enter("judge", step)
        verdicts, stats = self._judging.verdicts(texts, size)
        self._watcher.judged(step, verdicts, stats)
        for axis in AXES:
            scores = [score for v in verdicts if (score := getattr(v, axis)) is not None]
            if scores:
                log_metric(axis, sum(scores) / len(scores))
        return [verdict.r_ida for verdict in verdicts[self._ranks.part(len(verdicts))]]

    def _while_judged(self, completion_ids: list[list[int]]) -> None:
        """What can be computed while verdicts are out; here nothing."""

    # -- update -------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        inputs = super()._prepare_inputs(generation_batch)
        self._watcher.enter("update", self._current_step)
        return inputs

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward and backward pass over a micro-batch; returns its loss, a scalar."""
        self._watcher.raise_if_stopped()
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self._ranks.any(not torch.isfinite(loss)):
            raise NonFinite("the loss", self._current_step)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient's norm, without touching the gradients.

        transformers would compute it through the scaler, which unscales the gradients in place and
        refuses 16-bit ones; dividing the scaled norm by the scale gives the same number.
        """
        scaler = self.accelerator.scaler
        if scaler is None:
            grad_norm = super()._get_grad_norm(model, grad_norm)
        elif grad_norm is None:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(gradients) / scaler.get_scale()
        if torch.isfinite(torch.as_tensor(grad_norm)):
            self._skipped_in_a_row = 0
            return grad_norm
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        self._non_finite = sum(int((~torch.isfinite(g)).sum()) for g in gradients)
        if scaler is None:
            raise NonFinite("the gradient", self._current_step)
        # With a scaler an overflow is ordinary: it skips the update and lowers its scale.
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row > MAX_SKIPPED_UPDATES:
            raise NonFinite("the gradient (at every scale)", self._current_step)
        return grad_norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's figures of a step, on their way to its callbacks; here the step is complete."""
        super().log(logs, start_time)
        if "loss" not in logs:
            return
        change, scaler = self._weight_delta.change(), self.accelerator.scaler
        # Beyond what a figure can be they are as good as not finite: the next step would be.
        if not all(figure <= MOST for figure in (change.relative, change.norm, change.largest)):
            raise NonFinite("a weight", int(self.state.global_step))
        self._watcher.step_finished(
            int(self.state.global_step),
            logs,
            Movement(
                relative=change.relative,
                norm=change.norm,
                largest=change.largest,
                skipped=bool(self.accelerator.optimizer_step_was_skipped),
                non_finite=self._non_finite,
                loss_scale=scaler.get_scale() if scaler else None,
            ),
            self._rank_figures(),
        )
        self._non_finite = 0
        self._judging.after_step(int(self.state.global_step))
        self._after_step()
        self._randomness = devices.Randomness.now(self.accelerator.device)
        if self.state.global_step < self.state.max_steps:
            self._between_steps()

    def _rank_figures(self) -> tuple[RankFigures, ...]:
        """What every process of the run holds, and how fast it is; nothing where there is one."""
        if self._ranks.alone:
            return ()
        mine = figures(self._tokens, self._watcher.seconds, self.accelerator.device)
        return tuple(self._ranks.every(mine))

    def drop_step(self) -> None:
        """Let go of gradients and of what the step under way has computed."""
        self._buffered_inputs = None
        self.model.zero_grad(set_to_none=True)

    @property
    def weight_delta(self) -> float:
        """Relative change of the trainable weights since the start."""
        return self._weight_delta.change().relative

    # -- checkpoints --------------------------------------------------------------------------

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Cards are written at export; TRL's would ask the hub about the base model."""

    def store_flos(self) -> None:
        """As transformers counts them, of this process alone: rank 0 also saves when the others are gone."""
        self.state.total_flos += self.current_flos
        self.current_flos: float = 0

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not self._ranks.first:
            return
        step = int(self.state.global_step)
        self._watcher.enter("save", step)
        folder = Path(self.args.output_dir)
        refused: Refusal | None = None
        while True:
            try:
                path = checkpoints.save(
                    folder,
                    step,
                    partial(self._write_checkpoint, model, trial),
                    r_ida=self._watcher.r_ida,
                    facts=self._checkpoint_facts(),
                    keep=self.args.save_total_limit or 1,
                )
                break
            except (OSError, RuntimeError, SafetensorError) as error:
                now = refusal(error, folder.parent)
                if now is None:
                    raise
            if now != refused:
                refused = now
                self._watcher.emit(RunPaused(step, now.reason, now.hint, by="disk"))
            self._watcher.wait(LOOK_AGAIN_S)
        if refused:
            self._watcher.emit(RunResumed(step))
        self._watcher.emit(CheckpointSaved(step=step, path=str(path)))

    def _write_checkpoint(self, model: Any, trial: Any, folder: Path) -> None:
        """transformers' own files of a checkpoint, and the device's random numbers where it forgets them."""
        self._writing_to = str(folder)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writing_to = None
        # It makes a folder of its own below the one that it is given.
        made = folder / f"checkpoint-{self.state.global_step}"
        for file in made.iterdir():
            file.replace(folder / file.name)
        made.rmdir()
        if not self._ranks.alone:
            # Rank 0's, for however many processes go on: with the fast engine they are everybody's.
            (folder / "rng_state_0.pth").replace(folder / RANDOM)
            devices.keep_one_device(folder / RANDOM)
        if self.accelerator.device.type == "mps":
            state = devices.Randomness.now("mps").device_state
            torch.save(state, folder / DEVICE_RNG)

    def _get_output_dir(self, trial: Any) -> str:
        return self._writing_to or str(super()._get_output_dir(trial))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint and not self._ranks.alone:
            devices.restore_kept(Path(checkpoint) / RANDOM)
            return
        super()._load_rng_state(checkpoint)
        kept = Path(checkpoint or "") / DEVICE_RNG
        if checkpoint and kept.is_file():
            state = torch.load(kept, weights_only=True)
            devices.Randomness("mps", torch.get_rng_state(), state).restore()

    def load(self, checkpoint: Path) -> None:
        """Take the weights of a checkpoint, to go on without training."""
        self._load_from_checkpoint(str(checkpoint))
        self.state.global_step = int(checkpoint.name.rsplit("-", 1)[1])

    def save_checkpoint_now(self) -> None:
        """Write a checkpoint of the last finished step, outside the trainer's own schedule.

        Its random numbers are those from before the step under way: a run that is resumed from it
        samples that step as this one did.
        """
        if self._randomness is None:
            self._save_checkpoint(self.model_wrapped, trial=None)
            return
        with self._randomness.restored():
            self._save_checkpoint(self.model_wrapped, trial=None)
