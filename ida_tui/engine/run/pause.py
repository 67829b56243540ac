"""Pauses of a run: between two steps where a person asked for one, and in a step that lacks its judge.

Both keep a checkpoint, say so with `RunPaused`, and wait on the trainer's thread, which does nothing else.
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
from ida_tui.config.schema import JudgeConfig
from ida_tui.engine.exceptions import PauseAsked
from ida_tui.engine.run.context import UnderWay
from ida_tui.engine.run.decision import GoOn
from ida_tui.engine.run.judge_services import Judges
from ida_tui.engine.run.secrets import Secrets
from ida_tui.engine.trainer.reward import Replacement
from ida_tui.events import types as ev
from ida_tui.judge.errors import JudgeUnavailable
from ida_tui.runs.resume import Resumption
from ida_tui.system import allocator

if TYPE_CHECKING:
    from ida_tui.engine.trainer.trainer import WatchedTrainer

KEPT_WHILE_PAUSED = 2e9
"""Bytes of weights up to which a paused run keeps its memory; a larger one is loaded again afterwards."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How one run pauses.

    Args:
        run: the run.
        judges: starts the judge that an answer names.
        secrets: takes the key that comes with it.
        decisions: where somebody answers when the judge is gone; null ends the run there, to be resumed.
    """

    run: UnderWay
    judges: Judges
    secrets: Secrets
    decisions: queue.SimpleQueue[GoOn] | None

    def between_steps(self, alert: ev.AlertRaised | None = None) -> None:
        """Pause here if somebody asked for it; called on the trainer's thread after every step but the last.

        Args:
            alert: has the run pause, too.

        Raises:
            PauseAsked: the model is large, and its memory is given back meanwhile.
            RunInterrupted: another process goes on.
        """
        run = self.run
        if alert is not None:
            run.control.request_pause()
        asked = run.control.pausing or run.control.handing_over
        if not asked or not run.checkpoint():
            return
        run.raise_if_handed_over()
        hint = f"ida-tui attach {run.directory.path} --resume"
        if alert is None:
            run.emit(ev.RunPaused(step=run.last_step, reason="paused", hint=hint, by="person"))
        else:
            why = f"an alert ({alert.rule}): {alert.evidence}"
            hint = f"{alert.advice}\nto go on as it is: {hint}"
            run.emit(ev.RunPaused(step=run.last_step, reason=why, hint=hint, by="alert"))
        held = (run.state.run.params if run.state.run else 0) * 4
        # Other processes would wait with their memory in use: this one giving its own back helps little.
        if held > KEPT_WHILE_PAUSED and run.ranks.alone:
            raise PauseAsked
        allocator.give_back()
        run.control.wait_while_paused()
        run.raise_if_handed_over()
        if not run.control.stop.is_set():
            run.emit(ev.RunResumed(run.last_step))

    def rebuilt(self, build: Callable[[], WatchedTrainer]) -> WatchedTrainer:
        """Give everything back, wait, and load the run again where it was.

        Raises:
            RunInterrupted: somebody asked to stop meanwhile, or another process goes on.
        """
        run = self.run
        saved = run.state.checkpoint
        assert saved is not None
        run.make_room()
        run.trainer = None
        gc.collect()
        run.control.wait_while_paused()
        run.raise_if_stopped()
        run.raise_if_handed_over()
        run.emit(ev.RunResumed(saved.step))
        run.emit(ev.PhaseChanged(step=saved.step, phase="load"))
        run.resume = Resumption(run.directory, run.state, Path(saved.path), saved.step)
        return build()

    def for_the_judge(self, error: JudgeUnavailable) -> Replacement:
        """Keep what there is, and ask what to do; called on the trainer's thread.

        Raises:
            JudgeUnavailable: nobody is there to be asked.
            RunInterrupted: the answer is to stop.
        """
        run = self.run
        run.checkpoint()
        run.emit(ev.RunPaused(step=run.last_step, reason=error.title, hint=error.hint))
        if self.decisions is None:
            raise error
        answer = self._answer(self.decisions)
        same = _endpoint(answer.judge) == _endpoint(run.config.judge)
        self.secrets.add(answer.key)
        run.config = run.config.model_copy(update={"judge": answer.judge, "budget": answer.budget})
        run.directory.config.write_text(resolve.to_yaml(run.config), encoding="utf-8")
        service = self.judges.start(run.config, answer.key, spent=run.state.judge.cost)
        run.emit(ev.RunResumed(run.last_step, None if same else service.label))
        return Replacement(service, same, answer.judge.max_unscored)

    def _answer(self, decisions: queue.SimpleQueue[GoOn]) -> GoOn:
        """What somebody decides; blocks until then."""
        while True:
            self.run.raise_if_stopped()
            with contextlib.suppress(queue.Empty):
                return decisions.get(timeout=0.1)


def _endpoint(judge: JudgeConfig) -> tuple[str, str, str | None]:
    """What makes two profiles the same judge."""
    return judge.kind, judge.model, judge.base_url
