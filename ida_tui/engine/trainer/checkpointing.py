"""Checkpoint saving and loading for the trainer: sealed with checksums, retried after disk errors."""

from __future__ import annotations

import math
import pickle
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
from safetensors import SafetensorError
from transformers import TrainerState
from trl.trainer.utils import split_tensor_dict

from ida_tui.engine.device import device
from ida_tui.engine.distributed.process_group import ProcessGroup
from ida_tui.engine.distributed.sharding import gather, load_parts, shard_optimizer_state
from ida_tui.engine.distributed.work import SaveCheckpoint
from ida_tui.engine.trainer.parallel import ParallelGRPOTrainer
from ida_tui.engine.trainer.recorder import StepRecorder
from ida_tui.engine.trainer.rollout_copy import RolloutCopy, concatenate_rows, to_device
from ida_tui.errors import IdaError, out_of_memory_message, short_text
from ida_tui.events.types import CheckpointSaved
from ida_tui.runs.log.disk_errors import (
    MIN_REPORTED_WAIT_S,
    disk_wait_notice,
    retry_while_disk_refuses,
)
from ida_tui.runs.store import checkpoints
from ida_tui.util.paths import display_path

T = TypeVar("T")
MPS_RNG_FILE = "device_rng.pt"
"""Checkpoint file with the state of Metal's random number generator. transformers saves only CUDA's."""
RNG_FILE = "rng_state.pth"
"""Checkpoint file with all other generator states. transformers uses this name for a single process."""


