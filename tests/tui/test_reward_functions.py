"""The app with an experiment whose scores are computed: the launch screen, its check, and the run screen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from textual.pilot import Pilot

from ida_tui.config.scoring.axes import Axis
from ida_tui.errors import IdaError
from ida_tui.events.types import Record
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_view.sources import SourceKind
from ida_tui.tui.run_view.watched import RunView
from ida_tui.tui.screens.launch.judge_check import RewardCheckDialog
from ida_tui.tui.screens.launch.profile_list import ProfileList
from ida_tui.tui.screens.run.judge import JudgePane
from tests.support.app_driver import (
    SMALL,
    WIDE,
    drive,
    notified,
    panel_text,
    settled,
    text_on_screen,
)
from tests.support.scripted_session import run_started
from tests.support.sums import PROMPTS, REWARDS

AXES = (Axis("accuracy", "computed", 0.0, 1.0),)


class Source:
    """A record source with the first event of a run."""

    kind: SourceKind = "replay"
    directory: Path | None = Path("run")
    error: IdaError | None = None
    finished = True

    def __init__(self, judge: str) -> None:
        started = replace(run_started(Path("run"), 2), judge=judge, axes=AXES, reward="reward")
        self._waiting = [Record(0, "2026-01-31T11:59:00.000Z", started)]

    def next_records(self, limit: int) -> list[Record]:
        """The next records."""
        records, self._waiting = self._waiting, []
        return records


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment of the user that is rewarded by functions."""
    Path("experiments").mkdir()
    Path("experiments/rewards.py").write_text(REWARDS)
    Path("experiments/sums-prompts.yaml").write_text(PROMPTS)
    Path("experiments/sums.yaml").write_text(
        "extends: quickstart\nrubric: rewards.py\nprompts: sums-prompts.yaml\n"
        "training: {gradient_accumulation_steps: 1, per_device_train_batch_size: 16}\n"
    )
    monkeypatch.setenv("IDA_TUI_PROFILES", str(Path.cwd()))


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize("size", [WIDE, SMALL])
def test_c_checks_the_reward_functions_of_the_experiment(size: tuple[int, int]) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        profiles = app.screen.query_one("#experiments", ProfileList)
        profiles.focus()
        names = [profiles.get_option_at_index(n).id for n in range(profiles.option_count)]
        profiles.highlighted = names.index("-sums")
        await settled(app, pilot)
        assert "accuracy: experiments/rewards.py:accuracy" in panel_text(app)
        assert "reward = accuracy + thorough" in panel_text(app)
        await pilot.press("c")
        await settled(app, pilot)
        assert isinstance(app.screen, RewardCheckDialog)
        assert (
            "Check of the reward: experiments/rewards.py:accuracy, experiments/rewards.py:thorough"
            in panel_text(app)
        )
        assert "GRPO would learn to write longer answers" in panel_text(app)
        await pilot.press("escape")
        assert not isinstance(app.screen, RewardCheckDialog)

    drive(scenario, size=size)


@pytest.mark.parametrize(("judge", "shown"), [("", False), ("gpt-4o-mini", True)])
def test_the_judge_pane_is_shown_only_if_there_is_a_judge(judge: str, shown: bool) -> None:
    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await app.action_go("run")
        app.run_controller.show(RunView(Source(judge)))
        await settled(app, pilot)
        app.run_controller.tick()
        await settled(app, pilot)
        assert app.screen.query_one(JudgePane).display is shown
        app.screen.set_focus(None)
        await pilot.press("J")
        await pilot.pause()
        assert ("It has no judge" in notified(app)) is not shown
        assert text_on_screen(app)

    drive(scenario)
