"""Textual app: screens, the displayed run, the chat, the palette, and shutdown.

Four times a second the new records are folded into the run's state, and the active screen is refreshed.
Nothing else crosses from the trainer's thread.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from textual import work
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.dom import DOMNode
from textual.screen import Screen

from ida_tui.engine.run.control import ResumeDecision
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.codec import EventError
from ida_tui.events.types import (
    MemorySampled,
    RunEnded,
    RunPaused,
    TextGenerated,
    TokensGenerated,
)
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui import actions, modes, terminal
from ida_tui.tui.crash import CrashReport
from ida_tui.tui.run_view.sources import AttachedSource, LiveSource, ReplaySource
from ida_tui.tui.run_view.watched import EventTypes, RunView
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.dialogs import ErrorDialog, QuitAnswer, QuitDialog
from ida_tui.util.text import multiple_lines

if TYPE_CHECKING:
    from ida_tui.config.schema import Config
    from ida_tui.engine.inference.chat import Chat
    from ida_tui.engine.run.background import BackgroundRun
    from ida_tui.runs.control import ControlRequest
    from ida_tui.tui.screens.paused import StopAnswer

STYLES = Path(__file__).parent / "styles"
REFRESH_SECONDS = 0.25
"""Seconds between two refreshes of the screen."""
LOW_PRIORITY_EVENTS: EventTypes = frozenset({TokensGenerated, TextGenerated, MemorySampled})
"""Frequent events that are drawn on every second tick only."""
SWITCH_INTERVAL_S = 0.0005
"""Interpreter switch interval in seconds. With Python's default of 5 ms, a trainer of many small operations
would stall for as long as the screen is drawn: each operation would wait for the interpreter again."""
LONG_RUN_BYTES = 64e6
"""Size of an event log in bytes above which opening the run takes seconds and is announced."""
RESUME_CHECK_TICKS = 8
"""Ticks between two checks whether another process has resumed a finished run: two seconds."""
TERMINAL_CHECK_TICKS = 8
"""Ticks between two checks whether the terminal is still open: two seconds."""
CHAT_CLOSE_TIMEOUT_S = 2.0
"""Longest wait for the chat's thread to end: enough for one token, not for loading a large model."""
QUIT_TIMEOUT_S = 20.0
"""Longest wait for a stopping run to save its checkpoint before the app closes anyway."""


