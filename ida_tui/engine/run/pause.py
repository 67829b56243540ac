"""Pauses and alerts of a training run.

A run pauses between two steps, on request or after an alert, and within a step if its judge is unavailable.

Both save a checkpoint, emit `RunPaused`, and block the trainer's thread.
"""

from __future__ import annotations

import contextlib
import gc
import queue
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.config import resolve
from ida_tui.config.trust import consent
from ida_tui.engine.exceptions import PauseRequested, StoppedByAlert
from ida_tui.engine.run.context import RunContext
from ida_tui.engine.run.control import ResumeDecision
from ida_tui.engine.run.judge_services import JudgeServices
from ida_tui.engine.run.secrets import Secrets
from ida_tui.engine.trainer.reward import Replacement
from ida_tui.events import types as ev
from ida_tui.events.alerts.rules import evaluate_rules
from ida_tui.events.scoring import change_warning
from ida_tui.judge.api_key import judge_secrets
from ida_tui.judge.errors import FunctionsUnavailable, JudgeUnavailable
from ida_tui.judge.service import scoring_of
from ida_tui.runs.resume import ResumePoint
from ida_tui.system import allocator
from ida_tui.util.safe_files import write_text

if TYPE_CHECKING:
    from ida_tui.engine.trainer.trainer import InstrumentedGRPOTrainer

MAX_BYTES_WHILE_PAUSED = 2e9
"""Bytes of weights up to which a paused run keeps its memory; a larger model is loaded again afterwards."""


@dataclass(slots=True)
class PauseController:
    """Pauses and resumes one run; its methods are called on the trainer's thread.

    Args:
        run: the run.
        judge_services: starts the judge that a decision names.
        secrets: receives the API key of a decision.
        decisions: the user's decisions when the judge is unavailable; null ends the run there, to be resumed.
    """

    run: RunContext
    judge_services: JudgeServices
    secrets: Secrets
    decisions: queue.SimpleQueue[ResumeDecision] | None
    _handled_alerts: int | None = None
    """Number of alerts at the last check; None before the first."""

    def raise_alerts(self) -> None:
        """Emit the alerts that the step that just finished raises."""
        for alert in evaluate_rules(self.run.state, self.run.config):
            self.run.emit(alert)

    def pause_between_steps(self) -> None:
        """Pause if a pause is requested or an alert demands it; called after every step but the last.

        Raises:
            PauseRequested: the model is large, so its memory must be freed for the pause.
            StoppedByAlert: the profile has alerts stop the run.
        """
        run, alert = self.run, self._next_pausing_alert()
        if alert is not None:
            run.control.request_pause()
        if not run.control.pause_requested or not run.save_checkpoint():
            return
        hint = f"ida-tui attach {run.directory.path} --resume"
        if alert is None:
            run.emit(ev.RunPaused(step=run.last_step, reason="paused", hint=hint, by="person"))
        else:
            reason = f"an alert ({alert.rule}): {alert.evidence}"
            hint = f"{alert.advice}\nresume anyway: {hint}"
            run.emit(ev.RunPaused(step=run.last_step, reason=reason, hint=hint, by="alert"))
        weight_bytes = (run.state.run.params if run.state.run else 0) * 4
        # The other processes keep their memory while they wait, so freeing only this one's would help little.
        # vLLM starts once in a process, and its server takes one trainer.
        frees = run.process_group.is_single and not run.config.training.use_vllm
        if weight_bytes > MAX_BYTES_WHILE_PAUSED and frees:
            raise PauseRequested
        allocator.release_free_memory()
        with run.clock.paused():
            run.control.wait_while_paused()
        if not run.control.stop.is_set():
            run.emit(ev.RunResumed(run.last_step))

    def pause_and_rebuild(
        self, build: Callable[[], InstrumentedGRPOTrainer]
    ) -> InstrumentedGRPOTrainer:
        """Free all memory, wait, and load the run again at its last checkpoint.

        Raises:
            RunInterrupted: a stop was requested meanwhile.
        """
        run = self.run
        checkpoint = run.state.checkpoint
        assert checkpoint is not None
        run.free_step_memory()
        run.trainer = None
        gc.collect()
        with run.clock.paused():
            run.control.wait_while_paused()
        run.raise_if_stopped()
        run.emit(ev.RunResumed(checkpoint.step))
        run.emit(ev.PhaseChanged(step=checkpoint.step, phase="load"))
        run.resume_point = ResumePoint(
            run.directory, run.state, Path(checkpoint.path), checkpoint.step
        )
        return build()

    def wait_for_judge(self, error: JudgeUnavailable) -> Replacement:
        """Save a checkpoint and wait for the user's decision.

        Raises:
            JudgeUnavailable: there is no user to decide, or no longer one.
            RunInterrupted: the user stopped the run.
        """
        run = self.run
        run.save_checkpoint()
        run.emit(
            ev.RunPaused(
                step=run.last_step,
                reason=error.title,
                hint=error.hint,
                functions_failed=isinstance(error, FunctionsUnavailable),
            )
        )
        if self.decisions is None or run.control.unattended.is_set():
            raise error
        _, before = scoring_of(run.config, should_stop=run.control.stop.is_set)
        if functions := run.state.scoring[-1].parts.get("functions"):
            before["functions"] = functions  # their files may have changed while the run went on
        with run.clock.paused():
            decision = self._wait_for_decision(self.decisions, error)
        self.secrets.add(judge_secrets(decision.judge, decision.key))
        run.config = run.config.model_copy(
            update={"judge": decision.judge, "budget": decision.budget}
        )
        write_text(run.directory.config, resolve.to_yaml(run.config))
        consent.remember_run(run.config, run.directory.path, consent.RESUME_USES)
        service = self.judge_services.start(run.config, decision.key)
        if service.scoring == before:
            run.emit(ev.RunResumed(run.last_step))
            return Replacement(service, True, decision.judge.max_unscored)
        period = run.state.scoring[-1]
        run.emit(ev.RunResumed(run.last_step, service.label, service.scoring))
        text = change_warning(period, run.state.scoring[-1])
        run.emit(ev.Noticed(level="warning", source="judge", text=text))
        return Replacement(service, False, decision.judge.max_unscored)

    def _next_pausing_alert(self) -> ev.AlertRaised | None:
        """The newest alert since the last call, if the run has to pause for it; otherwise None.

        Raises:
            StoppedByAlert: the profile has alerts stop the run.
        """
        run, handled = self.run, self._handled_alerts
        self._handled_alerts = run.state.alert_count
        if handled is None:
            # The process that ran before a resume has handled its own alerts.
            handled = run.resume_point.state.alert_count if run.resume_point else 0
        if run.state.alert_count <= handled:
            return None
        alert = run.state.alerts[-1]
        if run.config.alerts.on_alert == "stop":
            raise StoppedByAlert(alert)
        return alert if run.config.alerts.on_alert == "pause" else None

    def _wait_for_decision(
        self, decisions: queue.SimpleQueue[ResumeDecision], error: JudgeUnavailable
    ) -> ResumeDecision:
        """Wait for the user's decision; raise the error once nobody is there to decide."""
        while True:
            self.run.raise_if_stopped()
            if self.run.control.unattended.is_set():
                raise error
            with contextlib.suppress(queue.Empty):
                return decisions.get(timeout=0.1)
