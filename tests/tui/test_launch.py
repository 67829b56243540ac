"""The launch screen: selecting profiles, editing values, and starting runs that are ready."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from ida_tui.config.schema import Config
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_controller import RunController
from ida_tui.tui.screens.dialogs import ErrorDialog
from ida_tui.tui.screens.launch.profile_list import ProfileList
from ida_tui.tui.screens.launch.profile_table import ProfileTable
from tests.support.app_driver import (
    SMALL,
    WIDE,
    drive,
    notified,
    panel_text,
    settled,
    text_on_screen,
)
from tests.support.synthetic_run import write

Started = list[tuple[Config, str | None]]


@pytest.fixture
def started_runs(monkeypatch: pytest.MonkeyPatch) -> Started:
    """The started runs, recorded instead of trained."""
    runs: Started = []
    monkeypatch.setattr(
        RunController, "start", lambda self, config, key: runs.append((config, key))
    )
    return runs


async def choose(app: IdaApp, pilot: Pilot[None], kind: str, name: str) -> None:
    profiles = app.screen.query_one(f"#{kind}", ProfileList)
    profiles.focus()
    for index in range(profiles.option_count):
        if profiles.get_option_at_index(index).id == f"-{name}":
            profiles.highlighted = index
    await pilot.pause()


async def select_value(app: IdaApp, pilot: Pilot[None], key: str) -> ProfileTable:
    table = app.screen.query_one(ProfileTable)
    table.value_table.focus()
    await pilot.press("g")
    while (
        table.selected_row is None or table.selected_row.key != key or table.selected_row.is_heading
    ):
        await pilot.press("j")
    return table


async def replace_value(pilot: Pilot[None], app: IdaApp, text: str) -> None:
    app.screen.query_one("#value", Input).value = ""
    await pilot.press(*text)
    await pilot.pause()


def verdict_text(app: IdaApp) -> str:
    return str(app.screen.query_one("#validation", Static).render())


def readiness_text(app: IdaApp) -> str:
    return str(app.screen.query_one("#readiness-text", Static).render())


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_enter_starts_the_proposed_experiment(size: tuple[int, int], started_runs: Started) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        assert [(config.name, key) for config, key in started_runs] == [("quickstart", None)]

    drive(scenario, size=size)


def test_a_chosen_model_replaces_the_model_of_the_experiment(started_runs: Started) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "experiments", "dev-mps")
        await choose(app, pilot, "models", "embedded")
        await choose(app, pilot, "judges", "offline")
        await pilot.press("enter")
        (config, _) = started_runs[0]
        assert (config.name, config.model.name, config.judge.kind) == (
            "dev-mps",
            "embedded",
            "offline",
        )

    drive(scenario)


def test_enter_directly_after_an_arrow_key_starts_the_experiment_under_the_cursor(
    started_runs: Started,
) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        experiments = app.screen.query_one("#experiments", ProfileList)
        experiments.action_cursor_down()
        experiments.action_select()  # before the messages of the first key are handled
        await pilot.pause()
        assert [config.name for config, _ in started_runs] == [experiments.selected_item.name]
        assert experiments.selected_item.name != "quickstart"

    drive(scenario)


def test_each_profile_has_its_description() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "models", "qwen3-0.6b")
        description = str(app.screen.query_one("#profile-description", Static).render())
        assert "the smallest Qwen3 model" in description

    drive(scenario)


def test_every_value_is_shown_with_its_source() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await select_value(app, pilot, "training.max_steps")
        text = text_on_screen(app)
        row = next(line for line in text.splitlines() if "max_steps  " in line)
        assert "40" in row
        assert "quickstart.yaml:" in row
        assert "shipped: experiments/quickstart.yaml:" in text

    drive(scenario)


@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_a_value_is_checked_at_every_key_and_saved_only_if_it_is_valid(
    size: tuple[int, int], started_runs: Started
) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await select_value(app, pilot, "training.max_steps")
        await pilot.press("e")
        assert app.screen.query_one("#value", Input).value == "40"
        assert "✓" in verdict_text(app)
        await replace_value(pilot, app, "4x")
        assert '✗ "4x" is not a whole number' in verdict_text(app)
        assert '✗ "4x" is not a whole number' in text_on_screen(app)
        await pilot.press("enter")
        assert table.is_editing
        await pilot.press("backspace", "enter")
        await pilot.pause()
        assert not table.is_editing
        assert table.selected_row is not None
        assert (table.selected_row.key, table.selected_row.value, table.selected_row.edited) == (
            "training.max_steps",
            "4",
            True,
        )
        app.screen.query_one("#experiments").focus()
        await pilot.press("enter")
        assert started_runs[0][0].training.max_steps == 4

    drive(scenario, size=size)


def test_inconsistent_values_are_refused_while_typing() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await select_value(app, pilot, "training.num_generations")
        await pilot.press("enter")
        await replace_value(pilot, app, "7")
        assert "✗" in verdict_text(app)
        assert "64" in verdict_text(app)

    drive(scenario)


def test_escape_cancels_an_edit() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await select_value(app, pilot, "training.learning_rate")
        await pilot.press("e")
        await replace_value(pilot, app, "1e-3")
        await pilot.press("escape")
        await pilot.pause()
        assert not table.is_editing
        assert table.selected_row is not None
        assert not table.selected_row.edited
        assert app.current_mode == "launch"

    drive(scenario)


def test_edits_can_be_cleared_one_by_one_or_all_together() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = await select_value(app, pilot, "training.max_steps")
        for key, text in (("training.max_steps", "3"), ("training.max_completion_length", "9")):
            await select_value(app, pilot, key)
            await pilot.press("e")
            await replace_value(pilot, app, text)
            await pilot.press("enter")
            await pilot.pause()
        assert "2 edited" in str(table.border_title)
        await pilot.press("u")
        assert "1 edited" in str(table.border_title)
        await pilot.press("U")
        assert "edited" not in str(table.border_title)
        await pilot.press("u")
        assert "This value has not been edited." in notified(app)

    drive(scenario)


def test_prompts_are_edited_in_their_file() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await select_value(app, pilot, "prompts.prompts")
        await pilot.press("e")
        assert "Prompts cannot be changed here" in notified(app)
        assert not app.screen.query_one(ProfileTable).is_editing

    drive(scenario)


def test_a_filter_shows_matching_profiles_and_says_when_there_are_none() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        models = app.screen.query_one("#models", ProfileList)
        models.focus()
        await pilot.press("slash", *"cuda")
        await pilot.pause()
        assert [o.id for o in models.options] == ["-qwen3-4b-cuda-bf16"]
        await pilot.press(*"xx")
        await pilot.pause()
        assert "no match for “cudaxx”" in text_on_screen(app)
        await pilot.press("escape")
        await pilot.pause()
        assert models.option_count > 3
        assert app.focused is models

    drive(scenario)


def test_the_profile_is_filtered_by_key() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        table = app.screen.query_one(ProfileTable)
        table.value_table.focus()
        await pilot.press("slash", *"max_", "enter")
        await pilot.pause()
        text = text_on_screen(app)
        assert "max_completion_length" in text
        assert "learning_rate" not in text
        await pilot.press("escape")
        await pilot.pause()
        assert "learning_rate" in text_on_screen(app)

    drive(scenario)


def test_a_run_that_is_not_ready_shows_what_is_missing_and_does_not_start(
    started_runs: Started,
) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "judges", "gpt-4o-mini")
        assert "✗ key" in readiness_text(app)
        assert "OPENAI_API_KEY is not set" in readiness_text(app)
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, ErrorDialog)
        assert "this run cannot start yet" in panel_text(app)
        assert "export OPENAI_API_KEY" in panel_text(app)
        assert started_runs == []

    drive(scenario)


def test_a_key_added_later_is_found_after_a_reload(started_runs: Started) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "judges", "gpt-4o-mini")
        Path(".env").write_text("OPENAI_API_KEY=sk-secret-secret\n")
        await pilot.press("r")
        await pilot.pause()
        assert "✓ key" in readiness_text(app)
        assert "sk-secret" not in text_on_screen(app)
        await pilot.press("enter")
        assert started_runs[0][1] == "sk-secret-secret"

    drive(scenario)


def test_an_unreadable_profile_is_listed_with_its_error(
    tmp_path: Path, started_runs: Started
) -> None:
    profiles = tmp_path / "user-profiles" / "experiments"
    profiles.mkdir(parents=True)
    (profiles / "broken.yaml").write_text('extends: quickstart\ntraining: {"lr[b]": 3}\n')

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "experiments", "broken")
        assert "✗ profile" in readiness_text(app)
        assert "broken.yaml:2" in readiness_text(app)
        await pilot.press("enter")
        await pilot.pause()
        assert "lr[b]" in panel_text(app)
        assert started_runs == []

    drive(scenario)


def test_the_expected_time_comes_from_the_previous_run() -> None:
    async def without_previous_run(app: IdaApp, pilot: Pilot[None]) -> None:
        await settled(app, pilot)
        assert "unknown (no previous run)" in readiness_text(app)
        assert "memory need  peak: about" in readiness_text(app)

    async def with_previous_run(app: IdaApp, pilot: Pilot[None]) -> None:
        await settled(app, pilot)
        assert "previous run: 1.0 s" in readiness_text(app)

    drive(without_previous_run)
    write(Path("outputs/quickstart/20260101-000000/events.jsonl"), steps=2)
    drive(with_previous_run)


def test_o_opens_the_past_runs() -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await pilot.press("o")
        assert app.current_mode == "runs"

    drive(scenario)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"device": "cuda"}, "✗ device"),
        ({"model.path": "nowhere/at/all"}, "✗ model"),
        ({"output_dir": "occupied"}, "✗ folder"),
        ({"model.path": "some/model"}, "! model"),
    ],
    ids=str,
)
def test_the_requirements_of_a_run_are_checked_before_it_starts(
    overrides: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ida_tui.config.resolve import resolve
    from ida_tui.planning.readiness import check_readiness

    Path("occupied").write_text("a file, not a folder")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("ida_tui.planning.readiness.guess_device", lambda: "cpu")
    pairs = [f"{key}={value}" for key, value in overrides.items()]
    config = resolve("quickstart", pairs, verify=False).config

    marks = {"good": "✓", "note": "!", "error": "✗"}
    results = [f"{marks[c.severity]} {c.about}" for c in check_readiness(config, folder=tmp_path)]

    assert expected in results


def test_a_download_that_does_not_fit_on_the_disk_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import shutil

    from ida_tui.config.resolve import resolve
    from ida_tui.planning.readiness import check_readiness

    class Usage:
        free = 3_000_000_000

    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage)
    config = resolve("dev-mps", ["judge=offline"]).config

    missing = [c for c in check_readiness(config, folder=tmp_path) if c.severity == "error"]

    assert [c.text for c in missing] == ["3.0 GB free, but the download needs 8.1 GB"]


def test_profile_text_is_never_interpreted_as_markup(tmp_path: Path) -> None:
    profiles = tmp_path / "user-profiles" / "experiments"
    profiles.mkdir(parents=True)
    (profiles / "odd.yaml").write_text('extends: quickstart\ndescription: "[/b] a [red]text["\n')

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "experiments", "odd")
        assert "[/b] a [red]text[" in text_on_screen(app)

    drive(scenario)
