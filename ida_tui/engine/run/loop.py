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
from ida_tui.engine.device.memory_guard import MemoryGuard
from ida_tui.engine.device.memory_monitor import MemoryMonitor
from ida_tui.engine.distributed.environment import per_rank_config, process_info
from ida_tui.engine.distributed.process_group import (
    PeerLostError,
    ProcessGroup,
    announce_run,
    join_process_group,
)
from ida_tui.engine.exceptions import PauseRequested, RunInterrupted
from ida_tui.engine.run import crash_log, reporting
from ida_tui.engine.run import outcome as endings
from ida_tui.engine.run.alerting import AlertHandler
from ida_tui.engine.run.context import RunContext
from ida_tui.engine.run.control import ControlFileWatcher, RunControl
from ida_tui.engine.run.decision import ResumeDecision
from ida_tui.engine.run.judge_services import JudgeServices
from ida_tui.engine.run.orders import RunSpec
from ida_tui.engine.run.outcome_value import Outcome, out_of_memory_message
from ida_tui.engine.run.pause import PauseController
from ida_tui.engine.run.preflight import PreflightResult, run_preflight
from ida_tui.engine.run.secrets import Secrets
from ida_tui.engine.trainer.reward import (
    JUDGE_CHANGED,
    DistributedRewardCollector,
    RewardCollector,
    RewardSource,
)
from ida_tui.errors import IdaError
from ida_tui.events import types as ev
from ida_tui.events.sinks.base import RunInfo
from ida_tui.events.sinks.dispatcher import SinkDispatcher
from ida_tui.events.sinks.made import create_sinks
from ida_tui.events.sinks.registry import sink_settings
from ida_tui.events.state import RunState
from ida_tui.judge.calibration.cross_check import CrossChecker
from ida_tui.judge.errors import JudgeInterrupted
from ida_tui.runs import directory as run_directories
from ida_tui.runs import owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.log.disk_errors import disk_error_of
from ida_tui.runs.log.writer import EventLog
from ida_tui.runs.resume import ResumePoint
from ida_tui.runs.store import completions, manifest
from ida_tui.system.memory import DeviceMemory
from ida_tui.system.memory_limit import memory_limit

if TYPE_CHECKING:
    from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer
    from ida_tui.system.sleep import SleepDetector

SINK_TIMEOUT_S = 30.0
"""How long a finished run waits for its sinks, such as W&B."""
SINK_TIMEOUT_STOPPED_S = 5.0


