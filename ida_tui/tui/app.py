"""Textual app: screens, key actions, the palette, and shutdown.

Its controllers do the work: `run_controller` for the displayed run and `chat_controller` for the chat.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.dom import DOMNode
from textual.screen import Screen

from ida_tui.errors import ExitCode, IdaError
from ida_tui.tui import actions, terminal
from ida_tui.tui.chat_controller import ChatController
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.dialogs import ConsentDialog, ErrorDialog, QuitChoice, QuitDialog
from ida_tui.tui.screens.launch.screen import LaunchScreen
from ida_tui.util.text import multiple_lines

if TYPE_CHECKING:
    from ida_tui.config.trust.consent import ConsentRequired
    from ida_tui.tui.run_controller import RunController
    from ida_tui.tui.run_view.watched import EventTypes, RunView

STYLES = Path(__file__).parent / "styles"
REFRESH_SECONDS = 0.25
"""Seconds between two refreshes of the screen."""
PREPARE_AFTER_S = 0.5
"""Seconds after the start when the first run is prepared."""
CHECK_TICKS = 8
"""Ticks between two checks of the terminal and of a finished run: two seconds."""
SWITCH_INTERVAL_S = 0.0005
"""Interpreter switch interval in seconds. With Python's default of 5 ms, a key would wait that long, several
times over, for a thread that imports a module or reads a log."""

# The module of each screen except the launch screen is imported when the screen is first shown.


def _run_screen() -> Screen[Any]:
    from ida_tui.tui.screens.run.screen import RunScreen

    return RunScreen()


def _completions_screen() -> Screen[Any]:
    from ida_tui.tui.screens.completions.screen import CompletionsScreen

    return CompletionsScreen()


def _runs_screen() -> Screen[Any]:
    from ida_tui.tui.screens.runs import RunsScreen

    return RunsScreen()


def _compare_screen() -> Screen[Any]:
    from ida_tui.tui.screens.compare import CompareScreen

    return CompareScreen()


def _sweep_screen() -> Screen[Any]:
    from ida_tui.tui.screens.sweep import SweepScreen

    return SweepScreen()


def _chat_screen() -> Screen[Any]:
    from ida_tui.tui.screens.chat.screen import ChatScreen

    return ChatScreen()


def _collect_garbage() -> None:
    """Turn the garbage collector on, for objects that are created from now on."""
    gc.freeze()
    gc.enable()


def _own_memory() -> int:
    from ida_tui.system.memory import own_footprint

    return own_footprint().current


class IdaApp(App[None]):
    """`ida-tui` on a terminal.

    Args:
        argv: the command line as typed; recorded in the manifest of every run started here.
        output_dir: directory of past runs.
        clock: returns the current time in UTC.
        own_memory: returns the memory of this process in bytes.
        crash_log: file for the traceback of a crash.
        open_directory: directory of a run or a sweep to open at the start.
        chat_directory: directory of a run to chat with at the start.
    """

    TITLE = "ida-tui"
    CSS_PATH: ClassVar[list[str | PurePath]] = [
        STYLES / f"{name}.tcss"
        for name in ("app", "launch", "run", "completions", "runs", "compare", "sweep", "chat")
    ]
    BINDINGS: ClassVar[list[BindingType]] = actions.bindings_for("everywhere")
    DEFAULT_MODE = "launch"
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "launch": LaunchScreen,
        "run": _run_screen,
        "completions": _completions_screen,
        "runs": _runs_screen,
        "compare": _compare_screen,
        "sweep": _sweep_screen,
        "chat": _chat_screen,
    }

    def __init__(
        self,
        *,
        argv: Sequence[str] = ("ida-tui",),
        output_dir: Path = Path("outputs"),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        own_memory: Callable[[], int] = _own_memory,
        crash_log: Path | None = None,
        open_directory: Path | None = None,
        chat_directory: Path | None = None,
    ) -> None:
        super().__init__()
        self.argv = tuple(argv)
        self.output_dir = output_dir
        self.clock = clock
        self.own_memory = own_memory
        self.chat_controller = ChatController(self)
        self.run_view: RunView | None = None
        """The displayed run."""
        self.frozen = False
        """Whether the display is frozen."""
        self.crash: terminal.CrashReport | None = None
        self.compared_runs: tuple[Path, ...] = ()
        """Directories of the runs on the compare screen."""
        self.sweep_directory: Path | None = None
        """Directory of the sweep on the sweep screen; None shows the latest."""
        self._crash_log = crash_log
        self._open_directory = open_directory
        self._chat_directory = chat_directory
        self._signaled = False
        self._ticks = 0

    @cached_property
    def run_controller(self) -> RunController:
        """Controls the displayed run; imported after the first paint, with the types of all events."""
        from ida_tui.tui.run_controller import RunController

        return RunController(self)

    async def on_mount(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.call_after_refresh(_collect_garbage)
        self.set_interval(REFRESH_SECONDS, self._timed_tick, name="refresh")
        if self._open_directory is not None:
            await self._open_at_start(self._open_directory)
        if self._chat_directory is not None:
            await self.chat_controller.open(self._chat_directory)
        if not self.is_headless:
            self._install_signal_handlers()
        if self._open_directory is None and self._chat_directory is None:
            self.set_timer(PREPARE_AFTER_S, self.run_controller.prepare)

    async def _open_at_start(self, path: Path) -> None:
        """Open a run or a sweep at the start of the app."""
        from ida_tui.sweep import directory

        if not directory.is_sweep(path):
            self.run_controller.open(path)
            return
        self.sweep_directory = path
        await self.switch_mode("sweep")

    def _timed_tick(self) -> None:
        self._ticks += 1
        if self._ticks % CHECK_TICKS == 0:
            if not self.is_headless and not self._signaled and terminal.is_closed():
                self._on_signal()  # like SIGHUP, which reaches only processes the terminal controls
            self.run_controller.check_if_resumed()
        self.run_controller.tick(skip_low_priority=self._ticks % 2 == 1)

    # -- display ------------------------------------------------------------------------------

    def refresh_screen(self, changed: EventTypes | None = None) -> None:
        """Refresh the active screen.

        Args:
            changed: types of the events since the last refresh; None if anything may have changed.
        """
        for screen in reversed(self.screen_stack):
            if isinstance(screen, IdaScreen):
                screen.refresh_run(changed)
                return

    def notify(self, message: str, **options: Any) -> None:
        """Show a toast without markup: text of a model or a file name may contain brackets."""
        super().notify(multiple_lines(message), **(options | {"markup": False}))

    def show_error(self, error: IdaError, retry: Callable[[], object] | None = None) -> None:
        """Show an error panel: what is wrong, where, and how to fix it.

        Args:
            error: the error.
            retry: repeats what failed. It is called if only an agreement was missing and the person agrees.
        """
        from ida_tui.config.trust.consent import ConsentRequired

        if retry is not None and isinstance(error, ConsentRequired):
            self.ask_for_consent(error, retry)
        else:
            self.push_screen(ErrorDialog(error))

    def ask_for_consent(self, required: ConsentRequired, retry: Callable[[], object]) -> None:
        """Ask for the missing agreements; after a yes, remember them and call `retry`."""

        def on_answer(agreed: bool | None) -> None:
            if not agreed:
                self.notify("You did not agree. Nothing was sent, run, or written.")
                return
            from ida_tui.config.trust.consent import remember_answer

            try:
                remember_answer(required)
            except IdaError as error:
                self.show_error(error)
            else:
                retry()

        self.push_screen(ConsentDialog(required), on_answer)

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
        if self.run_controller.quit_choice is QuitChoice.STOP:
            self.quit_now()
            return
        if self.run_view is None or not self.run_view.is_live:
            self.exit()
            return
        if isinstance(self.screen, QuitDialog):
            return

        def on_answer(choice: QuitChoice | None) -> None:
            if choice is QuitChoice.STOP:
                self.run_controller.stop_and_quit()
            elif choice is QuitChoice.DETACH:
                self.run_controller.hand_over(quit_app=True)

        self.push_screen(QuitDialog(), on_answer)

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

            async def run(name: str = action.id, target: DOMNode = target) -> None:
                await self.run_action(name, target)

            yield SystemCommand(action.label, action.help, run)

    # -- closing ------------------------------------------------------------------------------

    def quit_now(self) -> None:
        """Close the app without waiting for a run; the exit code tells whether a signal closed it."""
        code = ExitCode.INTERRUPTED if self._signaled else ExitCode.DONE
        self.exit(return_code=int(code))

    def _install_signal_handlers(self) -> None:
        """On SIGTERM, SIGHUP, and SIGINT, stop the run and restore the terminal."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._signaled:
            self.quit_now()
            return
        self._signaled = True
        self.run_controller.stop_and_quit()

    def _handle_exception(self, error: Exception) -> None:
        """Write the traceback to the crash log instead of the terminal."""
        if self._crash_log is None:
            super()._handle_exception(error)  # tests need the exception itself
            return
        self._return_code = int(ExitCode.FAILED)
        if self.crash is None:
            self.crash = terminal.CrashReport.write(error, self._crash_log)
        self._close_messages_no_wait()
