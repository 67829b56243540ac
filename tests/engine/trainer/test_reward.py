"""The reward collector with reward functions: scores, failures, a pause, and a corrected file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from ida_tui.engine.trainer.reward import PromptRow, Replacement, RewardCollector
from ida_tui.errors import ExitCode
from ida_tui.events import types as ev
from ida_tui.judge.errors import FunctionsUnavailable, JudgeInterrupted, JudgeUnavailable
from ida_tui.judge.service import JudgeService
from ida_tui.rewards.functions import RewardFunctions

ROWS = [PromptRow("p", "How?", "harmless", {"answer": "yes"})] * 4
TEXTS = ["yes", "no", "yes", ""]


class Collecting:
    """A collector, with what it emitted and the pauses that it asked for."""

    def __init__(
        self, code: str, *, stop: bool = False, mixed: bool = False, formula: str = ""
    ) -> None:
        self.file = Path("rewards.py")
        self.file.write_text(code)
        self.config = _config(mixed, formula)
        self.events: list[ev.Event] = []
        self.pauses: list[JudgeUnavailable] = []
        self.corrections: list[str] = []
        config = self.config
        self.service = JudgeService(config.judge, config.rubric, config.prompts, key=None)
        self.service.start()
        self.collector = RewardCollector.from_config(
            config,
            self.service,
            emit=self.events.append,
            stop_requested=lambda: stop,
            pause=self._pause,
            functions=RewardFunctions(config.rubric),
        )

    def _pause(self, error: JudgeUnavailable) -> Replacement:
        self.pauses.append(error)
        if not self.corrections:
            raise error
        self.file.write_text(self.corrections.pop(0))
        return Replacement(self.service, True, 0.25)

    def collect(self, step: int = 1) -> list[Any]:
        self.collector.begin_step(step, ROWS)
        verdicts, _ = self.collector.collect_verdicts(TEXTS, 4, [[1], [2], [3], []])
        return verdicts

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, ev.Noticed)]


def _config(mixed: bool, formula: str) -> Config:
    if not mixed:
        overrides = ["rubric=rewards.py", *([f"rubric.formula={formula}"] if formula else [])]
        return resolve("quickstart", overrides, verify=False).config
    Path("mixed.yaml").write_text(
        "extends: ida\naxes: {f: {function: 'rewards.py:f'}}\nformula: f + align / 100\n"
    )
    return resolve("quickstart", ["rubric=mixed.yaml"], verify=False).config


@pytest.fixture
def collecting() -> Iterator[Any]:
    made: list[Collecting] = []

    def make(code: str, **options: Any) -> Collecting:
        made.append(Collecting(code, **options))
        return made[-1]

    yield make
    for each in made:
        each.service.close()


RIGHT = "def f(completion, answer): return float(completion == answer)"


def test_without_a_judge_the_functions_alone_make_the_reward(collecting: Any) -> None:
    verdicts = collecting(RIGHT).collect()
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 1.0, 0.0]
    assert {verdict.judge for verdict in verdicts} == {""}
    assert {verdict.calls for verdict in verdicts} == {0}


def test_judged_and_computed_axes_make_one_reward(collecting: Any) -> None:
    verdicts = collecting(RIGHT, mixed=True).collect()
    assert [list(verdict.scores) for verdict in verdicts] == [["align", "risk", "detail", "f"]] * 4
    for verdict in verdicts:
        assert verdict.reward == verdict.scores["f"] + verdict.scores["align"] / 100


def test_functions_know_the_steps_done(collecting: Any) -> None:
    code = "def f(completions, trainer_state, **_): return [trainer_state.global_step] * 4"
    made = collecting(code)
    assert [verdict.reward for verdict in made.collect(step=3)] == [2.0] * 4


def test_a_failed_completion_has_no_reward_and_the_log_says_why_once(collecting: Any) -> None:
    made = collecting("def f(completion): return 1 / len(completion)")
    for step in (1, 2):
        verdicts = made.collect(step)
        assert [verdict.reward is None for verdict in verdicts] == [False, False, False, True]
    assert made.notices == [
        "no score for 1 of 4 completions: f: ZeroDivisionError: division by zero (rewards.py:1)"
    ]


def test_too_many_failures_pause_the_run_and_a_corrected_file_is_imported(collecting: Any) -> None:
    made = collecting("def f(completion, answer): return 1 / 0")
    made.corrections = ["def f(completion, answer) return 1", RIGHT]

    assert [verdict.reward for verdict in made.collect()] == [1.0, 0.0, 1.0, 0.0]

    first, second = made.pauses
    assert "4 of 4 completions have no reward" in first.title
    assert "ZeroDivisionError" in first.title
    assert "ida-tui reward check" in first.hint
    assert "cannot be loaded: SyntaxError" in second.title


def test_a_formula_without_a_value_is_not_blamed_on_a_judge(collecting: Any) -> None:
    made = collecting("def f(completion): return 0.0", formula="1 / f")
    made.corrections = ["def f(completion): return 2.0"]
    assert [verdict.reward for verdict in made.collect()] == [0.5] * 4
    assert "division by zero" in made.pauses[0].title
    assert "formula" in made.pauses[0].hint
    assert "judge check" not in made.pauses[0].hint


def test_failed_functions_end_a_run_without_a_person_with_exit_code_1(collecting: Any) -> None:
    with pytest.raises(FunctionsUnavailable) as raised:
        collecting("def f(completion): return None").collect()
    assert raised.value.code is ExitCode.FAILED


def test_a_stop_ends_the_wait_for_a_function(collecting: Any) -> None:
    code = "import threading\ndef f(completion): threading.Event().wait()"
    with pytest.raises(JudgeInterrupted):
        collecting(code, stop=True).collect()
