"""Main loop of a training run: preflight, load, evaluate, train, save, evaluate, end.

All checks come before the run directory is created. From then on, every error ends in a `RunEnded` event
with an exit code of `ida_tui.errors.ExitCode`.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Literal

from ida_tui.config import resolve
from ida_tui.config.schema import Config
from ida_tui.engine.device.memory_guard import Guard
from ida_tui.engine.device.memory_monitor import MemoryMonitor
from ida_tui.engine.distributed.environment import part_of, place
from ida_tui.engine.distributed.process_group import RankLost, Ranks, announce, joined
from ida_tui.engine.exceptions import PauseAsked, RunInterrupted
from ida_tui.engine.run import crash_log as crash
from ida_tui.engine.run import outcome as endings
from ida_tui.engine.run import reporting
from ida_tui.engine.run.alerting import Alerting
from ida_tui.engine.run.context import UnderWay
from ida_tui.engine.run.control import Control, Listener
from ida_tui.engine.run.decision import GoOn
from ida_tui.engine.run.judge_services import Judges
from ida_tui.engine.run.orders import Orders
from ida_tui.engine.run.outcome_value import Outcome, exhausted
from ida_tui.engine.run.pause import Pauses
from ida_tui.engine.run.preflight import Preflight, preflight
from ida_tui.engine.run.secrets import Secrets
from ida_tui.engine.trainer.reward import ANOTHER_JUDGE, Judge, Judging, OneForAll
from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.events.sinks.base import Place
from ida_tui.events.sinks.dispatcher import Feed
from ida_tui.events.sinks.made import sinks
from ida_tui.events.sinks.registry import settings
from ida_tui.events.state import RunState
from ida_tui.judge.calibration.cross_check import CrossCheck
from ida_tui.judge.service import JudgeInterrupted
from ida_tui.runs import directory as run_directories
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.disk_errors import refusal
from ida_tui.runs.log.writer import EventLog
from ida_tui.runs.resume import Resumption
from ida_tui.runs.store import completions, manifest
from ida_tui.system.memory import DeviceMemory
from ida_tui.system.memory_limit import room

if TYPE_CHECKING:
    from ida_tui.engine.trainer.trainer import WatchedTrainer
    from ida_tui.system.sleep import Sleep

SINKS_S = 30.0
"""How long a finished run waits for its sinks, such as W&B."""
SINKS_WHEN_STOPPED_S = 5.0


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
    """Train one profile from start to end, on the calling thread.

    Args:
        config: the resolved profile.
        key: the judge's API key, or null if it needs none.
        argv: the command line as typed, for the manifest.
        subscriber: receives every record.
        control: requests to stop, pause, resume or hand over the run.
        resume: the run to resume; null starts a new one.
        decisions: the user's decisions when the run pauses; null ends the run there, to be resumed.

    Raises:
        IdaError: the run could not start; nothing was written.
    """
    process = place()
    part_of(config, process.world)  # raises before the other processes load anything
    announce(process, offline=config.model.folder() is not None)
    ready = preflight(config, process)
    with joined(process, ready.device) as ranks:
        _train(ready, ranks, key, argv, subscriber, control, resume, decisions)


def _train(
    ready: Preflight,
    ranks: Ranks,
    key: str | None,
    argv: Sequence[str],
    subscriber: queue.SimpleQueue[ev.Record],
    control: Control,
    resume: Resumption | None,
    decisions: queue.SimpleQueue[GoOn] | None,
) -> None:
    """Create or reopen the run directory, then train; `train` has joined the processes of the run."""
    config = ready.config
    if resume is not None:
        directory = resume.directory
    else:
        directory = run_directories.create(config.output_dir, config.name, datetime.now())
    secrets = Secrets(key)
    previous = resume.state if resume else RunState()

    def recreate() -> None:
        _describe(directory, run.config, ready, argv)
        run_directories.point_latest(directory)
        ownership.renew()

    with owner.owned(directory) as ownership:
        if resume is None:
            _describe(directory, config, ready, argv)
        else:
            _go_on(resume, config, argv)
        with (
            Listener(directory, control),
            EventLog(
                directory,
                first_seq=previous.seq + 1,
                redact=secrets.redact,
                gives_up=control.stop.is_set,
                put_back=recreate,
            ) as log,
        ):
            log.subscribe(subscriber)
            run = UnderWay(config, ready, directory, log, control, resume, previous, ranks=ranks)
            run.feed = _feed(run, secrets)
            log.subscribe(run.feed)
            outcome = _Course(run, key, secrets, decisions).to_the_end()
            run.cap.lift()
            _end(run, outcome, secrets)
            ranks.leave(int(outcome.code))


def _end(run: UnderWay, outcome: Outcome, secrets: Secrets) -> None:
    """Write the crash log, the report and the last event of a run, and close its sinks.

    Raises:
        IdaError: the last event could not be written.
    """
    if outcome.crash:
        crash.write(run.directory, secrets.redact(outcome.crash), redact=secrets.redact)
    try:
        if run.feed is not None:
            limit = SINKS_S if outcome.status == "done" else SINKS_WHEN_STOPPED_S
            run.feed.end(endings.last_event(run, outcome), limit)
        reporting.report(run, endings.last_event(run, outcome))
        run.log.emit(endings.last_event(run, outcome))
    except OSError as error:
        disk_error = refusal(error, run.directory.path)
        fix = disk_error.hint.partition(":")[0] if disk_error else "check the disk"
        raise IdaError(
            f"{outcome.message}; could not write the last event: {error.strerror or error}",
            f"{fix}, then: ida-tui resume {run.directory.path}",
            code=outcome.code,
        ) from None


def _feed(run: UnderWay, secrets: Secrets) -> Feed:
    """The dispatcher that sends this run's figures to its sinks."""
    run_info = Place(
        directory=run.directory.path,
        experiment=run.config.name,
        run_id=run.directory.run_id,
        settings=settings(run.config, secrets.redact),
        resumed_from=run.resume.step if run.resume else None,
    )
    return Feed(sinks(run.config.report_to), run_info, run.emit)


