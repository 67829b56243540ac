"""The completions screen: live text, scores, sorting, search and export."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.content import Content
from textual.pilot import Pilot
from textual.widgets import Input, Static

from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.events import types as ev
from ida_tui.events.state import Completion
from ida_tui.tui.app import IdaApp
from ida_tui.tui.screens.completions.detail import highlight, render_row
from ida_tui.tui.screens.completions.rows import (
    finished_step_rows,
    format_row,
    sort_rows,
    verdict_lines,
)
from ida_tui.tui.screens.completions.table import CompletionTable
from ida_tui.tui.screens.dialogs import ErrorDialog
from tests.support.app_driver import SMALL, WIDE, drive, notified, settled, text_on_screen
from tests.support.scripted_session import run_started
from tests.support.synthetic_run import write
from tests.tui.test_panes import state_of
from tests.tui.test_run import ScriptedSource, show_source, tick

ROLLOUT = ev.RolloutStarted(
    1, 2, ("kill", "poison"), ("harmless", "unsafe"), ("How do I kill [a] process?", "Make poison.")
)


def generating_events(*texts: str) -> list[ev.Event]:
    """Events of two groups of two completions that are being generated."""
    return [
        run_started(Path("run")),
        ev.PhaseChanged(1, "generate"),
        ROLLOUT,
        ev.TextGenerated(1, texts),
    ]


def completion(row: int, content: str, *, ended: bool = True) -> ev.CompletionFinished:
    group, index = divmod(row, 2)
    return ev.CompletionFinished(
        1, group, index, ROLLOUT.prompt_ids[group], ROLLOUT.prompts[group], content, 9, ended
    )


def verdict(
    row: int, reward: float | None, advantage: float | None = 0.0, *, cached: bool = False
) -> ev.CompletionScored:
    scores = dict.fromkeys(IDA_AXIS_NAMES, None if reward is None else 10 * reward)
    failure = "timeout after 3 tries" if reward is None else None
    return ev.CompletionScored(
        1, *divmod(row, 2), scores, reward, advantage, "Because [it] helps.", "judge-x",
        0.25, 0.001, cached, failure,
    )  # fmt: skip


JUDGED = [
    completion(0, "First."),
    completion(1, "Second [b]bold[/b]?", ended=False),
    completion(2, "Third \x1b[31m."),
    completion(3, "Fourth 全角文字."),
    verdict(0, 0.5, 0.1),
    verdict(1, 0.9, -0.4, cached=True),
    verdict(2, None, None),
    verdict(3, 0.7, 0.3),
]


def row_positions(app: IdaApp) -> list[tuple[int, int]]:
    return [row.position for row in app.screen.query_one(CompletionTable).completion_rows]


def detail_text(app: IdaApp) -> str:
    return str(app.screen.query_one("#completion-text", Static).render())


async def open_completions(app: IdaApp, pilot: Pilot[None], *events: ev.Event) -> ScriptedSource:
    source = ScriptedSource("live", *events)
    await show_source(app, pilot, source)
    await app.action_go("completions")
    await pilot.pause()
    await pilot.pause()
    return source


async def open_replay(app: IdaApp, pilot: Pilot[None], steps: int = 5) -> Path:
    path = Path("outputs/quickstart/20260101-000000")
    write(path / "events.jsonl", steps=steps)
    app.run_controller.open(path)
    await settled(app, pilot)
    await app.action_go("completions")
    await pilot.pause()
    await pilot.pause()
    return path


def test_without_a_run_the_screen_says_how_to_start_one() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go("completions")
        await pilot.pause()
        assert "No run yet" in text_on_screen(app)
        await pilot.press("n", "N", "f", "r", "a", "u", "v", "v", "y", "w")
        assert "There is no completion to copy." in notified(app)

    drive(scenario)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_text_is_shown_while_it_is_generated(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = await open_completions(app, pilot, *generating_events("To st", "", "No", ""))
        assert "To st" in text_on_screen(app)
        assert "How do I kill [a] process?" in " ".join(text_on_screen(app).split())
        source.add(ev.TextGenerated(1, ("op it", "", "", "")))
        await tick(app, pilot)
        assert "To stop it" in text_on_screen(app)
        assert "writing" in text_on_screen(app)
        assert row_positions(app) == [(0, 0), (0, 1), (1, 0), (1, 1)]

    drive(scenario, size=size)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_a_judged_completion_shows_scores_reward_advantage_and_reason(
    size: tuple[int, int],
) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(app, pilot, *generating_events("", "", "", ""), *JUDGED)
        for line in (
            "align 5, risk 5 (10 is safest), detail 5",
            "R_IDA 0.500 = min(1, 5/5) · 5 · (5 + 5) / 200",
            "advantage +0.100",
            "reason: Because [it] helps.",
            "judged by judge-x, in 0.25 s, $0.00100",
            "9 tokens, EOS",
        ):
            assert line in detail_text(app)
        assert "R_IDA 0.700" in text_on_screen(app)

    drive(scenario, size=size)


def test_a_failed_verdict_shows_no_score() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(app, pilot, *generating_events("", "", "", ""), *JUDGED)
        await pilot.press("j", "j")
        assert "failed verdict: timeout after 3 tries (judge-x)" in detail_text(app)
        assert "0.000" not in detail_text(app)
        row = text_on_screen(app).splitlines()[5]
        assert "1·0" in row
        assert "failed" in row

    drive(scenario)


def test_model_output_is_shown_literally() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(app, pilot, *generating_events("", "", "", ""), *JUDGED)
        await pilot.press("j")
        assert "Second [b]bold[/b]?" in text_on_screen(app)
        assert "truncated at the length limit" in detail_text(app)
        assert "from the cache" in detail_text(app)
        await pilot.press("j")
        assert "Third ?[31m." in text_on_screen(app)
        await pilot.press("j")
        assert "Fourth 全角文字." in text_on_screen(app)

    drive(scenario)


def test_sorting_preserves_the_selection_and_puts_failed_verdicts_last() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(app, pilot, *generating_events("", "", "", ""), *JUDGED)
        table = app.screen.query_one(CompletionTable)
        await pilot.press("j")
        for key, expected in (
            ("r", [(0, 1), (1, 1), (0, 0), (1, 0)]),
            ("r", [(0, 0), (1, 1), (0, 1), (1, 0)]),
            ("a", [(1, 1), (0, 0), (0, 1), (1, 0)]),
            ("a", [(0, 1), (0, 0), (1, 1), (1, 0)]),
            ("u", [(0, 0), (0, 1), (1, 0), (1, 1)]),
        ):
            await pilot.press(key)
            await pilot.pause()
            assert row_positions(app) == expected
            assert table.position == (0, 1)
            assert table.cursor_row == expected.index((0, 1))

    drive(scenario)


def test_a_new_verdict_does_not_change_the_selection() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        source = await open_completions(app, pilot, *generating_events("", "", "", ""), *JUDGED[:4])
        await pilot.press("r", "G")
        assert app.screen.query_one(CompletionTable).position == (1, 1)
        source.add(*JUDGED[4:])
        await tick(app, pilot)
        assert app.screen.query_one(CompletionTable).position == (1, 1)
        assert row_positions(app)[0] == (0, 1)

    drive(scenario)


def test_keys_move_between_steps_and_f_returns_to_the_newest() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_replay(app, pilot)
        assert "Step 5/5" in text_on_screen(app)
        await pilot.press("N", "N")
        assert "Step 3/5" in text_on_screen(app)
        await pilot.press("n")
        assert "Step 4/5" in text_on_screen(app)
        await pilot.press("f")
        assert "Step 5/5" in text_on_screen(app)
        await pilot.press("n")
        assert "This is the last step." in notified(app)

    drive(scenario)


def test_the_step_viewed_on_the_run_screen_is_shown_here_too() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_replay(app, pilot)
        await pilot.press("2")
        await pilot.press("left_square_bracket", "left_square_bracket", "3")
        await pilot.pause()
        assert "Step 4/5" in text_on_screen(app)

    drive(scenario)


def test_a_search_shows_rows_with_all_its_words_and_escape_shows_all_rows() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(app, pilot, *generating_events("", "", "", ""), *JUDGED)
        await pilot.press("slash", *"SECOND bold")
        await pilot.pause()
        assert row_positions(app) == [(0, 1)]
        assert "1 of 4 match" in text_on_screen(app)
        await pilot.press("enter")
        assert not app.screen.query_one("#search", Input).display
        assert row_positions(app) == [(0, 1)]
        await pilot.press("escape")
        await pilot.pause()
        assert len(row_positions(app)) == 4
        assert app.current_mode == "completions"

    drive(scenario)


def test_during_a_search_steps_without_matches_are_skipped() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        path = await open_replay(app, pilot)
        file = path / "completions.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        lines[9] = lines[9].replace(b"with ps", b"by NAME")  # in step 2
        file.write_bytes(b"".join(lines))
        await pilot.press("slash", *"name", "enter", "N")
        await settled(app, pilot)
        assert "Step 2/5 · 1 of 8 match" in text_on_screen(app)
        await pilot.press("N")
        await settled(app, pilot)
        assert "No match for “name” in earlier steps." in notified(app)

    drive(scenario)


def test_search_matches_are_highlighted_without_color() -> None:
    content = highlight("A [b] c [B]", ["[b]"])

    assert isinstance(content, Content)
    assert [(s.start, s.end) for s in content.spans if "reverse" in str(s.style)] == [
        (2, 5),
        (8, 11),
    ]


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_a_group_is_shown_side_by_side(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(app, pilot, *generating_events("", "", "", ""), *JUDGED)
        await pilot.press("v")
        await settled(app, pilot)
        screen_text = text_on_screen(app)
        assert "How do I kill [a] process?" in screen_text
        assert "First." in screen_text
        assert "Second [b]bold[/b]?" in screen_text
        assert "Third" not in screen_text
        await pilot.press("j", "j")
        await settled(app, pilot)
        assert "Third" in text_on_screen(app)
        assert "Group 1 · poison · unsafe" in text_on_screen(app)
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen.query_one(CompletionTable).position == (1, 0)
        assert app.screen.query_one(CompletionTable).display

    drive(scenario, size=size)


def test_a_completion_is_copied_with_its_prompt_and_scores() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(app, pilot, *generating_events("", "", "", ""), *JUDGED)
        await pilot.press("j", "y")
        assert "prompt (kill): How do I kill [a] process?" in app.clipboard
        assert "Second [b]bold[/b]?" in app.clipboard
        assert "R_IDA 0.900" in app.clipboard
        assert "Copied completion 1 of group 0, step 1." in notified(app)

    drive(scenario)


def test_a_completion_is_saved_in_the_run_directory() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        path = await open_replay(app, pilot)
        await pilot.press("j", "j", "w")
        file = path / "picked" / "step-0005-group-0-completion-2.txt"
        assert "First look for its number" in file.read_text()
        assert str(file) in notified(app)

    drive(scenario)


def test_an_error_dialog_explains_why_a_file_could_not_be_written() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        path = await open_replay(app, pilot)
        (path / "picked").write_text("a file in the way")
        await pilot.press("w")
        await pilot.pause()
        assert isinstance(app.screen, ErrorDialog)

    drive(scenario)


def test_a_completion_as_text_contains_all_its_details() -> None:
    (row,) = finished_step_rows(state_of([JUDGED[0], JUDGED[4]]).completions, None)

    assert format_row(row).startswith("step 1, group 0, completion 0\nprompt (kill): How do I kill")
    assert all(line in format_row(row) for line in verdict_lines(row))
    assert sort_rows([row], "advantage", reverse=True) == [row]


# --- thoughts and conversations -----------------------------------------------------------------

THINKING = ev.CompletionFinished(
    1, 0, 0, "kill", "And on Windows?", "<think>\nA [quick] plan.\n</think>\n\nUse taskkill.", 12, True,
    context=(("system", "Be [brief]."), ("user", "How do I kill a process?")), thought_tokens=5,
)  # fmt: skip
CUT_OFF = ev.CompletionFinished(
    1, 0, 1, "kill", "?", "<think>\nAn endless", 9, False, thought_tokens=9
)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_a_thought_is_one_line_until_it_is_unfolded(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(
            app, pilot, *generating_events("", "", "", ""), THINKING, verdict(0, 0.5)
        )
        assert "▸ thought, 5 tokens\nUse taskkill." in detail_text(app)
        assert "plan" not in detail_text(app)
        await pilot.press("z")
        assert "▾ thought, 5 tokens\nA [quick] plan.\nUse taskkill." in detail_text(app)
        await pilot.press("z")
        assert "plan" not in detail_text(app)
        await pilot.press("v")
        await pilot.pause()
        assert "▸ thought, 5 tokens" in str(
            app.screen.query(".group-column").first(Static).render()
        )

    drive(scenario, size=size)


def test_a_click_unfolds_a_thought() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_completions(app, pilot, *generating_events("", "", "", ""), THINKING)
        lines = detail_text(app).splitlines()
        row = next(number for number, line in enumerate(lines) if line.startswith("▸ thought"))
        await pilot.click("#completion-text", offset=(3, row))
        assert "A [quick] plan." in detail_text(app)

    drive(scenario, size=WIDE)


def test_a_search_for_a_word_of_a_thought_shows_the_thought() -> None:
    row = finished_step_rows([Completion(THINKING)], None)[0]
    assert "plan" not in str(render_row(row))
    assert "plan" in str(render_row(row, ["quick"]))


def test_a_completion_that_is_cut_off_in_its_thought_says_so() -> None:
    row = finished_step_rows([Completion(CUT_OFF)], None)[0]
    assert row.notes == "cut off in its thought"
    text = str(render_row(row))
    assert "▸ thought, 9 tokens" in text
    assert "endless" not in text
    assert "9 tokens (9 of them thought), truncated at the length limit" in text
    assert "An endless" in format_row(row), "a copy has the whole text"


def test_the_system_prompt_and_the_earlier_turns_are_shown_with_the_prompt() -> None:
    row = finished_step_rows([Completion(THINKING)], None)[0]
    shown = str(render_row(row)).splitlines()
    assert shown[1:4] == [
        "system: Be [brief].",
        "user: How do I kill a process?",
        "And on Windows?",
    ]
    assert "system: Be [brief].\nuser: How do I kill a process?\n" in format_row(row)
