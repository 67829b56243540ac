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
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.config.prompts import texts_of
from ida_tui.config.schema import Config, JudgeKey
from ida_tui.engine import libraries
from ida_tui.engine.device.memory_guard import MemoryGuard
from ida_tui.engine.device.memory_monitor import MemoryMonitor
from ida_tui.engine.distributed.environment import per_rank_config, process_info
from ida_tui.engine.distributed.process_group import (
    PeerLostError,
    ProcessGroup,
    announce_run,
    join_process_group,
)
from ida_tui.engine.distributed.shared_folder import require_shared_folder
from ida_tui.engine.exceptions import PauseRequested, RunInterrupted
from ida_tui.engine.run.context import RunContext
from ida_tui.engine.run.control import ControlFileWatcher, ResumeDecision, RunControl
from ida_tui.engine.run.crash_log import write_crash_log
from ida_tui.engine.run.description import prepare_resume, write_description
from ida_tui.engine.run.download import download_weights
from ida_tui.engine.run.judge_services import JudgeServices
from ida_tui.engine.run.messages import Receivers
from ida_tui.engine.run.outcome import (
    Outcome,
    completed_outcome,
    crashed_outcome,
    failed_outcome,
    interrupted_outcome,
    out_of_memory_outcome,
    peer_lost_outcome,
    run_ended_event,
    write_final_report,
)
from ida_tui.engine.run.pause import PauseController
from ida_tui.engine.run.preflight import PreflightResult, run_preflight
from ida_tui.engine.run.reward_functions import load_functions
from ida_tui.engine.run.secrets import Secrets
from ida_tui.engine.run.worker import RunSpec
from ida_tui.engine.trainer.recorder import StepRecorder
from ida_tui.engine.trainer.reward import (
    DistributedRewardCollector,
    RewardCollector,
    RewardSource,
)
from ida_tui.errors import IdaError, out_of_memory_message
from ida_tui.events import types as ev
from ida_tui.events.scoring import ScoringPeriod, change_warning
from ida_tui.events.sinks.base import RunInfo
from ida_tui.events.sinks.dispatcher import SinkDispatcher
from ida_tui.events.sinks.registry import create_sinks, sink_settings
from ida_tui.events.state import RunState
from ida_tui.judge.api_key import judge_secrets
from ida_tui.judge.calibration.cross_check import CrossChecker
from ida_tui.judge.errors import JudgeInterrupted
from ida_tui.judge.service import scoring_of
from ida_tui.planning.hub_models import hub_token
from ida_tui.runs import owner
from ida_tui.runs.directory import create_run_directory, point_latest, restore_latest
from ida_tui.runs.log.disk_errors import disk_error_of
from ida_tui.runs.log.writer import EventLog
from ida_tui.runs.resume import ResumePoint
from ida_tui.runs.store import manifest
from ida_tui.runs.store.judge_costs import JudgeCosts
from ida_tui.system.clock import RunClock
from ida_tui.system.memory import DeviceMemory
from ida_tui.system.memory_limit import memory_limit
from ida_tui.system.sleep import SleepDetector, prevent_sleep
from ida_tui.util.paths import expand_home
from ida_tui.util.plugin_output import plugin_output_log

if TYPE_CHECKING:
    from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer

SINK_TIMEOUT_S = 30.0
"""How long a finished run waits for its sinks, such as W&B."""
SINK_TIMEOUT_STOPPED_S = 5.0
"""How long a run that did not finish waits for its sinks."""