class CheckpointedGRPOTrainer(ParallelGRPOTrainer):
    """`trl.GRPOTrainer` that saves and loads the checkpoints of a run directory.

    Args:
        recorder: emits the events.
        process_group: the processes of the run. Only rank 0 saves.
        checkpoint_metadata: returns the run metadata that a checkpoint's seal stores.
        **arguments: arguments of `trl.GRPOTrainer`.
    """

    def __init__(
        self,
        *,
        recorder: StepRecorder,
        process_group: ProcessGroup,
        checkpoint_metadata: Callable[[], Mapping[str, Any]],
        **arguments: Any,
    ) -> None:
        self._recorder = recorder
        self._checkpoint_metadata = checkpoint_metadata
        self._checkpoint_output_dir: str | None = None
        self._rng_before_step: device.RngState | None = None
        self._rollout_copy: RolloutCopy | None = None
        super().__init__(process_group=process_group, **arguments)

    # -- reused completions -----------------------------------------------------------------------

    @property
    def rollout_step(self) -> int | None:
        """The earlier step whose completions the step in progress reuses; None if it generated its own."""
        copy = self._rollout_copy
        return copy.step if copy is not None and copy.step <= self.state.global_step else None

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """Get the next micro-batch, and copy a new rollout if later steps reuse it."""
        buffered = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        args = self.args
        passes = args.steps_per_generation * self.num_iterations
        is_reused = passes > args.gradient_accumulation_steps
        if is_reused and self._buffered_inputs is not buffered:
            rows = to_device(concatenate_rows(self._buffered_inputs), "cpu")
            step = int(self.state.global_step) + 1
            self._rollout_copy = RolloutCopy(step, self._process_group.all_gather(rows))
        return inputs

    def _passes_since_rollout(self, step: int) -> int:
        """Passes since the last rollout, after this many steps; 0 if the next step starts with a rollout."""
        passes = step * self.args.gradient_accumulation_steps
        return int(passes % (self.args.steps_per_generation * self.num_iterations))

    def _restore_rollout(self, checkpoint: Path) -> None:
        """Reuse the completions in a checkpoint if its next step does."""
        step = step_of_checkpoint(checkpoint)
        # TRL counts passes from the start of the process. The next rollout depends on this count.
        self._step = step * self.args.gradient_accumulation_steps
        loaded = RolloutCopy.load(checkpoint)
        if loaded is None or not self._passes_since_rollout(step):
            return
        self._rollout_copy, self._recorder.reward = loaded
        rows = self._rollout_copy.rows_of_rank(
            self._process_group.rank,
            self._process_group.world_size,
            self.processing_class.pad_token_id,
            self.args.steps_per_generation // self.args.gradient_accumulation_steps,
        )
        self._buffered_inputs = split_tensor_dict(
            to_device(rows, self.accelerator.device), self.args.steps_per_generation
        )

    # -- save -----------------------------------------------------------------------------------

    def capture_rng_before_step(self) -> None:
        """Remember the random number state from which the next step starts, for `save_checkpoint_now`."""
        self._rng_before_step = device.RngState.capture(self.accelerator.device)

    def save_checkpoint_now(self) -> None:
        """Write a checkpoint of the last finished step, outside the regular schedule.

        It stores the random number generators as they were before the step in progress, so that a run
        resumed from it samples the same completions in that step.
        """
        if self._rng_before_step is None:
            self._save_checkpoint(self.model_wrapped, trial=None)
            return
        with self._rng_before_step.use():
            self._save_checkpoint(self.model_wrapped, trial=None)

    def _perform(self, work: Any) -> None:
        if not isinstance(work, SaveCheckpoint):
            super()._perform(work)
        elif self.has_finite_weights:
            self.save_checkpoint_now()

    @property
    def has_finite_weights(self) -> bool:
        """Whether the trained weights are finite."""
        raise NotImplementedError

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self._gathered_state():
            if self._process_group.is_rank_zero:
                self._save_on_rank_zero(model, trial)

    @contextmanager
    def _gathered_state(self) -> Iterator[None]:
        """Inside the block, rank 0 saves whole weights and optimizer state; all ranks enter it together."""
        with self.gathered_weights():
            if not self.trains_shards:
                yield
                return
            optimizer = self.optimizer
            state = gather(optimizer.state_dict(), keep=self._process_group.is_rank_zero)
            with mock.patch.object(optimizer, "state_dict", return_value=state):
                yield

    def _save_on_rank_zero(self, model: Any, trial: Any) -> None:
        step = int(self.state.global_step)
        self._recorder.enter_phase("save", step)
        folder = Path(self.args.output_dir)
        path = self.save_with_retries(
            lambda: checkpoints.save_checkpoint(
                folder,
                step,
                partial(self._write_checkpoint, model, trial),
                reward=self._recorder.reward,
                metadata=self._checkpoint_metadata(),
                keep=self.args.save_total_limit or 1,
            ),
            folder.parent,
        )
        self._recorder.emit(CheckpointSaved(step=step, path=str(path)))

    def save_with_retries(self, save: Callable[[], T], folder: Path) -> T:
        """Call a function that saves weights until the disk accepts them, and return its result.

        Args:
            save: called again after every disk error.
            folder: the run directory.

        Raises:
            Exception: the error of `save`, if the disk is not its cause.
        """
        paused_before_s = self._recorder.clock.excluded_s
        result = retry_while_disk_refuses(
            save,
            folder,
            int(self.state.global_step),
            self._recorder.emit,
            errors=(OSError, RuntimeError, SafetensorError),
            wait=self._recorder.wait,
        )
        paused_s = self._recorder.clock.excluded_s - paused_before_s
        if paused_s >= MIN_REPORTED_WAIT_S:
            self._recorder.emit(disk_wait_notice(paused_s))
        return result

    def _write_checkpoint(self, model: Any, trial: Any, folder: Path) -> None:
        """Write transformers' checkpoint files, plus the generator state of a Metal device, into a folder."""
        self._checkpoint_output_dir = str(folder)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._checkpoint_output_dir = None
        # transformers creates a subfolder of its own. Move its files up.
        subfolder = folder / f"checkpoint-{self.state.global_step}"
        for file in subfolder.iterdir():
            file.replace(folder / file.name)
        subfolder.rmdir()
        if not self._process_group.is_single:
            # Save rank 0's state for any number of processes: the fast engine uses it on all ranks.
            (folder / "rng_state_0.pth").replace(folder / RNG_FILE)
            device.keep_own_cuda_rng_state(folder / RNG_FILE)
        if self._rollout_copy is not None and self._passes_since_rollout(self.state.global_step):
            self._rollout_copy.save(folder, self._recorder.reward)
        if self.accelerator.device.type == "mps":
            state = device.RngState.capture("mps").device_state
            torch.save(state, folder / MPS_RNG_FILE)

    def _get_output_dir(self, trial: Any) -> str:
        return self._checkpoint_output_dir or str(super()._get_output_dir(trial))

    def store_flos(self) -> None:
        """Count FLOPs of this process only, so that rank 0 can save after the other ranks have exited."""
        self.state.total_flos += self.current_flos
        self.current_flos: float = 0

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `ida-tui export` writes the model card. TRL's would query the hub for its base."""

    # -- load -----------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | None = None, **arguments: Any) -> Any:
        """Train until the last step, from the start or from a checkpoint.

        Raises:
            IdaError: a file of the checkpoint is damaged.
        """
        if resume_from_checkpoint is not None:
            with self._loading(resume_from_checkpoint, "trainer_state.json") as folder:
                _check_trainer_state(folder)
            with self._loading(resume_from_checkpoint, "its completions to reuse") as folder:
                self._restore_rollout(folder)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **arguments)

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Load the weights and the step number of a checkpoint, without training.

        Raises:
            IdaError: the weights are damaged.
        """
        self._load_from_checkpoint(str(checkpoint))
        self.state.global_step = step_of_checkpoint(checkpoint)

    def _load_from_checkpoint(self, checkpoint: str, model: Any = None) -> None:
        with self._loading(checkpoint, "its weights") as folder:
            if self.trains_shards:
                load_parts(self.model, folder)
            else:
                super()._load_from_checkpoint(checkpoint, model)

    def _load_callback_state(self) -> None:
        super()._load_callback_state()
        # The state in the checkpoint has the intervals of the process that saved it.
        self.state.compute_steps(self.args, self.args.max_steps)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        expected = [dict(group) for group in self.optimizer.param_groups]
        optimizer = self.optimizer
        load = optimizer.load_state_dict
        with (
            self._loading(checkpoint, "optimizer.pt or scheduler.pt"),
            mock.patch.object(
                optimizer,
                "load_state_dict",
                lambda state: load(shard_optimizer_state(state, optimizer)),
            ),
        ):
            super()._load_optimizer_and_scheduler(checkpoint)
            _check_optimizer(self.optimizer, expected)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with self._loading(checkpoint, "scaler.pt"):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with self._loading(checkpoint, RNG_FILE):
            if checkpoint and not self._process_group.is_single:
                device.restore_rng_file(Path(checkpoint) / RNG_FILE)
                return
            super()._load_rng_state(checkpoint)
            device_file = Path(checkpoint or "") / MPS_RNG_FILE
            if checkpoint and device_file.is_file():
                state = torch.load(device_file, weights_only=True)
                device.RngState("mps", torch.get_rng_state(), state).restore()

    @contextmanager
    def _loading(self, checkpoint: str | None, content: str) -> Iterator[Path]:
        """Inside the block, every error of the libraries means that this content is damaged.

        Raises:
            IdaError: the content is damaged.
        """
        folder = Path(checkpoint or "")
        try:
            yield folder
        except Exception as error:
            # Do not save what was loaded in part.
            self.state.global_step = 0
            if isinstance(error, IdaError) or out_of_memory_message(error):
                raise
            reason = short_text(error) or type(error).__name__
            if isinstance(error, pickle.UnpicklingError):
                # PyTorch's own message advises to run the code in the file.
                reason = "the file is damaged, or holds code; nothing of it was run"
            shown = display_path(folder)
            raise IdaError(
                f"cannot resume from {folder.name}: {content} cannot be loaded: {reason}",
                f"remove it, to resume from the checkpoint before it: rm -r {shlex.quote(shown)}",
            ) from error


def _check_trainer_state(checkpoint: Path) -> None:
    """Check that the trainer's state has the types that transformers relies on, and its step.

    Raises:
        ValueError: it has not.
    """
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step != step_of_checkpoint(checkpoint):
        raise ValueError(f"it is of step {state.global_step}")
    fresh = TrainerState()
    for name in ("epoch", "total_flos", "num_input_tokens_seen", "log_history"):
        loaded = getattr(state, name)
        kinds = list if name == "log_history" else int | float
        if not isinstance(loaded, kinds) and loaded != getattr(fresh, name):
            raise ValueError(f"{name} has the wrong type")


def _check_optimizer(optimizer: Any, expected: list[dict[str, Any]]) -> None:
    """Check that a loaded optimizer has numbers where a new one has them, and fits its parameters.

    Raises:
        ValueError: it has not, or does not.
    """
    groups = getattr(optimizer, "optimizer", optimizer).param_groups
    for group, fresh in zip(groups, expected, strict=True):
        for name, value in fresh.items():
            loaded = group.get(name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and not (isinstance(loaded, int | float) and math.isfinite(loaded)):
                raise ValueError(f"{name} is not a number")
    for parameter, state in getattr(optimizer, "optimizer", optimizer).state.items():
        if state and not any(name.startswith("exp_avg") for name in state):
            raise ValueError("it has no moments")
        for name, value in state.items():
            if not isinstance(value, torch.Tensor | int | float | None):
                raise ValueError(f"{name} is not a number")
            if name.startswith("exp_avg") and "_row" not in name and "_col" not in name:
                shape = getattr(value, "shape", None)
                if shape != parameter.shape:
                    raise ValueError(f"{name} has the shape {shape}, not {parameter.shape}")


def step_of_checkpoint(checkpoint: Path) -> int:
    """The last finished step of a checkpoint, from the name of its folder."""
    return int(checkpoint.name.rsplit("-", 1)[1])