def train(
    config: Config,
    *,
    key: str | None,
    argv: Sequence[str],
    subscriber: queue.SimpleQueue[ev.Record],
    control: RunControl,
    resume: ResumePoint | None = None,
    decisions: queue.SimpleQueue[ResumeDecision] | None = None,
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
    process = process_info()
    per_rank_config(config, process.world_size)  # raises before the other processes load anything
    announce_run(process, offline=config.model.folder() is not None)
    ready = run_preflight(config, process)
    with join_process_group(process, ready.device) as ranks:
        _start(ready, ranks, key, argv, subscriber, control, resume, decisions)


def _start(
    preflight_result: PreflightResult,
    process_group: ProcessGroup,
    key: str | None,
    argv: Sequence[str],
    subscriber: queue.SimpleQueue[ev.Record],
    control: RunControl,
    resume: ResumePoint | None,
    decisions: queue.SimpleQueue[ResumeDecision] | None,
) -> None:
    """Create or reopen the run directory, then train; `train` has joined the processes of the run."""
    config = preflight_result.config
    if resume is not None:
        directory = resume.directory
    else:
        directory = run_directories.create_run_directory(
            config.output_dir, config.name, datetime.now()
        )
    secrets = Secrets(key)
    previous = resume.state if resume else RunState()

    def recreate() -> None:
        _write_description(directory, run.config, preflight_result, argv)
        run_directories.point_latest(directory)
        ownership.reacquire()

    with owner.owned_run(directory) as ownership:
        if resume is None:
            _write_description(directory, config, preflight_result, argv)
        else:
            _prepare_resume(resume, config, argv)
        with (
            ControlFileWatcher(directory, control),
            EventLog(
                directory,
                first_seq=previous.seq + 1,
                redact=secrets.redact,
                stop_waiting=control.stop.is_set,
                on_recreated=recreate,
            ) as log,
        ):
            log.subscribe(subscriber)
            run = RunContext(
                config,
                preflight_result,
                directory,
                log,
                control,
                resume,
                previous,
                process_group=process_group,
            )
            run.sinks = _sink_dispatcher(run, secrets)
            log.subscribe(run.sinks)
            outcome = RunLoop(run, key, secrets, decisions).run_to_end()
            run.allocation_limit.restore()
            _finish(run, outcome, secrets)
            process_group.publish_exit_code(int(outcome.code))


def _finish(run: RunContext, outcome: Outcome, secrets: Secrets) -> None:
    """Write the crash log, the report and the last event of a run, and close its sinks.

    Raises:
        IdaError: the last event could not be written.
    """
    if outcome.crash:
        crash_log.write_crash_log(
            run.directory, secrets.redact(outcome.crash), redact=secrets.redact
        )
    try:
        if run.sinks is not None:
            limit = SINK_TIMEOUT_S if outcome.status == "done" else SINK_TIMEOUT_STOPPED_S
            run.sinks.end(endings.run_ended_event(run, outcome), limit)
        reporting.write_report(run, endings.run_ended_event(run, outcome))
        run.log.emit(endings.run_ended_event(run, outcome))
    except OSError as error:
        disk_error = disk_error_of(error, run.directory.path)
        fix = disk_error.hint.partition(":")[0] if disk_error else "check the disk"
        raise IdaError(
            f"{outcome.message}; could not write the last event: {error.strerror or error}",
            f"{fix}, then: ida-tui resume {run.directory.path}",
            code=outcome.code,
        ) from None


def _sink_dispatcher(run: RunContext, secrets: Secrets) -> SinkDispatcher:
    """The dispatcher that sends this run's figures to its sinks."""
    run_info = RunInfo(
        directory=run.directory.path,
        experiment=run.config.name,
        run_id=run.directory.run_id,
        settings=sink_settings(run.config, secrets.redact),
        resumed_from=run.resume_point.step if run.resume_point else None,
    )
    return SinkDispatcher(create_sinks(run.config.report_to), run_info, run.emit)


def _write_description(
    directory: RunDirectory, config: Config, preflight_result: PreflightResult, argv: Sequence[str]
) -> None:
    """Write the config and the manifest of a run."""
    directory.config.write_text(resolve.to_yaml(config), encoding="utf-8")
    manifest.write(
        directory.manifest,
        config=config,
        run_id=directory.run_id,
        device=preflight_result.device,
        started_at=ev.current_timestamp(),
        argv=argv,
    )


def _prepare_resume(resume: ResumePoint, config: Config, argv: Sequence[str]) -> None:
    """Prepare the directory of a resumed run for its next event."""
    directory = resume.directory
    # The steps after the checkpoint run again: their completions would be in the file twice.
    completions.remove_completions_after(directory.completions, resume.step)
    directory.config.write_text(resolve.to_yaml(config), encoding="utf-8")
    manifest.record_resume(directory.manifest, resumed_at=ev.current_timestamp(), argv=argv)


@dataclass(slots=True)
class RunLoop:
    """The phases of one run, in order."""

    run: RunContext
    key: str | None
    secrets: Secrets
    decisions: queue.SimpleQueue[ResumeDecision] | None
    judge_services: JudgeServices = field(init=False)
    guard: MemoryGuard = field(init=False)
    pause_controller: PauseController = field(init=False)
    alert_handler: AlertHandler = field(init=False)

    def __post_init__(self) -> None:
        run = self.run
        self.judge_services = JudgeServices(run.emit)
        # The guard checks host memory; a CUDA device reports out of memory with an exception.
        guard_limit = (
            memory_limit().total if run.preflight.device == "cuda" else run.preflight.limit
        )
        self.guard = MemoryGuard(guard_limit, run.emit, run.control.stop)
        self.pause_controller = PauseController(
            run, self.judge_services, self.secrets, self.decisions
        )
        self.alert_handler = AlertHandler(run)

    def run_to_end(self) -> Outcome:
        """Run every phase; returns the outcome."""
        reason = ""
        try:
            self._run_phases()
        except (RunInterrupted, JudgeInterrupted):
            # When a process dies, its launcher stops the others; that is not a request of the user.
            if missing := self.run.process_group.find_lost_peers():
                return endings.peer_lost(self.run, PeerLostError(missing))
            if not self.guard.reason:
                return endings.interrupted(self.run)
            reason = self.guard.reason
        except PeerLostError as error:
            return endings.peer_lost(self.run, error)
        except IdaError as error:
            return endings.failed(self.run, error)
        except Exception as error:
            reason = out_of_memory_message(error)
            if lost := self.run.process_group.peer_lost_error(error):
                return endings.peer_lost(self.run, lost)
            if not reason:
                return endings.crashed(self.run, error)
        else:
            return endings.completed(self.run)
        # Outside of the except block: the frames that held the step's tensors are gone.
        return endings.out_of_memory(self.run, reason)

    def _emit_sample(self, sample: ev.MemorySampled) -> None:
        self.run.emit(replace(sample, phase=self.run.state.phase))

    def _check_machine(self, sleep: SleepDetector, sample: ev.MemorySampled) -> None:
        """Twice a second: check memory, the sinks, and whether the machine slept."""
        self.guard.check(sample)
        if self.run.sinks is not None:
            self.run.sinks.disable_hung_sinks()
        if slept := sleep.seconds_slept():
            text = f"the machine slept for {slept / 60:.0f} min; the run continues"
            self.run.emit(ev.Noticed(level="warning", source="machine", text=text))

    def _run_phases(self) -> None:
        from ida_tui.engine import collector, quiet
        from ida_tui.engine.run import build as assembly
        from ida_tui.system import sleep as awake

        run = self.run
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet.capture_library_output(run.emit))
            stack.enter_context(awake.prevent_sleep())
            if run.resume_point is not None:
                run.emit(ev.RunResumed(run.resume_point.step))
            run.emit(ev.PhaseChanged(step=0, phase="load"))
            for note in run.preflight.recipe.notes:
                run.emit(ev.Noticed(level="warning", source="precision", text=note))
            for note in run.preflight.notes:
                run.emit(ev.Noticed(level="warning", source="memory", text=note))
            if not run.process_group.is_single:
                run.process_group.broadcast(RunSpec.from_context(run))
            if run.preflight.device == "cpu":
                run.allocation_limit.apply()
            check = partial(self._check_machine, awake.SleepDetector())
            monitor = stack.enter_context(MemoryMonitor(self._emit_sample, check))
            stack.enter_context(contextlib.closing(self.judge_services))
            service = self.judge_services.start(run.config, self.key, spent=run.state.judge.cost)
            if run.state.run is not None and run.state.run.judge != service.label:
                run.emit(ev.Noticed(level="warning", source="judge", text=JUDGE_CHANGED))
            judging = RewardCollector.from_config(
                run.config,
                service,
                emit=run.emit,
                stop_requested=run.control.stop.is_set,
                pause=self.pause_controller.wait_for_judge,
            )
            build = partial(self._build_trainer, judging, monitor.set_device_memory)
            run.trainer = build()
            stack.enter_context(collector.frozen_gc())
            run.emit(
                assembly.run_started_event(
                    run.config, run.preflight, run.directory, run.trainer, service.label
                )
            )
            run.raise_if_stopped()
            judging.check_judge()
            if run.state.evaluation_before is None:
                self._evaluate("before")
            run.process_group.barrier()
            while not self._train_until_pause(run.trainer):
                run.trainer = self.pause_controller.pause_and_rebuild(build)
            run.process_group.allow_peer_exit()
            run.raise_if_stopped()
            run.save_weights()
            self._evaluate("after")

    def _train_until_pause(self, trainer: InstrumentedGRPOTrainer) -> bool:
        """Train the remaining steps; returns false if the run must free its memory for a pause."""
        try:
            self._train_steps(trainer)
        except PauseRequested:
            return False
        return True

    def _train_steps(self, trainer: InstrumentedGRPOTrainer) -> None:
        """Train the remaining steps; a run that ended after its last step only loads its weights."""
        checkpoint = self.run.resume_point.checkpoint if self.run.resume_point else None
        if (
            self.run.resume_point is not None
            and checkpoint
            and self.run.resume_point.step >= self.run.config.planned_steps()
        ):
            trainer.load_checkpoint(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    def _build_trainer(
        self, collector: RewardCollector, set_device_memory: Callable[[DeviceMemory | None], None]
    ) -> InstrumentedGRPOTrainer:
        from ida_tui.engine.device import device
        from ida_tui.engine.run import build as assembly
        from ida_tui.engine.trainer.recorder import StepRecorder

        run = self.run
        judging: RewardSource = (
            collector
            if run.process_group.is_single
            else DistributedRewardCollector(run.process_group, collector)
        )

        def after_step() -> None:
            set_device_memory(device.memory(run.preflight.device))
            self.alert_handler.raise_alerts()

        return assembly.build_trainer(
            run.config,
            run.preflight,
            run.directory.checkpoints,
            process_group=run.process_group,
            recorder=StepRecorder(
                run.emit,
                run.control.stop,
                run.config.planned_steps(),
                CrossChecker([prompt.text for prompt in run.config.prompts.prompts]),
                any_rank=run.process_group.any_rank,
            ),
            reward_source=judging,
            on_step_end=after_step,
            between_steps=lambda: self.pause_controller.pause_between_steps(
                self.alert_handler.next_pausing_alert()
            ),
            checkpoint_metadata=run.checkpoint_metadata,
        )

    def _evaluate(self, when: Literal["before", "after"]) -> None:
        from ida_tui.engine.run.evaluation import evaluate_held_out

        evaluate_held_out(self.run, self.judge_services.current, when)
