"""One run from preflight to its last event, on the thread that calls `train`.

Everything that can be refused is refused before the run directory is made. After that, whatever
happens ends in a RunEnded event with the exit code of `ida_tui.errors.ExitCode`.
"""

from __future__ import annotations

import contextlib
import gc
import math
import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ida_tui import allocator, memory, resolve
from ida_tui import events as ev
from ida_tui.config import Config, JudgeConfig
from ida_tui.engine.control import Control, Listener
from ida_tui.engine.decision import GoOn
from ida_tui.engine.guard import AllocationCap, Guard
from ida_tui.engine.judges import Judges
from ida_tui.engine.judging import ANOTHER_JUDGE, Judging, Replacement
from ida_tui.engine.monitor import MemoryMonitor
from ida_tui.engine.outcome import (
    NOTHING_LEARNED,
    Outcome,
    exhausted,
    smaller_batch,
    stopped_by_watchdog,
    why_nothing,
)
from ida_tui.engine.preflight import Preflight, preflight
from ida_tui.engine.redaction import Secrets
from ida_tui.engine.stopping import PauseAsked, RunInterrupted
from ida_tui.errors import ExitCode, IdaError
from ida_tui.judge.faults import JudgeUnavailable
from ida_tui.judge.service import JudgeInterrupted
from ida_tui.runs import completions, manifest, owner
from ida_tui.runs import directory as run_directories
from ida_tui.runs.append import FULL
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log import EventLog
from ida_tui.runs.resumption import Resumption
from ida_tui.sensors.cap import room
from ida_tui.sensors.memory import DeviceMemory
from ida_tui.state import RunState, fold

if TYPE_CHECKING:
    from ida_tui.engine.trainer import WatchedTrainer


KEPT_WHILE_PAUSED = 2e9
"""Bytes of weights up to which a paused run keeps its memory; a larger one is loaded again afterwards."""


def train(
    config: Config,
    *,
    key: str | None,
    argv: Sequence[str],
    subscriber: queue.SimpleQueue[ev.Record],
    control: Control,
    resume: Resumption | None = None,
    decisions: queue.SimpleQueue[GoOn] | None = None,
) -> None:
    """Run one profile to its end.

    Args:
        config: the resolved profile.
        key: the judge's API key, where it needs one.
        argv: the command line as typed, for the manifest.
        subscriber: receives every record.
        control: what others ask of it.
        resume: the run to go on with; null starts a new one.
        decisions: where somebody answers when the run pauses; null ends it there, to be resumed.

    Raises:
        IdaError: the run could not start; nothing was written.
    """
    ready = preflight(config)
    config = ready.config
    directory = _directory(config, ready, argv, resume)
    secrets = Secrets(key)
    before = resume.state if resume else RunState()
    with (
        owner.owned(directory),
        Listener(directory, control),
        EventLog(
            directory,
            first_seq=before.seq + 1,
            redact=secrets.redact,
            gives_up=control.stop.is_set,
        ) as log,
    ):
        log.subscribe(subscriber)
        run = _Run(
            config, ready, directory, log, key, control, secrets, resume, decisions, state=before
        )
        outcome = run.until_the_end()
        run.cap.lift()
        if outcome.crash:
            crash = directory.logs / "crash.txt"
            crash.write_text(secrets.redact(outcome.crash), encoding="utf-8")
        try:
            log.emit(run.ended(outcome))
        except OSError as error:
            raise IdaError(
                f"{outcome.message}; its end could not be written: {error.strerror or error}",
                f"free some space, then: ida-tui resume {directory.path}",
                code=outcome.code,
            ) from None


def _directory(
    config: Config, ready: Preflight, argv: Sequence[str], resume: Resumption | None
) -> RunDirectory:
    """The run's directory, with what is known before it starts written into it."""
    if resume is not None:
        # What came after the checkpoint is done again, and would be in the file twice.
        completions.drop_after(resume.directory.completions, resume.step)
        resume.directory.config.write_text(resolve.to_yaml(config), encoding="utf-8")
        manifest.note_resumed(resume.directory.manifest, at=ev.now(), argv=argv)
        return resume.directory
    directory = run_directories.create(config.output_dir, config.name, datetime.now())
    directory.config.write_text(resolve.to_yaml(config), encoding="utf-8")
    manifest.write(
        directory.manifest,
        config=config,
        run_id=directory.run_id,
        device=ready.device,
        started_at=ev.now(),
        argv=argv,
    )
    return directory


