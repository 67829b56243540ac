"""Checkpoint saving and loading for the trainer: sealed with checksums, retried after disk errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from trl import GRPOTrainer

from ida_tui.engine.device import device
from ida_tui.engine.distributed.process_group import ProcessGroup
from ida_tui.engine.trainer.recorder import StepRecorder
from ida_tui.events.types import CheckpointSaved
from ida_tui.runs.log.disk_errors import (
    MIN_REPORTED_WAIT_S,
    disk_wait_notice,
    retry_while_disk_refuses,
)
from ida_tui.runs.store import checkpoints

MPS_RNG_FILE = "device_rng.pt"
"""Checkpoint file with the state of Metal's random number generator. transformers saves only CUDA's."""
RNG_FILE = "rng_state.pth"
"""Checkpoint file with all other generator states. transformers uses this name for a single process."""


class CheckpointedGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
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
        self._process_group = process_group
        self._checkpoint_metadata = checkpoint_metadata
        self._checkpoint_output_dir: str | None = None
        self._rng_before_step: device.RngState | None = None
        super().__init__(**arguments)

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

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not self._process_group.is_rank_zero:
            return
        step = int(self.state.global_step)
        self._recorder.enter_phase("save", step)
        folder = Path(self.args.output_dir)
        paused_before_s = self._recorder.clock.excluded_s
        path = retry_while_disk_refuses(
            lambda: checkpoints.save_checkpoint(
                folder,
                step,
                partial(self._write_checkpoint, model, trial),
                r_ida=self._recorder.r_ida,
                metadata=self._checkpoint_metadata(),
                keep=self.args.save_total_limit or 1,
            ),
            folder.parent,
            step,
            self._recorder.emit,
            errors=(OSError, RuntimeError, SafetensorError),
            wait=self._recorder.wait,
        )
        paused_s = self._recorder.clock.excluded_s - paused_before_s
        if paused_s >= MIN_REPORTED_WAIT_S:
            self._recorder.emit(disk_wait_notice(paused_s))
        self._recorder.emit(CheckpointSaved(step=step, path=str(path)))

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

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Load the weights and the step number of a checkpoint, without training."""
        self._load_from_checkpoint(str(checkpoint))
        self.state.global_step = int(checkpoint.name.rsplit("-", 1)[1])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint and not self._process_group.is_single:
            device.restore_rng_file(Path(checkpoint) / RNG_FILE)
            return
        super()._load_rng_state(checkpoint)
        device_file = Path(checkpoint or "") / MPS_RNG_FILE
        if checkpoint and device_file.is_file():
            state = torch.load(device_file, weights_only=True)
            device.RngState("mps", torch.get_rng_state(), state).restore()
