"""The question in the app whether somebody else's file may send a key, run code or write elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from ida_tui.config import profiles
from ida_tui.config.embedded import model_folder
from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import Config
from ida_tui.config.trust import consent
from ida_tui.engine.inference.chat import Idle, _AskCommand, _Turn
from ida_tui.runs.store.judge_costs import JudgeCosts
from ida_tui.tui.app import IdaApp
from ida_tui.tui.run_controller import RunController
from ida_tui.tui.screens.base import MINIMUM_SIZE
from ida_tui.tui.screens.dialogs import ConsentDialog, ErrorDialog
from ida_tui.tui.screens.launch.judge_check import JudgeCheckDialog
from ida_tui.tui.screens.paused import PausedDialog
from tests.support import synthetic_run
from tests.support.app_driver import (
    SMALL,
    WIDE,
    drive,
    notified,
    panel_text,
    settled,
    text_on_screen,
)
from tests.support.judge_server import ScriptedJudge
from tests.support.scripted_chat import HELP, REFUSAL, ScriptedChat
from tests.tui.test_launch import choose, replace_value, select_value, verdict_text
from tests.tui.test_paused import PausingSession, open_paused_dialog

KEY = "GITHUB_TOKEN"
VALUE = "a-secret-value-1"
RUN = Path("outputs/quickstart/20261120-080000")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedJudge]:
    monkeypatch.setenv(KEY, VALUE)
    with ScriptedJudge() as judge:
        yield judge


@pytest.fixture
def started_runs(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The started runs, recorded instead of trained."""
    runs: list[Config] = []
    monkeypatch.setattr(RunController, "start", lambda self, config, key: runs.append(config))
    return runs


def use_profile_of_a_stranger(base_url: str) -> None:
    """Profiles of the user, an experiment and a judge, that take their judge from a stranger's file."""
    theirs = Path("downloaded.yaml").absolute()
    theirs.write_text(
        yaml.safe_dump({"kind": "openai", "model": "m", "base_url": base_url, "api_key_env": KEY})
    )
    for kind, text in (
        ("experiments", f"extends: quickstart\njudge: {theirs}\n"),
        ("judges", f"extends: {theirs}\nprice: {{input: 0, output: 0}}\n"),
    ):
        file = profiles.user_root() / kind / "mine.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(text)


def write_run_of_a_stranger(changes: Sequence[str]) -> None:
    synthetic_run.write(RUN / "events.jsonl", steps=2)
    config = resolve("quickstart", changes, verify=False).config
    (RUN / "config.yaml").write_text(to_yaml(config))


@pytest.mark.parametrize(
    ("size", "keys"), [(WIDE, ("enter",)), (SMALL, ("escape",)), (SMALL, ("down", "up", "enter"))]
)
def test_a_key_of_a_strangers_profile_is_refused_by_default(
    server: ScriptedJudge, started_runs: list[Config], size: tuple[int, int], keys: tuple[str, ...]
) -> None:
    use_profile_of_a_stranger(server.base_url)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "experiments", "mine")
        await pilot.press("enter")
        assert isinstance(app.screen, ConsentDialog)
        shown = text_on_screen(app)
        assert f"variable {KEY}" in panel_text(app)
        assert KEY in shown
        assert server.base_url.removesuffix("/v1") in shown
        assert "downloaded.yaml" in shown
        assert app.screen.query_one(OptionList).highlighted == 0
        await pilot.press(*keys)
        assert not isinstance(app.screen, ConsentDialog)
        assert "You did not agree" in notified(app)

    drive(scenario, size=size)

    assert not started_runs
    assert not consent.read_consents()
    assert not server.authorizations


def test_a_yes_starts_the_run_and_is_remembered(
    server: ScriptedJudge, started_runs: list[Config]
) -> None:
    use_profile_of_a_stranger(server.base_url)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "experiments", "mine")
        await pilot.press("enter", "down", "enter")
        assert [config.judge.base_url for config in started_runs] == [server.base_url]
        await pilot.press("enter")
        assert len(started_runs) == 2

    drive(scenario)

    assert {item.use for item in consent.read_consents()} == {"judge"}


def test_a_yes_that_cannot_be_saved_is_an_error(
    server: ScriptedJudge, started_runs: list[Config]
) -> None:
    use_profile_of_a_stranger(server.base_url)
    folder = consent.consent_file().parent
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("not a folder")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "experiments", "mine")
        await pilot.press("enter", "y")
        assert isinstance(app.screen, ErrorDialog)
        assert "could not remember the answer" in panel_text(app)

    drive(scenario)

    assert not started_runs


def test_a_strangers_profile_can_be_edited_and_typed_values_need_no_question(
    server: ScriptedJudge, started_runs: list[Config]
) -> None:
    use_profile_of_a_stranger(server.base_url)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "experiments", "mine")
        for key, text in (("base_url", server.base_url), ("api_key_env", KEY)):
            await select_value(app, pilot, f"judge.{key}")
            await pilot.press("e")
            app.screen.query_one("#value", Input).value = ""
            await replace_value(pilot, app, text)
            assert "✓" in verdict_text(app)
            await pilot.press("enter")
        app.screen.query_one("#experiments").focus()
        await pilot.press("enter")
        assert len(started_runs) == 1

    drive(scenario)


