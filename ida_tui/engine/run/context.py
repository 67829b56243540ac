"""A run that has a directory and a log: what its parts share, and what of it is kept on the disk."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ida_tui.config.schema import Config
from ida_tui.engine.device.memory_guard import AllocationCap
from ida_tui.engine.distributed.process_group import Ranks
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.engine.run.control import Control
from ida_tui.engine.run.preflight import Preflight
from ida_tui.events import types as ev
from ida_tui.events.sinks.dispatcher import Feed
from ida_tui.events.state import RunState, fold
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.disk_errors import refusal
from ida_tui.runs.log.writer import EventLog
from ida_tui.runs.resume import Resumption
from ida_tui.system import allocator

if TYPE_CHECKING:
    from ida_tui.engine.trainer.trainer import WatchedTrainer


@dataclass(slots=True)
class UnderWay:
    """One run, from its first event to its last."""

    config: Config
    """The profile; a pause that is answered with another judge changes it."""
    ready: Preflight
    directory: RunDirectory
    log: EventLog
    control: Control
    resume: Resumption | None = None
    """Where it goes on from; null while it began with nothing."""
    state: RunState = field(default_factory=RunState)
    """Everything emitted so far, folded."""
    trainer: WatchedTrainer | None = None
    feed: Feed | None = None
    """The other places that its figures are sent to."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train it; this is rank 0."""
    cap: AllocationCap = field(default_factory=AllocationCap)
    started: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def emit(self, event: ev.Event) -> None:
        """Emit an event and keep the run's own state in step with it; safe from any thread.

        A run that is stopped while its disk refuses to be written to ends all the same: what it says on the
        way is not written, and `run.train` tells so.
        """
        with self._lock:
            try:
                self.state = fold(self.state, self.log.emit(event))
            except OSError as error:
                known = refusal(error, self.directory.path)
                if known is None or not self.control.stop.is_set():
                    raise

    def raise_if_stopped(self) -> None:
        """Leave here if somebody asked the run to end.

        Raises:
            RunInterrupted: somebody did.
        """
        if self.control.stop.is_set():
            raise RunInterrupted

    def raise_if_handed_over(self) -> None:
        """Leave here if another process is to go on with the run.

        Raises:
            RunInterrupted: one is.
        """
        if self.control.handing_over:
            raise RunInterrupted

    @property
    def last_step(self) -> int:
        """The last finished step; 0 before the first."""
        return self.state.steps[-1].step if self.state.steps else 0

    # -- what is kept -------------------------------------------------------------------------

    def checkpoint_facts(self) -> Mapping[str, Any]:
        """What has to be the same when a checkpoint is resumed from, and how far the judge had come."""
        config, judge = self.config, self.state.judge
        return {
            "run_id": self.state.run.run_id if self.state.run else self.directory.run_id,
            "model": config.model.name or config.model.path,
            "method": config.training.method,
            "judge": {"calls": judge.calls, "failed": judge.failed, "cost": judge.cost},
        }

    def checkpoint(self) -> bool:
        """A checkpoint of the last finished step, if training had begun; never a second failure.

        Weights that are not finite are not saved: they would push good checkpoints out.

        Returns:
            Whether the last finished step is on the disk.
        """
        if self.trainer is None or self.trainer.optimizer is None:
            return False
        if not self.trainer.weight_delta <= ev.MOST:
            return False
        step = int(self.trainer.state.global_step)
        if step == 0:
            return False  # the run's first step is the same one again when it begins anew
        saved = self.state.checkpoint
        if saved is not None and saved.step == step and Path(saved.path).is_dir():
            return True
        try:
            self.trainer.save_checkpoint_now()
        except Exception as error:
            text = f"the checkpoint of step {step} could not be written: {error}"
            self.emit(ev.Noticed(level="warning", source="engine", text=text))
            return False
        return True

    def save_weights(self) -> None:
        """The final weights, and the tokenizer that belongs to them."""
        assert self.trainer is not None
        step = int(self.trainer.state.global_step)
        self.emit(ev.PhaseChanged(step=step, phase="save"))
        path = self.directory.weights(self.config.training.method)
        model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
        model.save_pretrained(str(path))
        self.ready.tokenizer.save_pretrained(str(path))
        self.emit(ev.CheckpointSaved(step=step, path=str(path)))

    def make_room(self) -> None:
        """Let go of what the step under way held, so that its checkpoint can be written."""
        from ida_tui.engine.device import device

        if self.trainer is not None:
            self.trainer.drop_step()
        gc.collect()
        device.empty_cache(self.ready.device)
        allocator.give_back()
        self.cap.lift()
