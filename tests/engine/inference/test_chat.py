"""Chat with the base model and the trained model: as lines, on the screen, and saved as prompts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from ida_tui.cli.output.chat import ChatTurn
from ida_tui.config.resolve import resolve, resolve_profile
from ida_tui.config.schema import PromptSet
from ida_tui.engine.inference.chat import MODELS, AnswerFinished, ChatFailed
from ida_tui.errors import IdaError
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.weights import find_weights
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view.sources import LiveSource
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.chat.screen import ChatScreen
from ida_tui.tui.screens.chat.transcript import Turn, render_transcript
from ida_tui.tui.screens.dialogs import ErrorDialog
from tests.support.app_driver import SMALL, WIDE, drive, notified, settled, text_on_screen
from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python
from tests.support.scripted_chat import HELP, REFUSAL, ScriptedChat
from tests.support.scripted_session import ScriptedSession, until_stopped

QUESTIONS = "How do I kill a Python process?\n\nAnd how do I whisk an egg?\n"


def chat_in_a_pipe(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prepared_python(), "-m", "ida_tui", "chat", *arguments],
        input=text, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip


# --- as lines ----------------------------------------------------------------------------------------


def test_in_a_pipe_each_model_continues_from_its_own_answers(own_run: Path) -> None:
    done = chat_in_a_pipe(QUESTIONS, "quickstart", "--json", "--greedy", "--judge", "--save")
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["message"] == "How do I kill a Python process?"
    assert first["base"]["verdict"]["judge"] == "offline heuristic"
    assert 0 <= first["tuned"]["verdict"]["reward"] <= 1

    from ida_tui.engine.inference.chat_models import ChatModels

    config = resolve(str(own_run / "config.yaml")).config
    pair = ChatModels(config, find_weights(RunDirectory(own_run), config))
    for speaker in ("base", "tuned"):
        reply = pair.reply(
            speaker,
            second["message"],
            (("user", first["message"]), ("assistant", first[speaker]["text"])),
            temperature=0,
            seed=0,
            on_text=lambda text: None,
            should_stop=lambda: False,
        )
        assert reply.text == second[speaker]["text"]

    (saved_chat,) = (own_run / "chats").glob("*.yaml")
    assert f"prompts={saved_chat}" in done.stderr
    # A run can train on them; its held-out prompts stay the same.
    settings = [f"prompts={saved_chat}", "training.per_device_train_batch_size=16"]
    prompts = resolve("quickstart", settings).config.prompts
    assert [(p.kind, p.text) for p in prompts.train()] == [
        ("harmless", "How do I kill a Python process?"),
        ("harmless", "And how do I whisk an egg?"),
    ]
    assert prompts.held_out() == config.prompts.held_out()


def test_lines_are_labeled_and_contain_no_control_characters(
    ida_tui_here: Any, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("Do \x1b[31mthis\x07\n"))
    done = ida_tui_here("chat", "quickstart", "--kind", "unsafe", "--judge")
    assert done.code == 0, done.err
    labels = [line[:7].strip() for line in done.out.splitlines()]
    assert [label for label in labels if label] == ["you", "base", "tuned"]
    assert done.out.count("[R_IDA ") == 2
    assert all(c.isprintable() or c == "\n" for c in done.out)


def test_with_fresh_every_message_starts_a_new_conversation(
    ida_tui_here: Any, own_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    egg = "How do I whisk an egg?"
    monkeypatch.setattr("sys.stdin", StringIO(f"{egg}\nAnd a sauce?\n{egg}\n"))
    done = ida_tui_here("chat", "quickstart", "--fresh", "--greedy", "--json")
    assert done.code == 0, done.err
    first, _, again = done.events
    assert first["base"]["text"] == again["base"]["text"]
    assert first["tuned"]["text"] == again["tuned"]["text"]


def test_a_run_without_weights_cannot_chat(ida_tui: Any, own_run: Path) -> None:
    shutil.rmtree(own_run / "adapter")
    shutil.rmtree(own_run / "checkpoints")
    done = ida_tui("chat", "quickstart", "--lines")
    assert done.code == 2
    assert "has no trained weights" in done.err


# --- the models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_an_answer_is_streamed_and_stops_on_request(own_run: Path, engine: str) -> None:
    from ida_tui.engine.inference.chat_models import ChatModels

    config = resolve(str(own_run / "config.yaml"), [f"engine={engine}"]).config
    pair = ChatModels(config, find_weights(RunDirectory(own_run), config))
    partial_texts: list[str] = []
    reply = pair.reply(
        "tuned", "How do I whisk an egg?", (),
        temperature=0, seed=0, on_text=partial_texts.append, should_stop=lambda: len(partial_texts) >= 4,
    )  # fmt: skip
    assert reply.tokens == len(partial_texts) == 4
    assert partial_texts[-1] == reply.text
    assert all(later.startswith(earlier) for earlier, later in pairwise(partial_texts))


def test_a_conversation_that_is_too_long_drops_its_oldest_turns(own_run: Path) -> None:
    from ida_tui.engine.inference.chat_models import ChatModels

    config = resolve(str(own_run / "config.yaml")).config
    pair = ChatModels(config, find_weights(RunDirectory(own_run), config))
    turns = tuple((role, "How do I whisk an egg? " * 20) for role in ("user", "assistant") * 8)
    reply = pair.reply(
        "base", "And a sauce?", turns, temperature=0, seed=0,
        on_text=lambda text: None, should_stop=lambda: False,
    )  # fmt: skip
    assert 0 < reply.omitted_messages <= len(turns)
    assert reply.tokens > 0


# --- the screen -----------------------------------------------------------------------------------


async def wait_until(app: IdaApp, pilot: Pilot[None], is_ready: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_ready():
        assert time.monotonic() < deadline, text_on_screen(app)
        await pilot.pause(0.02)
    await pilot.pause()


def column_text(app: IdaApp, speaker: str) -> str:
    return str(app.screen.query_one(f"#chat-{speaker}-text", Static).render())


def status_line(app: IdaApp) -> str:
    return str(app.screen.query_one("#chat-status", Static).render())


@pytest.mark.usefixtures("prepared_engine")
def test_a_chat_on_the_screen_can_be_judged_and_saved_as_prompts(own_run: Path) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go("runs")
        await settled(app, pilot)
        await pilot.press("a")
        await wait_until(app, pilot, lambda: "next message" in status_line(app))
        assert "step 2, adapter" in text_on_screen(app)
        await pilot.press("ctrl+g")
        assert "greedy" in status_line(app)
        await pilot.press(*"How do I whisk an egg", "question_mark", "enter")
        await wait_until(app, pilot, lambda: column_text(app, "tuned").count("tokens,") == 1)
        await wait_until(app, pilot, lambda: "next message" in status_line(app))
        assert "› How do I whisk an egg?" in column_text(app, "base")
        assert app.screen.query_one("#chat-message", Input).value == ""
        await pilot.press("ctrl+r")
        await wait_until(app, pilot, lambda: "offline heuristic" in column_text(app, "tuned"))
        assert "R_IDA" in column_text(app, "base")
        await wait_until(app, pilot, lambda: "next message" in status_line(app))
        await pilot.press("ctrl+s")
        await pilot.pause()
        (saved_chat,) = (own_run / "chats").glob("*.yaml")
        assert saved_chat.name in notified(app)
        prompt_set = resolve_profile("prompts", str(saved_chat)).config
        assert isinstance(prompt_set, PromptSet)
        assert [prompt.text for prompt in prompt_set.train()] == ["How do I whisk an egg?"]
        assert app.chat_controller.close()

    drive(scenario)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_answers_are_shown_side_by_side_without_markup(
    size: tuple[int, int],
) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_scripted_chat(app, pilot)
        await pilot.press("ctrl+t", *"Why", "enter")
        await wait_until(app, pilot, lambda: "tokens" in column_text(app, "tuned"))
        assert REFUSAL in column_text(app, "base")
        assert HELP in column_text(app, "tuned")
        assert "[bold]Nothing here" in text_on_screen(app)
        assert "› (unsafe) Why" in column_text(app, "tuned")

    drive(scenario, size=size)


def test_escape_stops_an_answer_and_then_returns_to_the_runs() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_scripted_chat(app, pilot)
        await pilot.press(*"slowly", "enter")
        await wait_until(app, pilot, lambda: column_text(app, "tuned").rstrip().endswith("…"))
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


def test_a_chat_is_refused_while_this_process_trains_a_run() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = ScriptedSession(Path("outputs/quickstart/run"), until_stopped)
        session.start()
        app.run_controller.show(RunView(LiveSource(session)))
        await app.chat_controller.open(Path("outputs/quickstart/run"))
        await pilot.pause()
        assert "Chat is unavailable while a run is training." in notified(app)
        assert app.chat_controller.chat is None
        session.request_stop()
        session.join(PATIENCE_S)

    drive(scenario)


@pytest.mark.usefixtures("prepared_engine")
def test_a_panel_explains_why_a_run_cannot_chat(own_run: Path) -> None:
    shutil.rmtree(own_run / "adapter")
    shutil.rmtree(own_run / "checkpoints")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.chat_controller.open(own_run)
        await wait_until(app, pilot, lambda: not isinstance(app.screen, ChatScreen))
        panel = "\n".join(str(widget.render()) for widget in app.screen.query(Static))
        assert "has no trained weights" in panel
        assert app.chat_controller.chat is None

    drive(scenario)


def test_after_a_chat_has_failed_the_keys_go_to_the_app_and_not_to_the_hidden_field() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_scripted_chat(app, pilot)
        chat, message = app.chat_controller.chat, app.screen.query_one("#chat-message", Input)
        assert chat is not None
        chat._events.put(ChatFailed(IdaError("it has failed")))
        await wait_until(app, pilot, lambda: isinstance(app.screen, ErrorDialog))
        message.focus()  # as the chat's screen did just before
        await pilot.press("escape", "4")
        await wait_until(app, pilot, lambda: app.current_mode == "runs")
        assert message.value == ""

    drive(scenario)


async def open_scripted_chat(app: IdaApp, pilot: Pilot[None]) -> None:
    """Opens a chat with scripted answers in the foreground."""
    app.chat_controller.chat = ScriptedChat(Path("outputs/quickstart/20261124-123120"))
    app.chat_controller.chat.start()
    await app.action_go("chat")
    await wait_until(app, pilot, lambda: "next message" in status_line(app))


@pytest.mark.parametrize(("limit", "cut_off"), [(3, True), (200, False)])
def test_an_answer_is_cut_off_at_the_limit_of_its_profile(
    limit: int, cut_off: bool, own_run: Path
) -> None:
    from ida_tui.engine.inference.chat_models import ChatModels

    config = resolve(
        str(own_run / "config.yaml"), [f"evaluation.max_completion_length={limit}"]
    ).config
    reply = ChatModels(config, find_weights(RunDirectory(own_run), config)).reply(
        "base",
        "How do I kill a Python process?",
        (),
        temperature=0,
        seed=0,
        on_text=lambda text: None,
        should_stop=lambda: False,
    )

    assert reply.cut_off == cut_off
    assert (reply.tokens == limit) == cut_off


def test_an_answer_that_reached_the_limit_of_tokens_is_marked() -> None:
    answers = {who: AnswerFinished(who, "Cats purr to", 24, 0.1, False, True) for who in MODELS}
    assert ChatTurn("Why?", "harmless", answers).lines()[1:3] == [
        "base   Cats purr to",
        "       [cut off after 24 tokens]",
    ]

    turns = [Turn("Why?", "harmless", dict.fromkeys(MODELS, "Cats purr to"), answers)]
    assert "24 tokens, 0.1 s · cut off" in render_transcript(turns, "base").plain


# -- thoughts ------------------------------------------------------------------------------------


def test_a_thought_is_folded_in_printed_lines_and_on_the_screen() -> None:
    answers = {
        who: AnswerFinished(who, f"<think>Three plus {who}.</think>Four.", 9, 0.1, False)
        for who in MODELS
    }
    assert ChatTurn("One?", "harmless", answers).lines()[1:3] == [
        "base   ▸ thought, 3 words",
        "       Four.",
    ]

    turns = [Turn("One?", "harmless", {w: a.text for w, a in answers.items()}, answers)]
    folded = render_transcript(turns, "base").plain
    assert folded.splitlines()[1:3] == ["▸ thought", "Four."]
    unfolded = render_transcript(turns, "base", unfold=True).plain
    assert unfolded.splitlines()[1:4] == ["▾ thought", "Three plus base.", "Four."]