def _describe(
    directory: RunDirectory, config: Config, ready: Preflight, argv: Sequence[str]
) -> None:
    """Write the config and the manifest of a run."""
    directory.config.write_text(resolve.to_yaml(config), encoding="utf-8")
    manifest.write(
        directory.manifest,
        config=config,
        run_id=directory.run_id,
        device=ready.device,
        started_at=ev.now(),
        argv=argv,
    )


def _go_on(resume: Resumption, config: Config, argv: Sequence[str]) -> None:
    """Prepare the directory of a resumed run for its next event."""
    directory = resume.directory
    # The steps after the checkpoint run again: their completions would be in the file twice.
    completions.drop_after(directory.completions, resume.step)
    directory.config.write_text(resolve.to_yaml(config), encoding="utf-8")
    manifest.note_resumed(directory.manifest, at=ev.now(), argv=argv)


@dataclass(slots=True)
class _Course:
    """The phases of one run, in order."""

    run: UnderWay
    key: str | None
    secrets: Secrets
    decisions: queue.SimpleQueue[GoOn] | None
    judges: Judges = field(init=False)
    guard: Guard = field(init=False)
    pauses: Pauses = field(init=False)
    alerting: Alerting = field(init=False)

    def __post_init__(self) -> None:
        run = self.run
        self.judges = Judges(run.emit)
        # The guard checks host memory; a CUDA device reports out of memory with an exception.
        guard_limit = room().total if run.ready.device == "cuda" else run.ready.limit
        self.guard = Guard(guard_limit, run.emit, run.control.stop)
        self.pauses = Pauses(run, self.judges, self.secrets, self.decisions)
        self.alerting = Alerting(run)

    def to_the_end(self) -> Outcome:
        """Run every phase; returns the outcome."""
        reason = ""
        try:
            self._course()
        except (RunInterrupted, JudgeInterrupted):
            # When a process dies, its launcher stops the others; that is not a request of the user.
            if missing := self.run.ranks.missing():
                return endings.rank_lost(self.run, RankLost(missing))
            if not self.guard.reason:
                return endings.interrupted(self.run)
            reason = self.guard.reason
        except RankLost as error:
            return endings.rank_lost(self.run, error)
        except IdaError as error:
            return endings.refused(self.run, error)
        except Exception as error:
            reason = exhausted(error)
            if lost := self.run.ranks.lost(error):
                return endings.rank_lost(self.run, lost)
            if not reason:
                return endings.unexpected(self.run, error)
        else:
            return endings.complete(self.run)
        # Outside of the except block: the frames that held the step's tensors are gone.
        return endings.out_of_memory(self.run, reason)

    def _sampled(self, sample: ev.MemorySampled) -> None:
        self.run.emit(replace(sample, phase=self.run.state.phase))

    def _look(self, sleep: Sleep, sample: ev.MemorySampled) -> None:
        """Twice a second: check memory, the sinks, and whether the machine slept."""
        self.guard.look(sample)
        if self.run.feed is not None:
            self.run.feed.look()
        if slept := sleep.look():
            text = f"the machine slept for {slept / 60:.0f} min; the run continues"
            self.run.emit(ev.Noticed(level="warning", source="machine", text=text))

    def _course(self) -> None:
        from ida_tui.engine import collector, quiet
        from ida_tui.engine.run import build as assembly
        from ida_tui.system import sleep as awake

        run = self.run
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet.captured(run.emit))
            stack.enter_context(awake.awake())
            if run.resume is not None:
                run.emit(ev.RunResumed(run.resume.step))
            run.emit(ev.PhaseChanged(step=0, phase="load"))
            for note in run.ready.recipe.notes:
                run.emit(ev.Noticed(level="warning", source="precision", text=note))
            for note in run.ready.notes:
                run.emit(ev.Noticed(level="warning", source="memory", text=note))
            if not run.ranks.alone:
                run.ranks.told(Orders.of(run))
            if run.ready.device == "cpu":
                run.cap.set()
            check = partial(self._look, awake.Sleep())
            monitor = stack.enter_context(MemoryMonitor(self._sampled, check))
            stack.enter_context(contextlib.closing(self.judges))
            service = self.judges.start(run.config, self.key, spent=run.state.judge.cost)
            if run.state.run is not None and run.state.run.judge != service.label:
                run.emit(ev.Noticed(level="warning", source="judge", text=ANOTHER_JUDGE))
            judging = Judging.of(
                run.config,
                service,
                emit=run.emit,
                stop_requested=run.control.stop.is_set,
                pause=self.pauses.for_the_judge,
            )
            build = partial(self._build_trainer, judging, monitor.tell_device)
            run.trainer = build()
            stack.enter_context(collector.settled())
            run.emit(
                assembly.run_started(
                    run.config, run.ready, run.directory, run.trainer, service.label
                )
            )
            run.raise_if_stopped()
            judging.meet()
            if run.state.before is None:
                self._evaluate("before")
            run.ranks.meet()
            while not self._trained(run.trainer):
                run.trainer = self.pauses.rebuilt(build)
            run.ranks.release()
            run.raise_if_stopped()
            run.save_weights()
            self._evaluate("after")

    def _trained(self, trainer: WatchedTrainer) -> bool:
        """Train the remaining steps; returns false if the run must free its memory for a pause."""
        try:
            self._train(trainer)
        except PauseAsked:
            return False
        return True

    def _train(self, trainer: WatchedTrainer) -> None:
        """Train the remaining steps; a run that ended after its last step only loads its weights."""
        checkpoint = self.run.resume.checkpoint if self.run.resume else None
        if (
            self.run.resume is not None
            and checkpoint
            and self.run.resume.step >= self.run.config.planned_steps()
        ):
            trainer.load(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _build_trainer(
        self, asked: Judging, tell_device: Callable[[DeviceMemory | None], None]
    ) -> WatchedTrainer:
        from ida_tui.engine.device import device
        from ida_tui.engine.run import build as assembly
        from ida_tui.engine.trainer.recorder import Watcher

        run = self.run
        judging: Judge = asked if run.ranks.alone else OneForAll(run.ranks, asked)

        def after_step() -> None:
            tell_device(device.memory(run.ready.device))
            self.alerting.after_step()

        return assembly.build_trainer(
            run.config,
            run.ready,
            run.directory.checkpoints,
            ranks=run.ranks,
            watcher=Watcher(
                run.emit,
                run.control.stop,
                run.config.planned_steps(),
                CrossCheck([prompt.text for prompt in run.config.prompts.prompts]),
                agree=run.ranks.any,
            ),
            judging=judging,
            after_step=after_step,
            between_steps=lambda: self.pauses.between_steps(self.alerting.pausing()),
            checkpoint_facts=run.checkpoint_facts,
        )

    def _evaluate(self, when: Literal["before", "after"]) -> None:
        from ida_tui.engine.run.evaluation import evaluate

        evaluate(self.run, self.judges.current, when)
