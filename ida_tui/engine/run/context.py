"""Shared state of one training run: config, log, trainer, control, checkpoints."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ida_tui.config.schema import Config
from ida_tui.engine.device.memory_guard import AllocationLimit
from ida_tui.engine.distributed.process_group import ProcessGroup
from ida_tui.engine.distributed.work import GatherWeights, SaveCheckpoint
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.engine.run.control import RunControl
from ida_tui.engine.run.preflight import PreflightResult
from ida_tui.events import types as ev
from ida_tui.events.sinks.dispatcher import SinkDispatcher
from ida_tui.events.state import RunState, fold
from ida_tui.rewards.functions import RewardFunctions
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.disk_errors import disk_error_of
from ida_tui.runs.log.writer import EventLog
from ida_tui.runs.resume import ResumePoint
from ida_tui.runs.store.checkpoints import sync_tree
from ida_tui.runs.store.judge_costs import JudgeCosts
from ida_tui.system import allocator
from ida_tui.system.clock import RunClock
from ida_tui.util.format import format_duration
from ida_tui.util.safe_files import replaced_directory

if TYPE_CHECKING:
    from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer

COST_EVENTS = (
    ev.JudgeBatchFinished,
    ev.JudgeProbed,
    ev.EvaluationFinished,
    ev.RunPaused,
    ev.RunResumed,
)
"""Events that state what the judge has cost so far; `RunEnded` does, too."""


@dataclass(slots=True)
class RunContext:
    """State and services that the parts of one training run share."""

    config: Config
    """The profile; a decision on a pause can replace its judge."""
    preflight: PreflightResult
    directory: RunDirectory
    log: EventLog
    control: RunControl
    costs: JudgeCosts
    """Records what the judge costs."""
    resume_point: ResumePoint | None = None
    """The checkpoint that the run resumes from; null for a new run."""
    state: RunState = field(default_factory=RunState)
    """The run's state after every event emitted so far."""
    trainer: InstrumentedGRPOTrainer | None = None
    functions: RewardFunctions | None = None
    """The reward functions of the computed axes; None without any."""
    sinks: SinkDispatcher | None = None
    """Sends the run's figures to its sinks."""
    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    """The processes that train the run; this process is rank 0."""
    allocation_limit: AllocationLimit = field(default_factory=AllocationLimit)
    clock: RunClock = field(default_factory=RunClock)
    """Seconds of training in this process."""
    seconds_before: float = 0.0
    """Seconds of training in the earlier processes of a resumed run."""
    paused_before_s: float = 0.0
    """Seconds of pauses in the earlier processes."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def emit(self, event: ev.Event) -> None:
        """Emit an event and update the run's state with it; safe from any thread.

        While a run is stopping, an event that the disk refuses is dropped, so that the run still ends; the
        main loop reports the error.
        """
        if isinstance(event, COST_EVENTS):
            event = replace(event, judge_cost=self.costs.total)
        with self._lock:
            try:
                self.state = fold(self.state, self.log.emit(event))
            except OSError as error:
                disk_error = disk_error_of(error, self.directory.path)
                if disk_error is None or not self.control.stop.is_set():
                    raise

    def report_suspension(self, seconds: float) -> None:
        """Emit a warning that the process stood still for some seconds."""
        text = f"the process was suspended for {format_duration(seconds)}; the run continues"
        notice = ev.Noticed(level="warning", source="machine", text=text, lost_s=round(seconds, 3))
        self.emit(notice)

    def raise_if_stopped(self) -> None:
        """Raise if a stop is requested.

        Raises:
            RunInterrupted: a stop is requested.
        """
        if self.control.stop.is_set():
            raise RunInterrupted

    @property
    def run_id(self) -> str:
        """The id of the run: the name of its directory when it was first started."""
        return self.state.run_ids[0] if self.state.run_ids else self.directory.run_id

    @property
    def last_step(self) -> int:
        """The last finished step; 0 before the first."""
        return self.state.steps[-1].step if self.state.steps else 0

    @property
    def is_evaluation_due(self) -> bool:
        """Whether the profile has an evaluation follow the trainer's last step, and it is not done yet."""
        step = int(self.trainer.state.global_step) if self.trainer is not None else 0
        return self.config.is_evaluated_after(step) and all(
            made.step != step for made in self.state.evaluations_during
        )

    # -- checkpoints and weights ---------------------------------------------------------------

    def checkpoint_metadata(self) -> Mapping[str, Any]:
        """Metadata of a checkpoint: what must match on resume, and the judge's totals so far."""
        config, judge = self.config, self.state.judge
        return {
            "run_id": self.run_id,
            "model": config.model.name or config.model.path,
            "method": config.training.method,
            "scoring": dict(self.state.scoring[-1].parts) if self.state.scoring else {},
            "judge": {"calls": judge.calls, "failed": judge.failed, "cost": judge.cost},
            "pass_reward": self.state.pass_reward(max(1, config.steps_per_pass())),
            **self._held_out_metadata(),
        }

    def _held_out_metadata(self) -> Mapping[str, Any]:
        """The reward of the held-out answers at the last step; empty without evaluations within the run."""
        if not self.config.evaluation.every:
            return {}
        step = self.last_step
        made = next((e for e in self.state.evaluations_during if e.step == step), None)
        return {"held_out_reward": made.reward if made is not None else None}

    def save_checkpoint(self) -> bool:
        """Save a checkpoint of the last finished step, if there is one; a failure only logs a warning.

        Weights that are not finite are not saved: they would displace good checkpoints.

        Returns:
            Whether a checkpoint of the last finished step is on disk.
        """
        if self.trainer is None or self.trainer.optimizer is None:
            return False
        step = int(self.trainer.state.global_step)
        if step == 0:
            return False  # no step to save: a new start repeats the first step exactly
        checkpoint = self.state.checkpoint
        if checkpoint is not None and checkpoint.step == step and Path(checkpoint.path).is_dir():
            return True
        if self.trainer.trains_shards and not self.process_group.is_followed:
            return False  # the other ranks cannot hear that their parts are needed
        try:
            if self.trainer.trains_shards:
                self.process_group.announce(SaveCheckpoint())
            if not self.trainer.has_finite_weights:
                return False
            self.trainer.save_checkpoint_now()
        except Exception as error:
            text = f"could not write the checkpoint of step {step}: {error}"
            self.emit(ev.Noticed(level="warning", source="engine", text=text))
            return False
        return True

    def save_weights(self) -> None:
        """Save the final weights and the tokenizer; waits while the disk rejects them."""
        assert self.trainer is not None
        step = int(self.trainer.state.global_step)
        self.emit(ev.PhaseChanged(step=step, phase="save"))
        path = self.directory.weights(self.config.training.method)
        if self.trainer.trains_shards:
            self.process_group.announce(GatherWeights())
        with self.trainer.gathered_weights():
            self.trainer.save_with_retries(partial(self._write_weights, path), self.directory.path)
        self.emit(ev.CheckpointSaved(step=step, path=str(path)))

    def _write_weights(self, path: Path) -> None:
        """Write the final weights beside their folder, then move them into place."""
        assert self.trainer is not None
        model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
        with replaced_directory(path) as folder:
            model.save_pretrained(str(folder))
            self.preflight.tokenizer.save_pretrained(str(folder))
            sync_tree(folder)

    def free_step_memory(self) -> None:
        """Free the tensors of the current step, so that a checkpoint can be written."""
        from ida_tui.engine.device import device

        if self.trainer is not None:
            self.trainer.discard_step()
        gc.collect()
        device.empty_cache(self.preflight.device)
        allocator.release_free_memory()
        self.allocation_limit.restore()
