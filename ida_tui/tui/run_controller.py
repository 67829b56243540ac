"""Controller of the displayed run: start, open, follow, stop, and leave in the background.

The app calls `tick` four times a second. It folds new records into the run's state and refreshes the active
screen; nothing else comes from the process that trains the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from textual.worker import Worker

from ida_tui.engine.run.control import ResumeDecision
from ida_tui.errors import IdaError
from ida_tui.events.codec import EventError
from ida_tui.events.types import (
    MemorySampled,
    RunEnded,
    RunPaused,
    TextGenerated,
    TokensGenerated,
)
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.chat_controller import STILL_LOADING
from ida_tui.tui.run_view.sources import AttachedSource, LiveSource, ReplaySource
from ida_tui.tui.run_view.watched import EventTypes, RunView
from ida_tui.tui.screens.dialogs import QuitChoice
from ida_tui.util.paths import display_path

if TYPE_CHECKING:
    from ida_tui.config.schema import Config, JudgeKey
    from ida_tui.engine.process.engine import EngineProcess
    from ida_tui.engine.run.background import BackgroundRun
    from ida_tui.runs.control import ControlRequest
    from ida_tui.runs.log.replay import Replay
    from ida_tui.tui.app import IdaApp

LOW_PRIORITY_EVENTS: EventTypes = frozenset({TokensGenerated, TextGenerated, MemorySampled})
"""Frequent events that are drawn on every second tick only."""
LONG_RUN_BYTES = 64e6
"""Size of an event log in bytes above which opening the run takes seconds and is announced."""
MIN_MEMORY_TO_PREPARE = 8e9
"""Free memory in bytes from which a process may wait for the next run; it takes about a tenth of that."""
MAX_UNDRAWN_S = 1.0
"""Longest time in seconds without drawing while records wait to be folded."""
QUIT_TIMEOUT_S = 20.0
"""Longest wait for a stopping run to save its checkpoint before the app closes anyway."""
RUN_IS_LIVE = "A run is live. Stop it first: press 2, then s."


class RunController:
    """Controls the run that the app displays, `app.run_view`."""

    def __init__(self, app: IdaApp) -> None:
        self._app = app
        self.background_run: BackgroundRun | None = None
        """The run of this app that goes on in the background."""
        self.quit_choice = QuitChoice.STAY
        """What the user chose on quitting; the app closes after the run has stopped or moved."""
        self._prepared: EngineProcess | None = None
        """A process that waits for the next run."""
        self._end_announced = False
        self._pending_events: EventTypes = frozenset()
        """Types of the events that the active screen has not shown yet."""
        self._drawn_at = 0.0
        """When the active screen last showed events, in seconds of a monotonic clock."""

    # -- starting and opening -----------------------------------------------------------------

    def prepare(self) -> None:
        """Start the process of the next run, so that its libraries are imported before they are needed.

        Without a processor and memory to spare nothing is prepared.
        """
        run_view = self._app.run_view
        if self._app.is_headless or (run_view is not None and run_view.is_live):
            return
        from ida_tui.system.processors import usable_processors

        # `ida-tui-viewer` has no libraries to import.
        if self._prepared is not None or usable_processors() < 2 or find_spec("torch") is None:
            return
        from ida_tui.engine.process.engine import EngineProcess
        from ida_tui.system.memory_limit import memory_limit

        limit = memory_limit()
        if limit.total - limit.used < MIN_MEMORY_TO_PREPARE:
            return
        with contextlib.suppress(IdaError):  # the run reports it
            self._prepared = EngineProcess()
            self._prepared.send("prepare")

    def _take_prepared(self, config: Config) -> EngineProcess | None:
        """The prepared process, unless it is gone or the run needs its libraries set up in another way."""
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            return None
        if (
            prepared.is_alive
            and not config.model.trust_remote_code
            and not config.training.use_vllm
        ):
            return prepared
        prepared.close()
        return None

    def start(self, config: Config, key: JudgeKey) -> None:
        """Train an experiment in a process of its own and show it.

        Args:
            config: the resolved experiment profile.
            key: the judge's API key, if it needs one.
        """
        if self._app.run_view is not None and self._app.run_view.is_live:
            self._app.notify(RUN_IS_LIVE, severity="warning")
            return
        if not self._app.chat_controller.close():
            self._app.notify(STILL_LOADING)
            return
        from ida_tui.engine.process.session import ProcessSession

        session = ProcessSession(
            config, key=key, argv=self._app.argv, engine=self._take_prepared(config)
        )
        session.start()
        self.show(RunView(LiveSource(session), started_at=self._app.clock()))

    def open(self, path: Path) -> None:
        """Replay the run in this directory, or follow it if another process is training it."""
        self._run_worker(partial(self._open, path))

    def _run_worker(self, work: Callable[[], Coroutine[None, None, None]]) -> Worker[None]:
        """Run this in the background; cancels an earlier call that has not finished."""
        return self._app.run_worker(work, group="open", exclusive=True)

    async def _open(self, path: Path) -> None:
        if self._app.run_view is not None and self._app.run_view.is_live:
            self._app.notify(RUN_IS_LIVE, severity="warning")
            return
        from ida_tui.runs import owner

        directory, canceled = RunDirectory(path), threading.Event()
        try:
            self._announce_long_run(directory)
            replay = await asyncio.to_thread(_read, directory, canceled.is_set)
        except asyncio.CancelledError:
            # Another run is being opened, or the app is closing: stop reading this one.
            canceled.set()
            raise
        except (OSError, EventError) as error:
            self._app.show_error(
                IdaError(f"could not read this run: {error}", f"check {directory.events}")
            )
            return
        running = replay.final_state.ended is None and owner.is_alive(directory)
        source = AttachedSource(directory, replay.offset) if running else ReplaySource(directory)
        self.show(RunView(source, state=replay.final_state, replay=replay))

    def _announce_long_run(self, directory: RunDirectory) -> None:
        size = directory.events.stat().st_size
        if size > LONG_RUN_BYTES:
            self._app.notify(f"Opening a long run ({size / 1e6:,.0f} MB)…")

    def show(self, run_view: RunView, *, in_front: bool = True) -> None:
        """Show a run on all screens, and switch to the run screen if `in_front`."""
        if self._app.run_view is None and not self._app.is_headless:
            # A full garbage collection would visit every object of the libraries while the keys wait.
            gc.freeze()
        self._app.run_view = run_view
        self._app.frozen = False
        # Do not announce the end of a run that was opened from disk.
        self._end_announced = run_view.source.kind == "replay"
        if self._app.current_mode == "run" or not in_front:
            self._app.refresh_screen()
        else:
            self._app.switch_mode("run")

    def check_if_resumed(self) -> None:
        """Follow the displayed run again if another process has resumed it."""
        run_view = self._app.run_view
        if run_view is None or run_view.in_progress or run_view.viewed_state is not None:
            return
        directory = run_view.source.directory
        workers = self._app.workers
        if directory is None or any(w.group == "open" and not w.is_finished for w in workers):
            return
        from ida_tui.runs import owner

        if owner.is_alive(RunDirectory(directory)):
            self._run_worker(partial(self._follow_resumed_run, RunDirectory(directory)))

    async def _follow_resumed_run(self, directory: RunDirectory) -> None:
        """Follow a finished run that another process has resumed, without switching screens."""
        try:
            replay = await asyncio.to_thread(_read, directory)
        except (OSError, EventError):
            return  # keep showing the state read before
        if replay.final_state.ended is None:
            source = AttachedSource(directory, replay.offset)
            self.show(RunView(source, state=replay.final_state, replay=replay), in_front=False)

    # -- requests to the run ------------------------------------------------------------------

    def send_request(self, request: ControlRequest) -> None:
        """Request that the displayed run, here or in another process, pause, resume, or stop."""
        run_view = self._app.run_view
        if run_view is None:
            return
        if isinstance(run_view.source, LiveSource):
            session = run_view.source.session
            {
                "stop": session.request_stop,
                "pause": session.request_pause,
                "go_on": session.request_resume,
            }[request]()
        elif run_view.directory is not None:
            from ida_tui.runs import control

            try:
                control.send_request(RunDirectory(run_view.directory), request)
            except OSError as error:
                self._app.show_error(
                    IdaError(f"could not send the request: {error.strerror or error}")
                )
                return
        if request == "stop":
            run_view.stop_requested = True
            run_view.handing_over = False
        run_view.pause_requested = request == "pause"
        self._app.refresh_screen()

    def hand_over(self, *, quit_app: bool = False) -> None:
        """Let the live run go on in the background.

        Args:
            quit_app: whether to close the app afterwards; otherwise it follows the run like that of any other
                process.
        """
        run_view = self._app.run_view
        if run_view is None or not isinstance(run_view.source, LiveSource) or not run_view.is_live:
            return
        if run_view.state.pause is not None and run_view.state.pause.by == "judge":
            self._app.notify(
                f"The run is paused because of {run_view.state.pause.cause}."
                " First choose how to continue."
            )
            return
        if run_view.stop_requested:
            self._app.notify("The run is stopping and saving a checkpoint.")
            return
        self.quit_choice = QuitChoice.DETACH if quit_app else QuitChoice.STAY
        run_view.handing_over = True
        run_view.source.session.request_hand_over()
        self._app.refresh_screen()

    def _leave_in_background(self, background_run: BackgroundRun) -> None:
        """After a handover, close the app or follow the run like that of any other process."""
        self.background_run = background_run
        if self.quit_choice is QuitChoice.DETACH:
            self._app.exit()
            return
        first, *rest = background_run.status_lines()
        self._app.notify("\n".join([first, rest[0].strip()]), timeout=15)
        self.open(background_run.directory.path)

    def stop_and_quit(self) -> None:
        """Stop a live run, wait for its checkpoint, and close the app."""
        self.quit_choice = QuitChoice.STOP
        if self._app.run_view is None or not self._app.run_view.is_live:
            self._app.quit_now()
            return
        self.send_request("stop")
        self._app.notify(
            "Stopping and saving a checkpoint… Press q to quit immediately.", timeout=60
        )
        self._app.set_timer(QUIT_TIMEOUT_S, self._app.quit_now)

    # -- updates ------------------------------------------------------------------------------

    def tick(self, *, skip_low_priority: bool = False) -> None:
        """Fold new records and refresh the active screen.

        Args:
            skip_low_priority: postpone the events in `LOW_PRIORITY_EVENTS` to the next tick, because drawing
                delays the trainer.
        """
        run_view = self._app.run_view
        if run_view is None:
            return
        changed, more_waiting = run_view.fold_new_records()
        if more_waiting:
            # Handle key presses first, then read on.
            self._app.call_later(self.tick)
        self._pending_events |= changed
        postpone = (
            skip_low_priority
            and self._pending_events <= LOW_PRIORITY_EVENTS
            and run_view.state.phase != "judge"
        ) or (more_waiting and time.monotonic() - self._drawn_at < MAX_UNDRAWN_S)
        has_news = bool(self._pending_events) or run_view.in_progress
        if not self._app.frozen and not postpone and has_news:
            self._app.refresh_screen(self._pending_events)
            self._pending_events = frozenset()
            self._drawn_at = time.monotonic()
        if RunPaused in changed:
            run_view.pause_requested = False
            if run_view.is_live:
                self._ask_how_to_resume(run_view)
        ended = RunEnded in changed and not run_view.handing_over
        if not self._end_announced and (run_view.source.finished or ended):
            self._end_announced = True
            self._finish(run_view)

    def _ask_how_to_resume(self, run_view: RunView) -> None:
        """Ask how to resume a run that is paused because of its judge or its reward functions."""
        from ida_tui.tui.screens.paused import PausedDialog, key_finder

        pause = run_view.state.pause
        if (
            pause is None
            or pause.by != "judge"
            or not isinstance(run_view.source, LiveSource)
            or self.quit_choice is QuitChoice.STOP
        ):
            return
        session = run_view.source.session

        def on_answer(answer: ResumeDecision | None) -> None:
            if answer is not None:
                session.resume_with(answer)
            else:
                self.send_request("stop")

        self._app.push_screen(
            PausedDialog(pause, session.judge, session.budget, key_finder(Path.cwd())), on_answer
        )

    def _finish(self, run_view: RunView) -> None:
        """After the end of the run or its handover, close the app or show why the run failed."""
        choices = (QuitChoice.STOP, QuitChoice.DETACH if run_view.handing_over else QuitChoice.STOP)
        session = run_view.source.session if isinstance(run_view.source, LiveSource) else None
        run_view.handing_over = False
        self._app.refresh_screen()
        if session is not None and session.background_run and run_view.state.ended is None:
            self._leave_in_background(session.background_run)
            return
        if self.quit_choice in choices:
            self._app.quit_now()
            return
        if session is not None:
            self.prepare()
        if run_view.error is not None:
            self._app.show_error(run_view.error)
            return
        ended = run_view.state.ended
        if ended is not None and ended.status not in ("done", "interrupted"):
            log = f"run directory: {run_view.directory}" if run_view.directory else ""
            self._app.show_error(IdaError(ended.message, f"{ended.hint}\n{log}".strip()))
        elif ended is None and session is not None and session.died:
            self._app.show_error(_death(run_view, session.died))


def _read(directory: RunDirectory, is_canceled: Callable[[], bool] = lambda: False) -> Replay:
    """Read a run in another thread, which also imports the screen that will show it.

    Nothing that is read refers to itself, so collections of garbage would only keep the keys waiting.

    Raises:
        OSError: the file cannot be read.
        EventError: a line that had to be parsed is not an event.
        ReplayCanceled: `is_canceled` returned true.
    """
    from ida_tui.runs.log.replay import Replay
    from ida_tui.tui.screens.run import screen  # noqa: F401

    collecting = gc.isenabled()
    gc.disable()
    try:
        return Replay.open(directory.events, is_canceled)
    finally:
        if collecting:
            gc.enable()


def _death(run_view: RunView, how: str) -> IdaError:
    """The error to show for a run whose process ended without ending the run."""
    from ida_tui.runs.postmortem import likely_cause

    if run_view.directory is not None:
        how += f"\nresume with: ida-tui resume {display_path(run_view.directory)}"
    return IdaError(f"the run died: {likely_cause(run_view.state)}", how)
