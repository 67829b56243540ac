"""The table of actions: each has a working key, a palette entry and a line in the help."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from textual.pilot import Pilot

from ida_tui.tui.actions import (
    ACTIONS,
    SCOPE_TITLES,
    Action,
    Scope,
    actions_of,
    bindings_for,
    method_name,
)
from ida_tui.tui.app import IdaApp
from ida_tui.tui.screens.base import IdaScreen
from ida_tui.tui.screens.chat.screen import ChatScreen
from ida_tui.tui.screens.compare import CompareScreen
from ida_tui.tui.screens.completions.screen import CompletionsScreen
from ida_tui.tui.screens.help import help_text, key_labels
from ida_tui.tui.screens.launch.screen import LaunchScreen
from ida_tui.tui.screens.run.screen import RunScreen
from ida_tui.tui.screens.runs import RunsScreen
from ida_tui.tui.screens.sweep import SweepScreen
from tests.support.app_driver import drive

SCREENS: dict[Scope, type[IdaScreen]] = {
    "launch": LaunchScreen,
    "run": RunScreen,
    "completions": CompletionsScreen,
    "runs": RunsScreen,
    "compare": CompareScreen,
    "sweep": SweepScreen,
    "chat": ChatScreen,
}
each_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda a: f"{a.scope}-{a.id}")


def test_every_scope_except_everywhere_is_a_screen() -> None:
    assert set(SCOPE_TITLES) == {"everywhere", *SCREENS}


@each_action
def test_an_action_has_keys_a_label_and_a_help_text(action: Action) -> None:
    assert action.keys
    assert action.label
    assert action.help.endswith(".")


@each_action
def test_an_action_has_a_method_with_a_docstring(action: Action) -> None:
    owner = IdaApp if action.scope == "everywhere" else SCREENS[action.scope]
    method = getattr(owner, method_name(action), None)

    assert callable(method)
    assert method.__doc__


@pytest.mark.parametrize("scope", SCREENS)
def test_no_key_has_two_actions_on_one_screen(scope: Scope) -> None:
    keys = Counter(key for a in (*actions_of("everywhere"), *actions_of(scope)) for key in a.keys)

    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize("scope", SCREENS)
def test_a_screen_binds_the_actions_of_its_scope_and_no_others(scope: Scope) -> None:
    assert scope == SCREENS[scope].SCOPE
    assert SCREENS[scope].__dict__["BINDINGS"] == bindings_for(scope)


@each_action
def test_an_action_has_a_line_in_the_help(action: Action) -> None:
    expected = f"{action.label}: {action.help}"

    line = next(line for line in help_text().plain.splitlines() if line.endswith(expected))
    assert line.removesuffix(expected).split() == key_labels(action).split()


@pytest.mark.parametrize("scope", SCREENS)
def test_the_palette_offers_every_action_of_the_screen(scope: Scope) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go(scope)
        await pilot.pause()
        offered = {(c.title, c.help) for c in app.get_system_commands(app.screen)}
        expected = {
            (a.label, a.help)
            for a in (*actions_of("everywhere"), *actions_of(scope))
            if a.id != "command_palette"  # the palette itself
        }
        assert offered == expected

    drive(scenario)


@pytest.mark.parametrize("scope", ["everywhere", *SCREENS])
def test_pressing_the_key_of_an_action_runs_it(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    owner = IdaApp if scope == "everywhere" else SCREENS[scope]
    for action in actions_of(scope):

        def spy(self: object, *arguments: str, name: str = method_name(action)) -> None:
            called.append(f"{name}{arguments}" if arguments else name)

        monkeypatch.setattr(owner, method_name(action), spy)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        if scope != "everywhere":
            await app.switch_mode(scope)
            await pilot.pause()
        for action in actions_of(scope):
            name, _, argument = action.id.removesuffix(")").partition("(")
            expected = f"action_{name}" + (f"({argument},)" if argument else "")
            for key in action.keys:
                app.screen.set_focus(None)
                called.clear()
                await pilot.press(key)
                await pilot.pause()
                assert called == [expected], f"{key} on {scope}"

    drive(scenario)


def test_choosing_an_action_in_the_palette_runs_it() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        commands: dict[str, Any] = {
            c.title: c.callback for c in app.get_system_commands(app.screen)
        }
        await commands["Runs"]()
        await pilot.pause()
        assert app.current_mode == "runs"

    drive(scenario)
