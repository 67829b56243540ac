"""The app itself: which screen is in front, which run is watched, and how it all ends.

Four times a second the records that have come are folded into the run's state, and the screen in front is
told. Nothing else crosses from the trainer's thread.
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

from ida_tui.engine.run.decision import GoOn
from ida_tui.errors import ExitCode, IdaError
from ida_tui.events.types import (
    EventError,
    MemorySampled,
    RunEnded,
    RunPaused,
    TextGenerated,
    TokensGenerated,
)
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui import actions, modes, terminal
from ida_tui.tui.crash import Crash
from ida_tui.tui.run_view.sources import AttachedSource, LiveSource, ReplaySource
from ida_tui.tui.run_view.watched import Changed, Watched
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.dialogs import Answer, AskHowToLeave, ErrorPanel
from ida_tui.util.text import printable_text

if TYPE_CHECKING:
    from ida_tui.config.schema import Config
    from ida_tui.engine.inference.chat import Chat
    from ida_tui.engine.run.background import Detached
    from ida_tui.runs.control import Asked
    from ida_tui.tui.screens.paused import Stop

STYLES = Path(__file__).parent / "styles"
REFRESH_S = 0.25
"""How often the screen is brought up to date."""
SMALL_NEWS: Changed = frozenset({TokensGenerated, TextGenerated, MemorySampled})
"""Drawn on every second tick only."""
SWITCH_S = 0.0005
"""How long drawing may keep the interpreter while the trainer wants it. Python's own 5 ms halts a trainer of
many small operations for as long as the screen is drawn: each of its operations waits again."""
LONG_RUN = 64e6
"""Bytes of events from which opening a run takes more than a moment, and is announced."""
GOES_ON_EVERY = 8
"""Ticks between two looks whether a run that had ended goes on in another process: two seconds."""
LOOK_EVERY = 8
"""Ticks between two looks whether the terminal is still there: two seconds."""
CLOSE_CHAT_S = 2.0
"""How long the end of a chat is waited for: a token is soon written, a large model not soon loaded."""
LEAVE_AFTER_S = 20.0
"""How long leaving waits for a stopped run to save its checkpoint before it leaves all the same."""


class IdaApp(App[None]):
    """`ida-tui` on a terminal.

    Args:
        argv: the command line as typed, for the manifests of the runs that are started.
        output_dir: where past runs are looked for.
        clock: the present, UTC.
        crash_log: where the details of a defect are written.
        opened: a run's or a sweep's directory that is on the screen from the start.
        chatting: a run's directory, whose model is talked to from the start.
    """

    TITLE = "ida-tui"
    CSS_PATH: ClassVar[list[str | PurePath]] = [
        STYLES / f"{name}.tcss"
        for name in ("app", "launch", "run", "completions", "runs", "compare", "sweep", "chat")
    ]
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings("everywhere")
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {**modes.MODES}

    def __init__(
        self,
        *,
        argv: Sequence[str] = ("ida-tui",),
        output_dir: Path = Path("outputs"),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        crash_log: Path | None = None,
        opened: Path | None = None,
        chatting: Path | None = None,
    ) -> None:
        super().__init__()
        self.argv = tuple(argv)
        self.output_dir = output_dir
        self.clock = clock
        self.watched: Watched | None = None
        self.held = False
        """Whether the display is held still."""
        self.crash: Crash | None = None
        self.compared: tuple[Path, ...] = ()
        """The runs that the compare screen shows."""
        self.swept: Path | None = None
        """The folder of the sweep that the sweep screen shows; None is the newest."""
        self._crash_log = crash_log
        self._opened = opened
        self._chatting = chatting
        self.chat: Chat | None = None
        """The models of a run that are in memory to be talked to."""
        self.detached: Detached | None = None
        """The process that a run of this app was handed over to."""
        self._leaving = False
        self._leaving_it = False
        """Whether the app ends when the run that is handed over goes on."""
        self._signalled = False
        self._end_told = False
        self._ticks = 0
        self._unshown: Changed = frozenset()
        """Types of the events that the screen in front has not been told of."""

    async def on_mount(self) -> None:
        sys.setswitchinterval(SWITCH_S)
        await self.switch_mode("launch")
        self.set_interval(REFRESH_S, self._timed_tick, name="refresh")
        if self._opened is not None:
            await self._open(self._opened)
        if self._chatting is not None:
            await self.open_chat(self._chatting)
        if not self.is_headless:
            self._listen_to_signals()

    async def _open(self, path: Path) -> None:
        """Begin with a run, or with a sweep."""
        from ida_tui.sweep import directory as folder

        if not folder.is_sweep(path):
            self.open_run(path)
            return
        self.swept = path
        await self.switch_mode("sweep")

    # -- the run ------------------------------------------------------------------------------

    def start_run(self, config: Config, key: str | None) -> None:
        """Train a profile in this process, and watch it.

        Args:
            config: the resolved profile.
            key: the judge's API key, where it needs one.
        """
        if self.watched is not None and self.watched.live:
            self.notify("A run is live. Stop it first: 2, then s.", severity="warning")
            return
        if not self.close_chat():
            self.notify("The chat is still loading its model. Try again in a moment.")
            return
        from ida_tui.engine.session import Session

        session = Session(config, key=key, argv=self.argv, asks=True)
        session.start()
        self.put_up(Watched(LiveSource(session), begun=self.clock()))

    @work(exclusive=True, group="open")
    async def open_run(self, path: Path) -> None:
        """Replay the run in this folder, or follow it where another process trains it now."""
        if self.watched is not None and self.watched.live:
            self.notify("A run is live here. Stop it first: 2, then s.", severity="warning")
            return
        from ida_tui.runs import owner
        from ida_tui.runs.log.replay import Replay

        directory, left = RunDirectory(path), threading.Event()
        try:
            self._note_a_long_run(directory)
            replay = await asyncio.to_thread(Replay.open, directory.events, left.is_set)
        except asyncio.CancelledError:
            # Another run was asked for, or the app is being left: nobody waits for this one.
            left.set()
            raise
        except (OSError, EventError) as error:
            self.show_error(
                IdaError(f"this run cannot be read: {error}", f"look at {directory.events}")
            )
            return
        elsewhere = replay.end.ended is None and owner.alive(directory)
        source = AttachedSource(directory, replay.offset) if elsewhere else ReplaySource(directory)
        self.put_up(Watched(source, state=replay.end, replay=replay))

    # -- the chat -----------------------------------------------------------------------------

    async def open_chat(self, path: Path) -> None:
        """Talk to the model of the run in this folder; not while a run of this process trains."""
        if self.watched is not None and self.watched.live:
            self.notify("A run is trained here, and needs the machine: chat when it is over.",
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
        """End the chat, if there is one; false where its thread does not end in time."""
        if self.chat is None:
            return True
        self.chat.close()
        if not self.chat.join(CLOSE_CHAT_S):
            return False
        self.chat = None
        return True

    def _note_a_long_run(self, directory: RunDirectory) -> None:
        size = directory.events.stat().st_size
        if size > LONG_RUN:
            self.notify(f"Opening a long run ({size / 1e6:,.0f} MB) …")

    def put_up(self, watched: Watched, *, in_front: bool = True) -> None:
        """Put a run on the screens, and the run screen in front of the others."""
        self.watched = watched
        self.held = False
        # The end of a run that was opened from disk is no news.
        self._end_told = watched.source.kind == "replay"
        if self.current_mode == "run" or not in_front:
            self.refresh_screen()
        else:
            self.switch_mode("run")

    def request_stop(self) -> None:
        """Ask the run to stop; it saves a checkpoint first."""
        self.ask_run("stop")

    def ask_run(self, what: Asked) -> None:
        """Ask the run on the screens, here or in another process, to pause, go on or stop."""
        watched = self.watched
        if watched is None:
            return
        if isinstance(watched.source, LiveSource):
            session = watched.source.session
            {
                "stop": session.request_stop,
                "pause": session.request_pause,
                "go_on": session.request_go_on,
            }[what]()
        elif watched.directory is not None:
            from ida_tui.runs import control

            try:
                control.ask(RunDirectory(watched.directory), what)
            except OSError as error:
                self.show_error(IdaError(f"the run cannot be asked: {error.strerror or error}"))
                return
        if what == "stop":
            watched.stop_asked = True
            watched.handing_over = False
        watched.pause_asked = what == "pause"
        self.refresh_screen()

    def hand_over(self, *, leave: bool = False) -> None:
        """Let the live run end after the step under way, and a process of its own train on.

        Args:
            leave: whether the app ends then; otherwise it follows that process.
        """
        watched = self.watched
        if watched is None or not isinstance(watched.source, LiveSource) or not watched.live:
            return
        if watched.state.pause is not None and watched.state.pause.by == "judge":
            self.notify("It waits for its judge: answer the question on the screen first.")
            return
        if watched.stop_asked:
            self.notify("It is stopping: a checkpoint is being saved.")
            return
        self._leaving_it = leave
        watched.handing_over = True
        watched.source.session.request_hand_over()
        self.notify(
            "It goes on in a process of its own after the step under way. s stops it instead."
        )
        self.refresh_screen()

    def _after_hand_over(self, watched: Watched) -> None:
        """The run has ended here: as it was asked to, or by itself meanwhile."""
        ended = watched.state.ended
        if ended is None or ended.status != "interrupted" or watched.directory is None:
            self._leaving = self._leaving or self._leaving_it
            self._end_told = True
            self._tell_end(watched)
            return
        self._end_told = True
        self._go_on_detached(RunDirectory(watched.directory), leave=self._leaving_it)

    @work(exclusive=True, group="open")
    async def _go_on_detached(self, directory: RunDirectory, *, leave: bool) -> None:
        from ida_tui.engine.run.background import handed_over

        def begin() -> Detached:
            # Set by the thread itself: the app may be left while the process begins.
            self.detached = handed_over(directory)
            return self.detached

        self.notify("A process of its own is starting …", timeout=10)
        try:
            detached = await asyncio.to_thread(begin)
        except IdaError as error:
            self.show_error(error)
            return
        if leave:
            self.exit()
            return
        first, *rest = detached.lines()
        self.notify("\n".join([first, rest[0].strip()]), timeout=15)
        self.open_run(directory.path)

    @work(exclusive=True, group="open")
    async def _follow_again(self, directory: RunDirectory) -> None:
        """Follow a run that had ended and goes on; the screen in front stays there."""
        from ida_tui.runs.log.replay import Replay

        try:
            replay = await asyncio.to_thread(Replay.open, directory.events)
        except (OSError, EventError):
            return  # what was read before stays on the screen
        if replay.end.ended is None:
            source = AttachedSource(directory, replay.offset)
            self.put_up(Watched(source, state=replay.end, replay=replay), in_front=False)

    def _look_whether_it_goes_on(self) -> None:
        """Another process may have resumed the run that is on the screens."""
        watched = self.watched
        if watched is None or watched.going_on or watched.viewed is not None:
            return
        directory = watched.source.directory
        if directory is None or any(w.group == "open" and not w.is_finished for w in self.workers):
            return
        from ida_tui.runs import owner

        if owner.alive(RunDirectory(directory)):
            self._follow_again(RunDirectory(directory))

    def _timed_tick(self) -> None:
        self._ticks += 1
        looks = self._ticks % LOOK_EVERY == 0 and not self.is_headless and not self._signalled
        if looks and terminal.is_gone():
            self._on_signal()  # as with SIGHUP, which only reaches what the terminal controlled
        if self._ticks % GOES_ON_EVERY == 0:
            self._look_whether_it_goes_on()
        self.tick(calm=self._ticks % 2 == 1)

    def tick(self, *, calm: bool = False) -> None:
        """Take in what has come, and tell the screen in front.

        Args:
            calm: small news may wait for the next tick: what is drawn, the trainer waits for.
        """
        watched = self.watched
        if watched is None:
            return
        changed, more = watched.advance()
        if more:
            # After a flood: keys first, then the rest at once.
            self.call_later(self.tick)
        self._unshown |= changed
        small = calm and self._unshown <= SMALL_NEWS and watched.state.phase != "judge"
        if not self.held and not small and (self._unshown or watched.going_on):
            self.refresh_screen(self._unshown)
            self._unshown = frozenset()
        if RunPaused in changed:
            watched.pause_asked = False
            if watched.live:
                self._ask_how_to_go_on(watched)
        if watched.handing_over and not watched.going_on:
            # Its lock is free once the trainer's thread has ended, which is after its last event.
            if watched.source.finished:
                watched.handing_over = False
                self._after_hand_over(watched)
            return
        if not self._end_told and (watched.source.finished or RunEnded in changed):
            self._end_told = True
            self._tell_end(watched)

    def _ask_how_to_go_on(self, watched: Watched) -> None:
        """A paused run waits for an answer."""
        from ida_tui.tui.screens.paused import PausedPanel, key_in

        pause = watched.state.pause
        if (
            pause is None
            or pause.by != "judge"
            or not isinstance(watched.source, LiveSource)
            or self._leaving
        ):
            return
        session = watched.source.session

        def answered(answer: GoOn | Stop | None) -> None:
            if isinstance(answer, GoOn):
                session.go_on(answer)
            else:
                self.request_stop()

        self.push_screen(
            PausedPanel(pause, session.judge, session.budget, key_in(Path.cwd())), answered
        )

    def refresh_screen(self, changed: frozenset[type] | None = None) -> None:
        """Bring the screen in front up to date."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, IdaScreen):
                screen.refresh_run(changed)
                return

    def _tell_end(self, watched: Watched) -> None:
        self.refresh_screen()
        if self._leaving:
            self.exit(return_code=self._code_when_leaving())
            return
        if watched.refusal is not None:
            self.show_error(watched.refusal)
            return
        ended = watched.state.ended
        if ended is not None and ended.status not in ("done", "interrupted"):
            log = f"the log is {watched.directory}" if watched.directory else ""
            self.show_error(IdaError(ended.message, f"{ended.hint}\n{log}".strip()))

    def notify(self, message: str, **more: Any) -> None:
        """Say something in passing, literally: words of a model or a file name are no markup."""
        super().notify(printable_text(message), **(more | {"markup": False}))

    def show_error(self, error: IdaError) -> None:
        """A panel with what went wrong, where, and what to do."""
        self.push_screen(ErrorPanel(error))

    # -- actions ------------------------------------------------------------------------------

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Whether this may be done here; what may not is in no footer, and no key does it."""
        return True

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Textual asks before it carries out an action, or shows its key."""
        return self.allows(action, parameters) and super().check_action(action, parameters)

    async def action_go(self, mode: str) -> None:
        """Bring one of the screens to the front."""
        if self.current_mode != mode:
            await self.switch_mode(mode)

    def action_help(self) -> None:
        """Show every key."""
        from ida_tui.tui.screens.help import HelpScreen

        if isinstance(self.screen, IdaScreen):
            self.push_screen(HelpScreen(self.screen.SCOPE))

    def action_cursor_down(self) -> None:
        """Move down."""
        self._cursor("down")

    def action_cursor_up(self) -> None:
        """Move up."""
        self._cursor("up")

    def action_cursor_top(self) -> None:
        """Move to the top."""
        self._cursor("top")

    def action_cursor_bottom(self) -> None:
        """Move to the bottom."""
        self._cursor("bottom")

    def _cursor(self, direction: str) -> None:
        if isinstance(self.screen, IdaScreen):
            self.screen.cursor(direction)

    async def action_back(self) -> None:
        """Leave the innermost thing: a search, a pane, the screen."""
        screen = self.screen
        if isinstance(screen, IdaScreen) and not screen.leave() and self.current_mode != "launch":
            await self.switch_mode("launch")

    async def action_quit(self) -> None:
        """Leave the app; a live run is asked about first."""
        if self._leaving:
            self.exit(return_code=self._code_when_leaving())
            return
        if self.watched is None or not self.watched.live:
            self.exit()
            return
        if isinstance(self.screen, AskHowToLeave):
            return

        def answered(answer: Answer | None) -> None:
            if answer == "stop":
                self._leave()
            elif answer == "detach":
                self.hand_over(leave=True)

        self.push_screen(AskHowToLeave(), answered)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: the actions of the screen in front, then those of every screen."""
        scope = screen.SCOPE if isinstance(screen, IdaScreen) else None
        for action in (*(actions.of(scope) if scope else ()), *actions.of("everywhere")):
            if action.id == "command_palette":
                continue
            target = self if action.scope == "everywhere" else screen

            async def do(name: str = action.id, target: DOMNode = target) -> None:
                await self.run_action(name, target)

            yield SystemCommand(action.label, action.help, do)

    # -- the end ------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Stop a live run, wait for its checkpoint, leave."""
        self._leaving = True
        if self.watched is None or not self.watched.live:
            self.exit(return_code=self._code_when_leaving())
            return
        self.request_stop()
        self.notify("Stopping: saving a checkpoint … (q again leaves at once)", timeout=60)
        self.set_timer(LEAVE_AFTER_S, lambda: self.exit(return_code=self._code_when_leaving()))

    def _code_when_leaving(self) -> int:
        return int(ExitCode.INTERRUPTED) if self._signalled else int(ExitCode.DONE)

    def _listen_to_signals(self) -> None:
        """A request to end from outside stops the run and leaves the terminal as it was."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._signalled:
            self.exit(return_code=int(ExitCode.INTERRUPTED))
            return
        self._signalled = True
        self._leave()

    def _handle_exception(self, error: Exception) -> None:
        """Textual's last resort prints a traceback; ours keeps it in a file and says one sentence."""
        if self._crash_log is None:
            super()._handle_exception(error)  # tests want the exception itself
            return
        self._return_code = int(ExitCode.FAILED)
        if self.crash is None:
            self.crash = Crash.written(error, self._crash_log)
        self._close_messages_no_wait()