class IdaApp(App[None]):
    """`ida-tui` on a terminal.

    Args:
        argv: the command line as typed; recorded in the manifest of every run started here.
        output_dir: directory of past runs.
        clock: returns the current time in UTC.
        crash_log: file for the traceback of a crash.
        opened: directory of a run or a sweep to open at the start.
        chatting: directory of a run to chat with at the start.
    """

    TITLE = "ida-tui"
    CSS_PATH: ClassVar[list[str | PurePath]] = [
        STYLES / f"{name}.tcss"
        for name in ("app", "launch", "run", "completions", "runs", "compare", "sweep", "chat")
    ]
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings_for("everywhere")
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {**modes.MODES}

    def __init__(
        self,
        *,
        argv: Sequence[str] = ("ida-tui",),
        output_dir: Path = Path("outputs"),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        crash_log: Path | None = None,
        open_directory: Path | None = None,
        chat_directory: Path | None = None,
    ) -> None:
        super().__init__()
        self.argv = tuple(argv)
        self.output_dir = output_dir
        self.clock = clock
        self.run_view: RunView | None = None
        self.frozen = False
        """Whether the display is frozen."""
        self.crash: CrashReport | None = None
        self.compared_runs: tuple[Path, ...] = ()
        """Directories of the runs on the compare screen."""
        self.sweep_directory: Path | None = None
        """Directory of the sweep on the sweep screen; None shows the latest."""
        self._crash_log = crash_log
        self._open_directory = open_directory
        self._chat_directory = chat_directory
        self.chat: Chat | None = None
        """The chat whose models are in memory."""
        self.background_run: BackgroundRun | None = None
        """The background process that took over a run of this app."""
        self._quitting = False
        self._quit_after_detach = False
        """Whether the app closes as soon as the background process has taken over."""
        self._signaled = False
        self._end_announced = False
        self._ticks = 0
        self._pending_events: EventTypes = frozenset()
        """Types of the events that the active screen has not shown yet."""

    async def on_mount(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        await self.switch_mode("launch")
        self.set_interval(REFRESH_SECONDS, self._timed_tick, name="refresh")
        if self._open_directory is not None:
            await self._open_at_start(self._open_directory)
        if self._chat_directory is not None:
            await self.open_chat(self._chat_directory)
        if not self.is_headless:
            self._install_signal_handlers()

    async def _open_at_start(self, path: Path) -> None:
        """Open a run or a sweep at the start of the app."""
        from ida_tui.sweep import directory as folder

        if not folder.is_sweep(path):
            self.open_run(path)
            return
        self.sweep_directory = path
        await self.switch_mode("sweep")

    # -- the run ------------------------------------------------------------------------------

    def start_run(self, config: Config, key: str | None) -> None:
        """Train an experiment in this process and show it.

        Args:
            config: the resolved experiment profile.
            key: the judge's API key, if it needs one.
        """
        if self.run_view is not None and self.run_view.is_live:
            self.notify("A run is live. Stop it first: press 2, then s.", severity="warning")
            return
        if not self.close_chat():
            self.notify("The chat is still loading its model. Try again in a moment.")
            return
        from ida_tui.engine.session import Session

        session = Session(config, key=key, argv=self.argv, interactive=True)
        session.start()
        self.show_view(RunView(LiveSource(session), started_at=self.clock()))

    @work(exclusive=True, group="open")
    async def open_run(self, path: Path) -> None:
        """Replay the run in this directory, or follow it if another process is training it."""
        if self.run_view is not None and self.run_view.is_live:
            self.notify("A run is live. Stop it first: press 2, then s.", severity="warning")
            return
        from ida_tui.runs import owner
        from ida_tui.runs.log.replay import Replay

        directory, canceled = RunDirectory(path), threading.Event()
        try:
            self._announce_long_run(directory)
            replay = await asyncio.to_thread(Replay.open, directory.events, canceled.is_set)
        except asyncio.CancelledError:
            # Another run is being opened, or the app is closing: stop reading this one.
            canceled.set()
            raise
        except (OSError, EventError) as error:
            self.show_error(
                IdaError(f"could not read this run: {error}", f"check {directory.events}")
            )
            return
        running = replay.final_state.ended is None and owner.is_alive(directory)
        source = AttachedSource(directory, replay.offset) if running else ReplaySource(directory)
        self.show_view(RunView(source, state=replay.final_state, replay=replay))

    # -- the chat -----------------------------------------------------------------------------

    async def open_chat(self, path: Path) -> None:
        """Chat with the model of the run in this directory, unless this process is training."""
        if self.run_view is not None and self.run_view.is_live:
            self.notify("Chat is unavailable while a run is training.",
                        severity="warning")  # fmt: skip
            return
        if self.chat is None or self.chat.closing or self.chat.directory.path != path:
            if not self.close_chat():
                self.notify("The chat is still loading its model. Try again in a moment.")
                return
            from ida_tui.engine.inference.chat import Chat

            self.chat = Chat(RunDirectory(path))
            self.chat.start()
        await self.action_go("chat")

    def close_chat(self) -> bool:
        """Close the chat, if one is open. Returns False if its thread did not end in time."""
        if self.chat is None:
            return True
        self.chat.close()
        if not self.chat.join(CHAT_CLOSE_TIMEOUT_S):
            return False
        self.chat = None
        return True

    def _announce_long_run(self, directory: RunDirectory) -> None:
        size = directory.events.stat().st_size
        if size > LONG_RUN_BYTES:
            self.notify(f"Opening a long run ({size / 1e6:,.0f} MB)…")

    def show_view(self, run_view: RunView, *, in_front: bool = True) -> None:
        """Show a run on all screens, and switch to the run screen if `in_front`."""
        self.run_view = run_view
        self.frozen = False
        # Do not announce the end of a run that was opened from disk.
        self._end_announced = run_view.source.kind == "replay"
        if self.current_mode == "run" or not in_front:
            self.refresh_screen()
        else:
            self.switch_mode("run")

    def request_stop(self) -> None:
        """Request a stop; the run saves a checkpoint first."""
        self.send_run_request("stop")

    def send_run_request(self, request: ControlRequest) -> None:
        """Request that the displayed run, here or in another process, pause, resume, or stop."""
        run_view = self.run_view
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
                self.show_error(IdaError(f"could not send the request: {error.strerror or error}"))
                return
        if request == "stop":
            run_view.stop_requested = True
            run_view.handing_over = False
        run_view.pause_requested = request == "pause"
        self.refresh_screen()

    def hand_over(self, *, quit_app: bool = False) -> None:
        """Move the live run to a background process after the current step.

        Args:
            leave: whether to close the app afterwards; otherwise it follows the background process.
        """
        run_view = self.run_view
        if run_view is None or not isinstance(run_view.source, LiveSource) or not run_view.is_live:
            return
        if run_view.state.pause is not None and run_view.state.pause.by == "judge":
            self.notify("The run is paused because of its judge. Answer the question first.")
            return
        if run_view.stop_requested:
            self.notify("The run is stopping and saving a checkpoint.")
            return
        self._quit_after_detach = quit_app
        run_view.handing_over = True
        run_view.source.session.request_hand_over()
        self.notify("Moving to the background after this step. Press s to stop instead.")
        self.refresh_screen()

    def _finish_hand_over(self, run_view: RunView) -> None:
        """Start the background process, unless the run finished or failed before the handover."""
        ended = run_view.state.ended
        if ended is None or ended.status != "interrupted" or run_view.directory is None:
            self._quitting = self._quitting or self._quit_after_detach
            self._end_announced = True
            self._announce_end(run_view)
            return
        self._end_announced = True
        self._start_background_run(
            RunDirectory(run_view.directory), quit_app=self._quit_after_detach
        )

    @work(exclusive=True, group="open")
    async def _start_background_run(self, directory: RunDirectory, *, quit_app: bool) -> None:
        from ida_tui.engine.run.background import hand_over

        def start_process() -> BackgroundRun:
            # Set by the thread itself: the app may close while the process starts.
            self.background_run = hand_over(directory)
            return self.background_run

        self.notify("Starting background process…", timeout=10)
        try:
            detached = await asyncio.to_thread(start_process)
        except IdaError as error:
            self.show_error(error)
            return
        if quit_app:
            self.exit()
            return
        first, *rest = detached.status_lines()
        self.notify("\n".join([first, rest[0].strip()]), timeout=15)
        self.open_run(directory.path)

    @work(exclusive=True, group="open")
    async def _follow_resumed_run(self, directory: RunDirectory) -> None:
        """Follow a finished run that another process has resumed, without switching screens."""
        from ida_tui.runs.log.replay import Replay

        try:
            replay = await asyncio.to_thread(Replay.open, directory.events)
        except (OSError, EventError):
            return  # keep showing the state read before
        if replay.final_state.ended is None:
            source = AttachedSource(directory, replay.offset)
            self.show_view(RunView(source, state=replay.final_state, replay=replay), in_front=False)

    def _check_for_resumed_run(self) -> None:
        """Follow the displayed run again if another process has resumed it."""
        run_view = self.run_view
        if run_view is None or run_view.in_progress or run_view.viewed_state is not None:
            return
        directory = run_view.source.directory
        if directory is None or any(w.group == "open" and not w.is_finished for w in self.workers):
            return
        from ida_tui.runs import owner

        if owner.is_alive(RunDirectory(directory)):
            self._follow_resumed_run(RunDirectory(directory))

    def _timed_tick(self) -> None:
        self._ticks += 1
        check_terminal = (
            self._ticks % TERMINAL_CHECK_TICKS == 0 and not self.is_headless and not self._signaled
        )
        if check_terminal and terminal.is_closed():
            self._on_signal()  # like SIGHUP, which reaches only processes the terminal controls
        if self._ticks % RESUME_CHECK_TICKS == 0:
            self._check_for_resumed_run()
        self.tick(skip_low_priority=self._ticks % 2 == 1)

    def tick(self, *, skip_low_priority: bool = False) -> None:
        """Fold new records and refresh the active screen.

        Args:
            calm: postpone the events in `SMALL_NEWS` to the next tick, because drawing delays the trainer.
        """
        run_view = self.run_view
        if run_view is None:
            return
        changed, more = run_view.fold_new_records()
        if more:
            # Many records are waiting: handle key presses first, then read on.
            self.call_later(self.tick)
        self._pending_events |= changed
        small = (
            skip_low_priority
            and self._pending_events <= LOW_PRIORITY_EVENTS
            and run_view.state.phase != "judge"
        )
        if not self.frozen and not small and (self._pending_events or run_view.in_progress):
            self.refresh_screen(self._pending_events)
            self._pending_events = frozenset()
        if RunPaused in changed:
            run_view.pause_requested = False
            if run_view.is_live:
                self._ask_how_to_resume(run_view)
        if run_view.handing_over and not run_view.in_progress:
            # The run's lock is free only after the trainer's thread has ended, later than the last event.
            if run_view.source.finished:
                run_view.handing_over = False
                self._finish_hand_over(run_view)
            return
        if not self._end_announced and (run_view.source.finished or RunEnded in changed):
            self._end_announced = True
            self._announce_end(run_view)

    def _ask_how_to_resume(self, run_view: RunView) -> None:
        """Ask how to resume a run that is paused because of its judge."""
        from ida_tui.tui.screens.paused import PausedDialog, key_finder

        pause = run_view.state.pause
        if (
            pause is None
            or pause.by != "judge"
            or not isinstance(run_view.source, LiveSource)
            or self._quitting
        ):
            return
        session = run_view.source.session

        def answered(answer: ResumeDecision | StopAnswer | None) -> None:
            if isinstance(answer, ResumeDecision):
                session.resume_with(answer)
            else:
                self.request_stop()

        self.push_screen(
            PausedDialog(pause, session.judge, session.budget, key_finder(Path.cwd())), answered
        )

    def refresh_screen(self, changed: frozenset[type] | None = None) -> None:
        """Refresh the active screen."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, IdaScreen):
                screen.refresh_run(changed)
                return

    def _announce_end(self, run_view: RunView) -> None:
        self.refresh_screen()
        if self._quitting:
            self.exit(return_code=self._quit_exit_code())
            return
        if run_view.error is not None:
            self.show_error(run_view.error)
            return
        ended = run_view.state.ended
        if ended is not None and ended.status not in ("done", "interrupted"):
            log = f"run directory: {run_view.directory}" if run_view.directory else ""
            self.show_error(IdaError(ended.message, f"{ended.hint}\n{log}".strip()))

    def notify(self, message: str, **more: Any) -> None:
        """Show a toast without markup: text of a model or a file name may contain brackets."""
        super().notify(multiple_lines(message), **(more | {"markup": False}))

    def show_error(self, error: IdaError) -> None:
        """Show an error panel: what is wrong, where, and how to fix it."""
        self.push_screen(ErrorDialog(error))

    # -- actions ------------------------------------------------------------------------------

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Whether the action is allowed here. A forbidden action has no key and no footer entry."""
        return True

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Called by Textual before it runs an action or shows its key."""
        return self.allows(action, parameters) and super().check_action(action, parameters)

    async def action_go(self, mode: str) -> None:
        """Switch to a screen."""
        if self.current_mode != mode:
            await self.switch_mode(mode)

    def action_help(self) -> None:
        """List every key."""
        from ida_tui.tui.screens.help import HelpScreen

        if isinstance(self.screen, IdaScreen):
            self.push_screen(HelpScreen(self.screen.SCOPE))

    def action_cursor_down(self) -> None:
        """Move the cursor down."""
        self._move_cursor("down")

    def action_cursor_up(self) -> None:
        """Move the cursor up."""
        self._move_cursor("up")

    def action_cursor_top(self) -> None:
        """Move the cursor to the first line."""
        self._move_cursor("top")

    def action_cursor_bottom(self) -> None:
        """Move the cursor to the last line."""
        self._move_cursor("bottom")

    def _move_cursor(self, direction: str) -> None:
        if isinstance(self.screen, IdaScreen):
            self.screen.move_cursor(direction)

    async def action_back(self) -> None:
        """Close the search, the maximized pane, or the screen."""
        screen = self.screen
        if (
            isinstance(screen, IdaScreen)
            and not screen.handle_escape()
            and self.current_mode != "launch"
        ):
            await self.switch_mode("launch")

    async def action_quit(self) -> None:
        """Close the app. Asks first if a run is live."""
        if self._quitting:
            self.exit(return_code=self._quit_exit_code())
            return
        if self.run_view is None or not self.run_view.is_live:
            self.exit()
            return
        if isinstance(self.screen, QuitDialog):
            return

        def answered(answer: QuitAnswer | None) -> None:
            if answer == "stop":
                self._stop_and_quit()
            elif answer == "detach":
                self.hand_over(quit_app=True)

        self.push_screen(QuitDialog(), answered)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Entries of the palette: the actions of the active screen, then those of all screens."""
        scope = screen.SCOPE if isinstance(screen, IdaScreen) else None
        for action in (
            *(actions.actions_of(scope) if scope else ()),
            *actions.actions_of("everywhere"),
        ):
            if action.id == "command_palette":
                continue
            target = self if action.scope == "everywhere" else screen

            async def do(name: str = action.id, target: DOMNode = target) -> None:
                await self.run_action(name, target)

            yield SystemCommand(action.label, action.help, do)

    # -- closing ------------------------------------------------------------------------------

    def _stop_and_quit(self) -> None:
        """Stop a live run, wait for its checkpoint, and close the app."""
        self._quitting = True
        if self.run_view is None or not self.run_view.is_live:
            self.exit(return_code=self._quit_exit_code())
            return
        self.request_stop()
        self.notify("Stopping and saving a checkpoint… Press q to quit immediately.", timeout=60)
        self.set_timer(QUIT_TIMEOUT_S, lambda: self.exit(return_code=self._quit_exit_code()))

    def _quit_exit_code(self) -> int:
        return int(ExitCode.INTERRUPTED) if self._signaled else int(ExitCode.DONE)

    def _install_signal_handlers(self) -> None:
        """On SIGTERM, SIGHUP, and SIGINT, stop the run and restore the terminal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._signaled:
            self.exit(return_code=int(ExitCode.INTERRUPTED))
            return
        self._signaled = True
        self._stop_and_quit()

    def _handle_exception(self, error: Exception) -> None:
        """Write the traceback to the crash log instead of the terminal."""
        if self._crash_log is None:
            super()._handle_exception(error)  # tests need the exception itself
            return
        self._return_code = int(ExitCode.FAILED)
        if self.crash is None:
            self.crash = CrashReport.write(error, self._crash_log)
        self._close_messages_no_wait()