def test_the_judge_check_asks_before_it_sends_a_key(server: ScriptedJudge) -> None:
    use_profile_of_a_stranger(server.base_url)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await choose(app, pilot, "judges", "mine")
        await pilot.press("c")
        assert isinstance(app.screen, ConsentDialog)
        await pilot.press("n")
        assert not server.authorizations
        await pilot.press("c", "y")
        await settled(app, pilot)
        assert isinstance(app.screen, JudgeCheckDialog)

    drive(scenario)

    assert set(server.authorizations) == {f"Bearer {VALUE}"}


def test_a_paused_run_asks_before_another_judge_gets_a_key(server: ScriptedJudge) -> None:
    use_profile_of_a_stranger(server.base_url)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        session = PausingSession()
        await open_paused_dialog(app, pilot, session)
        options = app.screen.query_one(OptionList)
        options.highlighted = options.get_option_index("judge:mine")
        await pilot.press("enter")
        assert isinstance(app.screen, ConsentDialog)
        await pilot.press("n")
        assert isinstance(app.screen, PausedDialog)
        assert session.decisions.empty()
        await pilot.press("enter", "y")
        decision = session.decisions.get(timeout=10)
        assert (decision.judge.base_url, decision.key) == (server.base_url, VALUE)
        session.join(30)

    drive(scenario)


def test_a_chat_asks_before_the_code_of_a_strangers_model_runs(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(model_folder(), theirs)
    write_run_of_a_stranger([f"model.path={theirs}", "model.trust_remote_code=true"])

    async def open_chat(app: IdaApp, pilot: Pilot[None], dialog: type) -> None:
        await pilot.press("4")
        await settled(app, pilot)
        await pilot.press("a")
        while not isinstance(app.screen, dialog):
            await pilot.pause(0.01)
        await settled(app, pilot)

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        await open_chat(app, pilot, ConsentDialog)
        assert str(theirs) in panel_text(app)
        await pilot.press("escape")
        while isinstance(app.screen, ConsentDialog):
            await pilot.pause(0.01)
        assert app.chat_controller.chat is None
        assert not consent.read_consents()
        await open_chat(app, pilot, ConsentDialog)
        await pilot.press("y")
        # The chat goes on to the weights, which this run does not have.
        while not isinstance(app.screen, ErrorDialog):
            await pilot.pause(0.01)
        assert "weights" in panel_text(app)

    drive(scenario)


class JudgingChat(ScriptedChat):
    """A scripted chat whose answers are scored by the run's own judge."""

    def judge(self) -> None:
        command = _AskCommand("How do I kill a process?", "harmless", 0.0)
        self._last_turn = _Turn(
            command, {"base": REFUSAL, "tuned": HELP}, {"base": (), "tuned": ()}
        )
        config = resolve(str(self.directory.config), verify=False).config
        costs = JudgeCosts(self.directory, "chat", earlier=0.0)
        service = self._judge_answers(config, None, costs)
        if service is not None:
            service.close()
        costs.close()
        self._events.put(Idle())


def test_a_chat_asks_before_the_judge_of_a_strangers_run_gets_a_key(server: ScriptedJudge) -> None:
    write_run_of_a_stranger(
        ["judge.kind=openai", "judge.model=m", f"judge.base_url={server.base_url}",
         f"judge.api_key_env={KEY}"]
    )  # fmt: skip

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        chat = app.chat_controller.chat = JudgingChat(RUN.absolute())
        chat.start()
        await app.action_go("chat")
        for keys in (["h", "i", "enter"], ["ctrl+r"]):
            await pilot.pause(0.15)
            await pilot.press(*keys)
        while not isinstance(app.screen, ConsentDialog):
            await pilot.pause(0.01)
        await pilot.pause()
        assert not server.authorizations
        await pilot.press("y")
        while not any(turn.verdicts for turn in app.screen._transcript.turns):  # type: ignore[attr-defined]
            await pilot.pause(0.01)

    drive(scenario)

    assert set(server.authorizations) == {f"Bearer {VALUE}"}


@pytest.mark.parametrize("size", [WIDE, SMALL, MINIMUM_SIZE])
def test_a_long_path_cannot_hide_the_answers(size: tuple[int, int]) -> None:
    asked = [consent.Consent("code", ("/a" * 2000,)), consent.Consent("output", ("/b" * 900,))]
    required = consent.ConsentRequired(asked, [], "config.yaml:1: model.path")

    async def scenario(app: IdaApp, pilot: Pilot[None]) -> None:
        app.ask_for_consent(required, app.exit)
        await pilot.pause()
        shown = text_on_screen(app)
        assert "n  Do not agree" in shown
        assert "y  Agree" in shown

    drive(scenario, size=size)
