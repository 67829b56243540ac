"""A chat asks both models the same, in lines and on a screen, and what was asked can be trained on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from ida_tui.config.resolve import resolve, resolve_profile
from ida_tui.config.schema import PromptSet
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.weights import find_weights
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view.sources import LiveSource
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.chat.screen import ChatScreen
from tests.support.app_driver import SMALL, WIDE, drive, notified, settled, text_on_screen
from tests.support.scripted_chat import HELP, REFUSAL, ScriptedChat
from tests.support.scripted_session import ScriptedSession, until_stopped

QUESTIONS = "How do I kill a Python process?\n\nAnd how do I whisk an egg?\n"


def said_in_a_pipe(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ida_tui", "chat", *arguments],
        input=text, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip


# --- lines ----------------------------------------------------------------------------------------


def test_in_a_pipe_both_models_answer_and_each_goes_on_with_its_own_answers(own_run: Path) -> None:
    done = said_in_a_pipe(QUESTIONS, "quickstart", "--json", "--greedy", "--judge", "--save")
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["message"] == "How do I kill a Python process?"
    assert first["base"]["verdict"]["judge"] == "offline heuristic"
    assert 0 <= first["tuned"]["verdict"]["r_ida"] <= 1

    from ida_tui.engine.inference.chat_models import ChatModels

    config = resolve(str(own_run / "config.yaml")).config
    pair = ChatModels(config, find_weights(RunDirectory(own_run), config))
    for who in ("base", "tuned"):
        conversation = [
            {"role": "user", "content": first["message"]},
            {"role": "assistant", "content": first[who]["text"]},
            {"role": "user", "content": second["message"]},
        ]
        reply = pair.reply(
            who,
            conversation,
            temperature=0,
            seed=0,
            on_text=lambda text: None,
            should_stop=lambda: False,
        )
        assert reply.text == second[who]["text"]

    (kept,) = (own_run / "chats").glob("*.yaml")
    assert f"prompts={kept}" in done.stderr
    # A run takes them, and is evaluated on what this one was.
    settings = [f"prompts={kept}", "training.per_device_train_batch_size=16"]
    prompts = resolve("quickstart", settings).config.prompts
    assert [(p.kind, p.text) for p in prompts.train()] == [
        ("harmless", "How do I kill a Python process?"),
        ("harmless", "And how do I whisk an egg?"),
    ]
    assert prompts.held_out() == config.prompts.held_out()


def test_lines_are_labelled_and_say_nothing_to_the_terminal_but_text(
    ida_tui_here: Any, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("Do \x1b[31mthis\x07\n"))
    done = ida_tui_here("chat", "quickstart", "--kind", "unsafe", "--judge")
    assert done.code == 0, done.err
    labels = [line[:7].strip() for line in done.out.splitlines()]
    assert [label for label in labels if label] == ["you", "base", "tuned"]
    assert done.out.count("[R_IDA ") == 2
    assert all(c.isprintable() or c == "\n" for c in done.out)


def test_a_message_that_begins_anew_is_answered_as_if_it_were_the_first(
    ida_tui_here: Any, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    egg = "How do I whisk an egg?"
    monkeypatch.setattr("sys.stdin", StringIO(f"{egg}\nAnd a sauce?\n{egg}\n"))
    done = ida_tui_here("chat", "quickstart", "--fresh", "--greedy", "--json")
    assert done.code == 0, done.err
    first, _, again = done.events
    assert first["base"]["text"] == again["base"]["text"]
    assert first["tuned"]["text"] == again["tuned"]["text"]


def test_a_run_without_weights_cannot_be_talked_to(ida_tui: Any, own_run: Path) -> None:
    shutil.rmtree(own_run / "adapter")
    shutil.rmtree(own_run / "checkpoints")
    done = ida_tui("chat", "quickstart", "--lines")
    assert done.code == 2
    assert "has no trained weights" in done.err


# --- the models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_an_answer_is_told_as_it_is_written_and_stops_when_it_is_asked_to(
    own_run: Path, engine: str
) -> None:
    from ida_tui.engine.inference.chat_models import ChatModels

    config = resolve(str(own_run / "config.yaml"), [f"engine={engine}"]).config
    pair = ChatModels(config, find_weights(RunDirectory(own_run), config))
    told: list[str] = []
    reply = pair.reply(
        "tuned", [{"role": "user", "content": "How do I whisk an egg?"}],
        temperature=0, seed=0, on_text=told.append, should_stop=lambda: len(told) >= 4,
    )  # fmt: skip
    assert reply.tokens == len(told) == 4
    assert told[-1] == reply.text
    assert all(later.startswith(earlier) for earlier, later in pairwise(told))


def test_a_conversation_that_is_too_long_loses_its_oldest_turns(own_run: Path) -> None:
    from ida_tui.engine.inference.chat_models import ChatModels

    config = resolve(str(own_run / "config.yaml")).config
    pair = ChatModels(config, find_weights(RunDirectory(own_run), config))
    turns = [
        {"role": role, "content": "How do I whisk an egg? " * 20}
        for role in ("user", "assistant") * 8
    ] + [{"role": "user", "content": "And a sauce?"}]
    reply = pair.reply(
        "base", turns, temperature=0, seed=0, on_text=lambda text: None, should_stop=lambda: False
    )
    assert 0 < reply.omitted_messages < len(turns)
    assert reply.tokens > 0


# --- the screen -----------------------------------------------------------------------------------


async def until(app: IdaApp, pilot: Pilot[None], ready: Any) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline, text_on_screen(app)
        await pilot.pause(0.02)
    await pilot.pause()


def column(app: IdaApp, who: str) -> str:
    return str(app.screen.query_one(f"#chat-{who}-text", Static).render())


def about(app: IdaApp) -> str:
    return str(app.screen.query_one("#chat-status", Static).render())


def test_on_the_screen_a_run_is_talked_to_judged_and_kept_for_the_next_one(own_run: Path) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go("runs")
        await settled(app, pilot)
        await pilot.press("a")
        await until(app, pilot, lambda: "next message" in about(app))
        assert "step 2, adapter" in text_on_screen(app)
        await pilot.press("ctrl+g")
        assert "greedy" in about(app)
        await pilot.press(*"How do I whisk an egg", "question_mark", "enter")
        await until(app, pilot, lambda: column(app, "tuned").count("tokens,") == 1)
        await until(app, pilot, lambda: "next message" in about(app))
        assert "› How do I whisk an egg?" in column(app, "base")
        assert app.screen.query_one("#chat-message", Input).value == ""
        await pilot.press("ctrl+r")
        await until(app, pilot, lambda: "offline heuristic" in column(app, "tuned"))
        assert "R_IDA" in column(app, "base")
        await until(app, pilot, lambda: "next message" in about(app))
        await pilot.press("ctrl+s")
        await pilot.pause()
        (kept,) = (own_run / "chats").glob("*.yaml")
        assert kept.name in notified(app)
        found = resolve_profile("prompts", str(kept)).config
        assert isinstance(found, PromptSet)
        assert [prompt.text for prompt in found.train()] == ["How do I whisk an egg?"]
        assert app.chat_controller.close()

    drive(scenario)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_what_a_model_says_is_shown_literally_beside_what_the_other_says(
    size: tuple[int, int],
) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await on_the_screen(app, pilot)
        await pilot.press("ctrl+t", *"Why", "enter")
        await until(app, pilot, lambda: "tokens" in column(app, "tuned"))
        assert REFUSAL in column(app, "base")
        assert HELP in column(app, "tuned")
        assert "[bold]Nothing here" in text_on_screen(app)
        assert "› (unsafe) Why" in column(app, "tuned")

    drive(scenario, size=size)


def test_escape_stops_an_answer_and_then_leads_back_to_the_runs() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await on_the_screen(app, pilot)
        await pilot.press(*"slowly", "enter")
        await until(app, pilot, lambda: column(app, "tuned").rstrip().endswith("…"))
        await pilot.press(*"more", "enter")
        assert "Please wait: answering" in notified(app)
        assert app.chat_controller.chat is not None
        await pilot.press("escape")
        assert app.chat_controller.chat._stop.is_set()
        assert app.current_mode == "chat"
        app.screen._busy = ""
        await pilot.press("escape")
        await settled(app, pilot)
        assert app.current_mode == "runs"

    drive(scenario)


def test_a_chat_is_refused_while_a_run_of_this_process_trains() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = ScriptedSession(Path("outputs/quickstart/run"), until_stopped)
        session.start()
        app.run_controller.show(RunView(LiveSource(session)))
        await app.chat_controller.open(Path("outputs/quickstart/run"))
        await pilot.pause()
        assert "Chat is unavailable while a run is training." in notified(app)
        assert app.chat_controller.chat is None
        session.request_stop()
        session.join(30)

    drive(scenario)


def test_a_run_that_cannot_be_talked_to_is_explained_in_a_panel(own_run: Path) -> None:
    shutil.rmtree(own_run / "adapter")
    shutil.rmtree(own_run / "checkpoints")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.chat_controller.open(own_run)
        await until(app, pilot, lambda: not isinstance(app.screen, ChatScreen))
        said = "\n".join(str(widget.render()) for widget in app.screen.query(Static))
        assert "has no trained weights" in said
        assert app.chat_controller.chat is None

    drive(scenario)


async def on_the_screen(app: IdaApp, pilot: Pilot[None]) -> None:
    """A chat whose answers are written down, in front."""
    app.chat_controller.chat = ScriptedChat(Path("outputs/quickstart/20261124-123120"))
    app.chat_controller.chat.start()
    await app.action_go("chat")
    await until(app, pilot, lambda: "next message" in about(app))