def train(
    config: Config,
    *,
    key: JudgeKey,
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
        control: requests to stop, pause or resume the run.
        resume: the run to resume; null starts a new one.
        decisions: the user's decisions when the run pauses; null ends the run there, to be resumed.

    Raises:
        IdaError: the run could not start; nothing was written.
    """
    process = process_info()
    per_rank_config(config, process.world_size)  # raises before the other processes load anything
    receivers = Receivers.from_config(config)
    announce_run(process, offline=config.model.folder() is not None)
    preflight = run_preflight(
        config,
        process,
        with_screen=decisions is not None,
        recorded_threads=manifest.recorded_threads(resume.directory.manifest) if resume else None,
        stop_requested=control.stop.is_set,
    )
    with join_process_group(process, preflight.device) as process_group:
        folder = resume.directory.path if resume else expand_home(config.output_dir)
        require_shared_folder(process_group, folder)
        _start(
            preflight, process_group, key, argv, subscriber, control, resume, decisions, receivers
        )


def _start(
    preflight: PreflightResult,
    process_group: ProcessGroup,
    key: JudgeKey,
    argv: Sequence[str],
    subscriber: queue.SimpleQueue[ev.Record],
    control: RunControl,
    resume: ResumePoint | None,
    decisions: queue.SimpleQueue[ResumeDecision] | None,
    receivers: Receivers,
) -> None:
    """Create or reopen the run directory, then train."""
    config = preflight.config
    if resume is None:
        directory = create_run_directory(config.output_dir, config.name, datetime.now())
    else:
        directory = resume.directory
    previous = resume.state if resume else RunState()
    secrets, clock = Secrets(judge_secrets(config.judge, key)), RunClock()
    secrets.add(hub_token(Path.cwd()))
    secrets.add(receivers.secrets)
    argv = [secrets.redact(argument) for argument in argv]

    def recreate() -> None:
        """Write everything but the log again, after somebody has deleted the run directory."""
        write_description(directory, run.config, preflight, argv)
        point_latest(directory)
        costs.recreate()
        ownership.reacquire()

    notifier = receivers.notifier(
        config, directory, lambda notice: run.emit(notice), secrets, control, decisions is not None
    )
    with notifier, owner.owned_run(directory) as ownership:
        costs = JudgeCosts(directory, "train", earlier=previous.judge.cost)
        if resume is None:
            write_description(directory, config, preflight, argv)
        else:
            prepare_resume(resume, config, preflight, argv)
        with (
            ControlFileWatcher(directory, control),
            contextlib.closing(costs),
            EventLog(
                directory,
                first_seq=previous.seq + 1,
                redact=secrets.redact,
                stop_waiting=control.stop.is_set,
                on_recreated=recreate,
                while_waiting=clock.paused,
            ) as log,
        ):
            log.subscribe(subscriber)
            run = RunContext(
                config,
                preflight,
                directory,
                log,
                control,
                costs,
                resume,
                previous,
                process_group=process_group,
                clock=clock,
                seconds_before=previous.trained_seconds() or 0.0,
                paused_before_s=previous.paused_s,
            )
            run.sinks = _sink_dispatcher(run, secrets)
            log.subscribe(run.sinks)
            log.subscribe(notifier)
            latest_before = point_latest(directory) if resume is None else ""
            outcome = RunLoop(run, key, secrets, decisions).run()
            if resume is None and run.state.run is None:
                restore_latest(directory, latest_before)
            run.allocation_limit.restore()
            _finish(run, outcome, secrets)
            process_group.publish_exit_code(int(outcome.code))


def _finish(run: RunContext, outcome: Outcome, secrets: Secrets) -> None:
    """Write the crash log, the report and the last event of a run, and close its sinks.

    Raises:
        IdaError: the last event could not be written.
    """
    if outcome.crash:
        write_crash_log(run.directory, secrets.redact(outcome.crash), redact=secrets.redact)
    try:
        if run.sinks is not None:
            limit = SINK_TIMEOUT_S if outcome.status == "done" else SINK_TIMEOUT_STOPPED_S
            run.sinks.end(run_ended_event(run, outcome), limit)
        write_final_report(run, run_ended_event(run, outcome))
        run.log.emit(run_ended_event(run, outcome))
    except MemoryError:
        # There is no memory for a report: free what is left of the run, and write only how it ended.
        run.free_step_memory()
        run.log.emit(run_ended_event(run, outcome))
    except OSError as error:
        disk_error = disk_error_of(error, run.directory.path)
        fix = disk_error.hint.partition(";")[0] if disk_error else "check the disk"
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
        run_id=run.run_id,
        settings=sink_settings(run.config, secrets.redact),
        axes=tuple(run.config.rubric.axes),
        resumed_from=run.resume_point.step if run.resume_point else None,
    )
    return SinkDispatcher(create_sinks(run.config.report_to), run_info, run.emit)


@dataclass(slots=True)
class RunLoop:
    """The phases of one run, in order.

    Args:
        context: the shared state of the run.
        key: the judge's API key, or null if it needs none.
        secrets: receives the API keys of later judges.
        decisions: the user's decisions when the judge is unavailable; null ends the run there, to be resumed.
    """

    context: RunContext
    key: JudgeKey
    secrets: Secrets
    decisions: queue.SimpleQueue[ResumeDecision] | None
    judge_services: JudgeServices = field(init=False)
    memory_guard: MemoryGuard = field(init=False)
    pause_controller: PauseController = field(init=False)

    def __post_init__(self) -> None:
        run = self.context
        self.judge_services = JudgeServices(run.emit, run.costs, run.control.stop.is_set)
        # The guard checks host memory; a CUDA device reports out of memory with an exception.
        host_limit = memory_limit().total if run.preflight.device == "cuda" else run.preflight.limit
        self.memory_guard = MemoryGuard(host_limit, run.emit, run.control.stop)
        self.pause_controller = PauseController(
            run, self.judge_services, self.secrets, self.decisions
        )

    def run(self) -> Outcome:
        """Run every phase and return the outcome."""
        run = self.context
        try:
            self._run_phases()
        except (RunInterrupted, JudgeInterrupted):
            run.process_group.is_followed = run.process_group.shares_model
            # When a process dies, its launcher stops the others; that is not a request of the user.
            if lost_peers := run.process_group.find_lost_peers():
                return peer_lost_outcome(run, PeerLostError(lost_peers))
            if not self.memory_guard.reason:
                return interrupted_outcome(run)
            out_of_memory_reason = self.memory_guard.reason
        except PeerLostError as error:
            return peer_lost_outcome(run, error)
        except IdaError as error:
            return failed_outcome(run, error)
        except Exception as error:
            if peer_lost := run.process_group.peer_lost_error(error):
                return peer_lost_outcome(run, peer_lost)
            out_of_memory_reason = out_of_memory_message(error)
            if not out_of_memory_reason:
                return crashed_outcome(run, error)
        else:
            return completed_outcome(run)
        # Outside of the except block: the frames that held the step's tensors are gone.
        return out_of_memory_outcome(run, out_of_memory_reason)

    def _run_phases(self) -> None:
        """Load, evaluate, train, save, evaluate."""
        run = self.context
        with contextlib.ExitStack() as stack:
            build_trainer = self._setup(stack)
            with run.process_group.leading():
                if run.state.evaluation_before is None:
                    self._evaluate("before")
            run.process_group.barrier()
            self._train_until_done(build_trainer)
            if not run.process_group.shares_model:
                run.process_group.allow_peer_exit()
            with run.process_group.leading():
                run.raise_if_stopped()
                run.save_weights()
                self._evaluate("after")
            run.process_group.allow_peer_exit()

    def _setup(self, stack: contextlib.ExitStack) -> Callable[[], InstrumentedGRPOTrainer]:
        """Start the judge, load the model, and build the trainer.

        Args:
            stack: receives everything that must be closed at the end of the run.

        Returns:
            A function that builds the trainer again after a pause.
        """
        run = self.context
        # A sink imports its package in a thread of its own, perhaps at this moment.
        hiding = contextlib.nullcontext() if run.config.report_to else libraries.without_loggers()
        with libraries.without_gc(), hiding:
            from ida_tui.engine.run import build
        stack.enter_context(libraries.capture_library_output(run.emit))
        stack.enter_context(plugin_output_log(run.directory.logs / "plugin.txt"))
        stack.enter_context(prevent_sleep())
        stack.enter_context(run.clock.watch(run.report_suspension))
        self._emit_start_notices()
        download_weights(run)
        if not run.process_group.is_single:
            run.process_group.broadcast(RunSpec.from_context(run))
        if run.preflight.device == "cpu":
            run.allocation_limit.apply()
        monitor = stack.enter_context(
            MemoryMonitor(self._emit_sample, partial(self._check_machine, SleepDetector()))
        )
        stack.enter_context(contextlib.closing(self.judge_services))
        service = self.judge_services.start(run.config, self.key)
        run.functions = load_functions(run)
        collector = RewardCollector.from_config(
            run.config,
            service,
            emit=run.emit,
            stop_requested=run.control.stop.is_set,
            pause=self.pause_controller.wait_for_judge,
            functions=run.functions,
            clock=run.clock,
        )
        build_trainer = partial(self._build_trainer, collector, monitor.set_device_memory)
        run.trainer = build_trainer()
        stack.enter_context(libraries.frozen_gc())
        run.emit(
            build.run_started_event(
                run.config, run.preflight, run.run_id, run.directory, run.trainer, service
            )
        )
        run.raise_if_stopped()
        collector.check_judge()
        return build_trainer

    def _emit_start_notices(self) -> None:
        run = self.context
        run.clock.restart()  # with the first event, after the import of the libraries
        if run.resume_point is not None:
            self._emit_resumed(run.resume_point.step)
        run.emit(ev.PhaseChanged(step=0, phase="load"))
        for note in run.preflight.recipe.notes:
            run.emit(ev.Noticed(level="warning", source="precision", text=note))
        for note in run.preflight.notes:
            run.emit(ev.Noticed(level="warning", source="memory", text=note))
        if note := run.preflight.thread_note:
            run.emit(ev.Noticed(level="warning", source="engine", text=note))
        if note := run.preflight.sharding_note:
            run.emit(ev.Noticed(level="info", source="engine", text=note))

    def _emit_resumed(self, step: int) -> None:
        """Emit `RunResumed`, and a warning if completions are scored differently from now on."""
        run, before = self.context, self.context.state.scoring
        label, parts = scoring_of(run.config, should_stop=run.control.stop.is_set)
        changed = bool(before) and not before[-1].same_scoring(ScoringPeriod(step, label, parts))
        run.emit(ev.RunResumed(step, label, parts) if changed else ev.RunResumed(step))
        if changed and run.state.steps:
            text = change_warning(before[-1], run.state.scoring[-1])
            run.emit(ev.Noticed(level="warning", source="judge", text=text))

    def _emit_sample(self, sample: ev.MemorySampled) -> None:
        self.context.emit(replace(sample, phase=self.context.state.phase))

    def _check_machine(self, sleep_detector: SleepDetector, sample: ev.MemorySampled) -> None:
        """Twice a second: check memory, the sinks, and whether the machine slept."""
        run = self.context
        self.memory_guard.check(sample)
        if run.sinks is not None:
            run.sinks.disable_hung_sinks()
        if seconds := sleep_detector.seconds_slept():
            text = f"the machine slept for {seconds / 60:.0f} min; the run continues"
            run.emit(ev.Noticed(level="warning", source="machine", text=text, lost_s=seconds))

    def _build_trainer(
        self, collector: RewardCollector, set_device_memory: Callable[[DeviceMemory | None], None]
    ) -> InstrumentedGRPOTrainer:
        from ida_tui.engine.device import device
        from ida_tui.engine.run import build

        run = self.context
        reward_source: RewardSource = collector
        if not run.process_group.is_single:
            reward_source = DistributedRewardCollector(run.process_group, collector)

        def on_step_end() -> None:
            set_device_memory(device.memory(run.preflight.device))
            self.pause_controller.raise_alerts()

        return build.build_trainer(
            run.config,
            run.preflight,
            run.directory.checkpoints,
            process_group=run.process_group,
            recorder=StepRecorder(
                run.emit,
                run.control.stop,
                run.config.planned_steps(),
                tuple(run.config.rubric.axes),
                CrossChecker(
                    list(texts_of(run.config.prompts.rows())),
                    self.judge_services.current.formula if run.config.rubric.is_ida else None,
                ),
                clock=run.clock,
                any_rank=run.process_group.any_rank,
                judged_axes=tuple(run.config.rubric.judged_axes),
            ),
            reward_source=reward_source,
            on_step_end=on_step_end,
            on_train_begin=self._on_train_begin,
            between_steps=self._between_steps,
            checkpoint_metadata=run.checkpoint_metadata,
        )

    def _train_until_done(self, build_trainer: Callable[[], InstrumentedGRPOTrainer]) -> None:
        """Train until the last step; rebuild the trainer after every pause that frees its memory."""
        while True:
            try:
                self._train_remaining_steps()
                return
            except PauseRequested:
                pass  # leave the except block, whose traceback refers to the trainer
            self.context.trainer = self.pause_controller.pause_and_rebuild(build_trainer)

    def _train_remaining_steps(self) -> None:
        """Train from the resume point to the last step; if all steps are done, only load the weights."""
        trainer, resume_point = self.context.trainer, self.context.resume_point
        assert trainer is not None
        if resume_point is None or resume_point.checkpoint is None:
            trainer.train()
        elif resume_point.step >= self.context.config.planned_steps():
            trainer.load_checkpoint(resume_point.checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(resume_point.checkpoint))

    def _on_train_begin(self) -> None:
        with self.context.process_group.leading():
            self._evaluate_if_due()

    def _between_steps(self) -> None:
        with self.context.process_group.leading():
            self._evaluate_if_due()
            self.pause_controller.pause_between_steps()

    def _evaluate_if_due(self) -> None:
        if self.context.is_evaluation_due:
            self._evaluate("during")

    def _evaluate(self, when: ev.EvaluationMoment) -> None:
        from ida_tui.engine.run.evaluation import evaluate_held_out

        evaluate_held_out(self.context, self.judge_services.current, when)