@dataclass(slots=True)
class _Run:
    """The part of a run that has a directory and a log."""

    config: Config
    ready: Preflight
    directory: RunDirectory
    log: EventLog
    key: str | None
    control: Control
    secrets: Secrets
    resume: Resumption | None = None
    decisions: queue.SimpleQueue[GoOn] | None = None
    started: float = field(default_factory=time.monotonic)
    state: RunState = field(default_factory=RunState)
    trainer: WatchedTrainer | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    judges: Judges = field(init=False)
    guard: Guard = field(init=False)
    cap: AllocationCap = field(default_factory=AllocationCap)

    def __post_init__(self) -> None:
        self.judges = Judges(self.emit)
        # The guard watches the host; a device with memory of its own runs out by an exception.
        watched = room().total if self.ready.device == "cuda" else self.ready.limit
        self.guard = Guard(watched, self.emit, self.control.stop)

    def emit(self, event: ev.Event) -> None:
        """Emit an event and keep the run's own state in step with it; safe from any thread.

        A run that is stopped while its disk is full ends all the same: what it says on the way is not
        written, and `train` tells so.
        """
        with self.lock:
            try:
                self.state = fold(self.state, self.log.emit(event))
            except OSError as error:
                if error.errno not in FULL or not self.control.stop.is_set():
                    raise

    def _sampled(self, sample: ev.MemorySampled) -> None:
        self.emit(replace(sample, phase=self.state.phase))

    def until_the_end(self) -> Outcome:
        """Run everything; say how it ended."""
        try:
            self._run()
        except (RunInterrupted, JudgeInterrupted):
            return self._interrupted()
        except IdaError as error:
            self._save_what_there_is()
            if error.code is ExitCode.JUDGE_UNAVAILABLE:
                hint = f"{error.hint}\nthen: ida-tui resume {self.directory.path}"
                return Outcome("judge_unavailable", error.code, error.title, hint)
            return Outcome("failed", error.code, error.title, error.hint)
        except Exception as error:
            why = exhausted(error)
            if not why:
                return self._unexpected(error)
        else:
            if self.state.steps and self.state.weight_delta == 0:
                why = why_nothing(self.state.steps)
                return Outcome("done", ExitCode.DONE, NOTHING_LEARNED, why)
            return Outcome("done", ExitCode.DONE, "Training complete")
        # Outside of the handler: the frames that held the step's tensors are gone.
        return self._out_of_memory(why)

    def _unexpected(self, error: Exception) -> Outcome:
        self._save_what_there_is()
        if stopped_by_watchdog(error):
            smaller = smaller_batch(self.config)
            return Outcome(
                "failed",
                ExitCode.DEVICE_UNUSABLE,
                "macOS ended a command of the GPU because the screen had to wait for it",
                f"in smaller pieces: ida-tui resume {self.directory.path} {smaller}"
                if smaller
                else "shorter answers make shorter commands: lower training.max_completion_length",
            )
        return Outcome(
            "failed",
            ExitCode.FAILED,
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]}",
            f"this is a defect of ida-tui; {self.directory.logs / 'crash.txt'} has the details",
            crash=traceback.format_exc(),
        )

    def ended(self, outcome: Outcome) -> ev.RunEnded:
        """The last event."""
        state = self.state
        return ev.RunEnded(
            status=outcome.status,
            exit_code=int(outcome.code),
            steps_done=state.steps[-1].step if state.steps else 0,
            r_ida_first=state.r_ida_first,
            r_ida_last=state.r_ida_last,
            weight_delta=state.weight_delta,
            seconds=round(time.monotonic() - self.started + self._seconds_before(), 3),
            cost=state.judge.cost,
            message=outcome.message,
            hint=outcome.hint,
        )

    def _seconds_before(self) -> float:
        """What earlier parts of a resumed run took, where they ended by themselves."""
        before = self.resume.state.ended if self.resume else None
        return before.seconds if before else 0.0

    # -- the run itself -----------------------------------------------------------------------

    def _run(self) -> None:
        from ida_tui.engine import assembly, awake, collector, quiet

        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet.captured(self.emit))
            stack.enter_context(awake.awake())
            if self.resume is not None:
                self.emit(ev.RunResumed(self.resume.step))
            self.emit(ev.PhaseChanged(step=0, phase="load"))
            for note in self.ready.recipe.notes:
                self.emit(ev.Noticed(level="warning", source="precision", text=note))
            for note in self.ready.notes:
                self.emit(ev.Noticed(level="warning", source="memory", text=note))
            if self.ready.device == "cpu":
                self.cap.set()
            monitor = stack.enter_context(MemoryMonitor(self._sampled, self.guard.look))
            stack.enter_context(contextlib.closing(self.judges))
            service = self.judges.start(self.config, self.key, spent=self.state.judge.cost)
            if self.state.run is not None and self.state.run.judge != service.label:
                self.emit(ev.Noticed(level="warning", source="judge", text=ANOTHER_JUDGE))
            judging = Judging.of(
                self.config,
                service,
                emit=self.emit,
                stop_requested=self.control.stop.is_set,
                pause=self._pause,
            )
            build = partial(self._build_trainer, judging, monitor.tell_device)
            self.trainer = build()
            stack.enter_context(collector.settled())
            self.emit(
                assembly.run_started(
                    self.config, self.ready, self.directory, self.trainer, service.label
                )
            )
            self._raise_if_stopped()
            judging.meet()
            if self.state.before is None:
                self._evaluate("before")
            while not self._trained(self.trainer):
                self.trainer = self._rebuilt(build)
            self._raise_if_stopped()
            self._save_weights()
            self._evaluate("after")
            self._report_links()

    def _trained(self, trainer: WatchedTrainer) -> bool:
        """Whether every step that is left was made; False where it has to make room for a pause."""
        try:
            self._train(trainer)
        except PauseAsked:
            return False
        return True

    def _train(self, trainer: WatchedTrainer) -> None:
        """Every step that is left; a run that was cut off after its last one only needs its weights."""
        kept = self.resume.checkpoint if self.resume else None
        if self.resume is not None and kept and self.resume.step >= self.config.planned_steps():
            trainer.load(kept)
        else:
            trainer.train(resume_from_checkpoint=str(kept) if kept else None)

    def _build_trainer(
        self, judging: Judging, tell_device: Callable[[DeviceMemory | None], None]
    ) -> WatchedTrainer:
        from ida_tui.engine import assembly, device
        from ida_tui.engine.watcher import Watcher

        return assembly.build_trainer(
            self.config,
            self.ready,
            self.directory,
            watcher=Watcher(self.emit, self.control.stop, self.config.planned_steps()),
            judging=judging,
            after_step=lambda: tell_device(device.memory(self.ready.device)),
            between_steps=self._between_steps,
            checkpoint_facts=self._checkpoint_facts,
        )

    def _checkpoint_facts(self) -> Mapping[str, Any]:
        """What has to be the same when it is resumed from, and how far the judge had come."""
        config, judge = self.config, self.state.judge
        return {
            "run_id": self.state.run.run_id if self.state.run else self.directory.run_id,
            "model": config.model.name or config.model.path,
            "method": config.training.method,
            "judge": {"calls": judge.calls, "failed": judge.failed, "cost": judge.cost},
        }

    # -- a pause ------------------------------------------------------------------------------

    def _between_steps(self) -> None:
        """Pause here if somebody asked for it; called on the trainer's thread after every step but the last.

        Raises:
            PauseAsked: the model is large, and its memory is given back meanwhile.
            RunInterrupted: another process goes on.
        """
        asked = self.control.pausing or self.control.handing_over
        if not asked or not self._save_what_there_is():
            return
        self._raise_if_handed_over()
        step = self.state.steps[-1].step
        hint = f"ida-tui attach {self.directory.path} --resume"
        self.emit(ev.RunPaused(step=step, reason="paused", hint=hint, by="person"))
        held = (self.state.run.params if self.state.run else 0) * 4
        if held > KEPT_WHILE_PAUSED:
            raise PauseAsked
        allocator.give_back()
        self.control.wait_while_paused()
        self._raise_if_handed_over()
        if not self.control.stop.is_set():
            self.emit(ev.RunResumed(step))

    def _rebuilt(self, build: Callable[[], WatchedTrainer]) -> WatchedTrainer:
        """Give everything back, wait, and load the run again where it was."""
        saved = self.state.checkpoint
        assert saved is not None
        self._make_room()
        self.trainer = None
        gc.collect()
        self.control.wait_while_paused()
        self._raise_if_stopped()
        self._raise_if_handed_over()
        self.emit(ev.RunResumed(saved.step))
        self.emit(ev.PhaseChanged(step=saved.step, phase="load"))
        self.resume = Resumption(self.directory, self.state, Path(saved.path), saved.step)
        return build()

    def _pause(self, error: JudgeUnavailable) -> Replacement:
        """Keep what there is, and ask what to do; called on the trainer's thread.

        Raises:
            JudgeUnavailable: nobody is there to be asked.
            RunInterrupted: the answer is to stop.
        """
        self._save_what_there_is()
        step = self.state.steps[-1].step if self.state.steps else 0
        self.emit(ev.RunPaused(step=step, reason=error.title, hint=error.hint))
        if self.decisions is None:
            raise error
        answer = self._answer(self.decisions)
        same = _endpoint(answer.judge) == _endpoint(self.config.judge)
        self.secrets.add(answer.key)
        self.config = self.config.model_copy(
            update={"judge": answer.judge, "budget": answer.budget}
        )
        self.directory.config.write_text(resolve.to_yaml(self.config), encoding="utf-8")
        service = self.judges.start(self.config, answer.key, spent=self.state.judge.cost)
        self.emit(ev.RunResumed(step, None if same else service.label))
        return Replacement(service, same, answer.judge.max_unscored)

    def _answer(self, decisions: queue.SimpleQueue[GoOn]) -> GoOn:
        """What somebody decides; blocks until then."""
        while True:
            self._raise_if_stopped()
            with contextlib.suppress(queue.Empty):
                return decisions.get(timeout=0.1)

    def _evaluate(self, when: Literal["before", "after"]) -> None:
        if not self.config.evaluation.enabled or self.trainer is None:
            return
        from ida_tui.engine.evaluation import evaluate

        step = int(self.trainer.state.global_step)
        self.emit(ev.PhaseChanged(step=step, phase="evaluate"))
        self.emit(
            evaluate(
                self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped),
                self.ready.tokenizer,
                self.config,
                self.ready.device,
                when=when,
                step=step,
                stop_requested=self.control.stop.is_set,
            )
        )

    # -- what is kept -------------------------------------------------------------------------

    def _save_weights(self) -> None:
        """The final weights, and the tokenizer that belongs to them."""
        assert self.trainer is not None
        step = int(self.trainer.state.global_step)
        self.emit(ev.PhaseChanged(step=step, phase="save"))
        path = self.directory.weights(self.config.training.method)
        model = self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped)
        model.save_pretrained(str(path))
        self.ready.tokenizer.save_pretrained(str(path))
        self.emit(ev.CheckpointSaved(step=step, path=str(path)))

    def _save_what_there_is(self) -> bool:
        """A checkpoint of the last finished step, if training had begun; never a second failure.

        Weights that are not finite are not saved: they would push good checkpoints out.
        """
        if self.trainer is None or self.trainer.optimizer is None:
            return False
        if not math.isfinite(self.trainer.weight_delta):
            return False
        step = int(self.trainer.state.global_step)
        saved = self.state.checkpoint
        if saved is not None and saved.step == step:
            return True
        try:
            self.trainer.save_checkpoint_now()
        except Exception as error:
            text = f"the checkpoint of step {step} could not be written: {error}"
            self.emit(ev.Noticed(level="warning", source="engine", text=text))
            return False
        return True

    def _interrupted(self) -> Outcome:
        if self.guard.reason:
            return self._out_of_memory(self.guard.reason)
        saved = self._save_what_there_is()
        done = self.state.steps[-1].step if self.state.steps else 0
        where = self.state.checkpoint
        how = "Handed over" if self.control.handing_over else "Stopped"
        message = f"{how} after step {done} of {self.config.planned_steps()}"
        kept = "training had not begun"
        # Without a trainer it was paused, with everything given back: its checkpoint came first.
        if where and (saved or self.trainer is None):
            kept = f"checkpoint: {where.path}\ngo on with: ida-tui resume {self.directory.path}"
        return Outcome("interrupted", ExitCode.INTERRUPTED, message, kept)

    def _out_of_memory(self, why: str) -> Outcome:
        self._make_room()
        saved = self._save_what_there_is()
        change = memory.advice(self.config, self.ready.device, self.ready.limit)
        if saved and self.state.checkpoint:
            smaller = memory.smaller(self.config, self.ready.device)
            change = (
                f"go on, smaller: ida-tui resume {self.directory.path} {smaller}\n"
                f"or start anew with {change}"
            )
        return Outcome("out_of_memory", ExitCode.OUT_OF_MEMORY, why, change)

    def _make_room(self) -> None:
        """Let go of what the step under way held, so that its checkpoint can be written."""
        from ida_tui.engine import device

        if self.trainer is not None:
            self.trainer.drop_step()
        gc.collect()
        device.empty_cache(self.ready.device)
        allocator.give_back()
        self.cap.lift()

    def _raise_if_stopped(self) -> None:
        if self.control.stop.is_set():
            raise RunInterrupted

    def _raise_if_handed_over(self) -> None:
        if self.control.handing_over:
            raise RunInterrupted

    def _report_links(self) -> None:
        """The page of the run, where somebody else keeps one."""
        if "wandb" not in self.config.report_to:
            return
        import wandb

        if wandb.run is None:
            return
        if wandb.run.offline:
            text = f"W&B ran offline; upload it with: wandb sync {Path(wandb.run.dir).parent}"
        else:
            text = f"W&B run: {wandb.run.url}"
        self.emit(ev.Noticed(level="info", source="wandb", text=text))
        wandb.finish()


def _endpoint(judge: JudgeConfig) -> tuple[str, str, str | None]:
    """What makes two profiles the same judge."""
    return judge.kind, judge.model, judge.base_url
