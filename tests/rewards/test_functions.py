"""Reward functions: their forms, arguments, options, results and failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.scoring.rubric import RubricAxis, RubricConfig
from ida_tui.errors import UsageError
from ida_tui.rewards.functions import ComputedScores, RewardFunctions
from ida_tui.util.plugin_output import plugin_output_log
from tests.rewards.reward_functions import compute, only_failure, rows_of, rubric_of, scores, write

# --- forms and arguments ---------------------------------------------------------------------------


def test_trl_s_form_gets_lists_of_messages_token_ids_and_the_columns(tmp_path: Path) -> None:
    code = """
        def f(prompts, completions, completion_ids, answer, **kwargs):
            assert prompts == [[{"role": "user", "content": "What is 2 + 2?"}]] * 4
            assert sorted(kwargs) == ["log_extra", "log_metric", "prompt_id", "tag", "trainer_state"]
            assert kwargs["tag"] == ["a", None, "b", None]
            kwargs["log_extra"]("column", answer)
            kwargs["log_metric"]("metric", 1.0)
            texts = [messages[0]["content"] for messages in completions]
            return [(t == a) + len(ids) / 100 for t, a, ids in zip(texts, answer, completion_ids)]
    """
    rows = rows_of("4", "22", "4", "5", answer=["4", "4", "4", "4"], tag=["a", None, "b", None])
    assert scores(compute(tmp_path, code, rows)) == [1.01, 0.02, 1.01, 0.01]


@pytest.mark.parametrize("annotation", ["list[str]", "'list[str]'", "List[str]", "Sequence[str]"])
def test_trl_s_form_gets_texts_where_it_says_so(tmp_path: Path, annotation: str) -> None:
    code = f"""
        from typing import List, Sequence
        def f(completions: {annotation}, prompts, **kwargs):
            assert prompts == ["What is 2 + 2?"] * 2
            return [len(text) for text in completions]
    """
    assert scores(compute(tmp_path, code, rows_of("4", "four"))) == [1.0, 4.0]


def test_a_group_function_is_called_once_per_prompt(tmp_path: Path) -> None:
    code = """
        def f(prompt, completions, answer):
            longest = max(map(len, completions))
            return [len(text) / longest for text in completions]
    """
    rows = rows_of("a", "bb", "cccc", "c", answer=["x"] * 4)
    assert scores(compute(tmp_path, code, rows)) == [0.5, 1.0, 1.0, 0.25]


def test_a_function_of_one_completion_gets_texts_and_the_columns_it_names(tmp_path: Path) -> None:
    code = """
        def f(prompt, completion, answer=None, other="x"):
            return float(completion == answer and prompt.endswith("?") and other == "x")
    """
    assert scores(compute(tmp_path, code, rows_of("4", "5", answer=["4", "4"]))) == [1.0, 0.0]


def test_one_function_computes_several_axes_and_fails_on_one_of_them(tmp_path: Path) -> None:
    code = """
        calls = []
        def f(completion):
            calls.append(completion)
            assert len(calls) <= 2, "called twice for a completion"
            return {"short": 1, "polite": completion == "please"} if completion else {"short": 0}
    """
    file = write(tmp_path, code)
    axes = {name: RubricAxis(function=f"{file}:f") for name in ("short", "polite")}
    functions = RewardFunctions(RubricConfig(axes=axes))
    first, second = functions.compute(rows_of("please", ""), group_size=2)
    assert first == ComputedScores({"short": 1.0, "polite": 1.0}, {})
    assert second.scores == {"short": 0.0, "polite": None}
    assert second.failure == 'polite: it returned no "polite"'


@pytest.mark.parametrize(
    "code",
    [
        "async def f(completion, answer): return float(completion == answer)",
        "async def f(completions: list[str], answer, **_):\n"
        "    return [a == b for a, b in zip(completions, answer)]",
        "async def g(**arguments): return arguments['completion'] == arguments['answer']\n"
        "def f(completion, answer): return g(completion=completion, answer=answer)",
        "class F:\n    async def __call__(self, completion, answer): return completion == answer\nf = F()",
    ],
    ids=["single", "batch", "not declared", "callable object"],
)
def test_async_functions_are_awaited(tmp_path: Path, code: str) -> None:
    assert scores(compute(tmp_path, code, rows_of("4", "5", answer=["4", "4"]))) == [1.0, 0.0]


def test_async_calls_of_a_step_run_at_the_same_time(tmp_path: Path) -> None:
    code = """
        import asyncio
        waiting, all_started = [], asyncio.Event()
        async def f(completion):
            waiting.append(completion)
            if len(waiting) == 3:
                all_started.set()
            await all_started.wait()
            return 1
    """
    assert scores(compute(tmp_path, code, rows_of("a", "b", "c"))) == [1.0, 1.0, 1.0]


def test_a_function_that_changes_its_arguments_changes_nothing_else(tmp_path: Path) -> None:
    code = """
        def f(prompts, completions, completion_ids, answer, trainer_state, **kwargs):
            count = [len(a) for a in answer]
            for values in (prompts[0], completions[0], completion_ids[0], answer[0], answer):
                values.clear()
            trainer_state.global_step = -1
            return count
    """
    answer = ["1", "2"]
    rows = rows_of("a", "b", answer=[answer, answer])
    functions = RewardFunctions(rubric_of(write(tmp_path, code), "f"))
    assert scores(functions.compute(rows, group_size=2)) == [2.0, 2.0]
    assert scores(functions.compute(rows, group_size=2)) == [2.0, 2.0]
    assert answer == ["1", "2"]
    assert rows == rows_of("a", "b", answer=[answer, answer])


# --- options, classes and factories ----------------------------------------------------------------


def test_options_set_arguments_and_win_over_columns(tmp_path: Path) -> None:
    code = "def f(completion, answer, limit=1): return len(completion) <= limit and answer == 'x'"
    options = {"answer": "x", "limit": 2}
    rows = rows_of("ab", "abc", answer=["y", "y"])
    assert scores(compute(tmp_path, code, rows, options=options)) == [1.0, 0.0]


def test_classes_and_factories_are_called_with_the_options(tmp_path: Path) -> None:
    code = """
        class Limit:
            def __init__(self, limit): self.limit = limit
            def __call__(self, completion): return len(completion) <= self.limit
        def get_limit(limit):
            def inner(completions, **kwargs): return [len(c[0]["content"]) <= limit for c in completions]
            return inner
    """
    for name in ("Limit", "get_limit"):
        computed = compute(tmp_path, code, rows_of("ab", "abc"), name=name, options={"limit": 2})
        assert scores(computed, name) == [1.0, 0.0]


def test_a_function_gets_the_thought_only_if_its_axis_asks_for_it(tmp_path: Path) -> None:
    file = write(tmp_path, "def f(completion): return len(completion)")
    axes = {
        "answer": RubricAxis(function=f"{file}:f"),
        "all": RubricAxis(function=f"{file}:f", include_thoughts=True),
    }
    rows = rows_of("<think>2 and 2</think>4", "4")
    computed = RewardFunctions(RubricConfig(axes=axes)).compute(rows, group_size=2)
    assert [dict(each.scores) for each in computed] == [
        {"answer": 1, "all": 23},
        {"answer": 1, "all": 1},
    ]


def test_the_functions_of_trl_work_by_path() -> None:
    trl = {
        "overlong": ("get_soft_overlong_punishment", {"max_completion_len": 4, "soft_punish_cache": 2}),
        "repetition": ("get_repetition_penalty_reward", {"ngram_size": 2}),
        "think": ("think_format_reward", {}),
    }  # fmt: skip
    axes = {
        name: RubricAxis(
            function=f"trl.rewards:{function}", options=options, include_thoughts=name == "think"
        )
        for name, (function, options) in trl.items()
    }
    rows = rows_of("a b", "a a a a", "<think>x</think>4")
    computed = RewardFunctions(RubricConfig(axes=axes)).compute(rows, group_size=3)
    assert [each.failures for each in computed] == [{}, {}, {}]
    assert scores(computed, "overlong") == [-0.5, -1.0, -1.0]
    assert scores(computed, "think") == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("code", "options", "message"),
    [
        ("def f(completion): return 1", {"limit": 1}, "f cannot take its options"),
        ("def f(limit): return lambda completion: 1", {}, "missing a required argument: 'limit'"),
        ("def f(): return 1", {}, "f takes neither completion nor completions"),
        ("f = 1", {}, 'has no function "f"'),
        ("class F:\n    def g(self): return 1\nf = F", {}, "returns no function but F"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_run(
    tmp_path: Path, code: str, options: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        RewardFunctions(rubric_of(write(tmp_path, code), "f", options=options))


def test_a_missing_column_is_named_before_a_run(tmp_path: Path) -> None:
    rubric = rubric_of(write(tmp_path, "def f(completion, answer): return 1"), "f")
    with pytest.raises(UsageError, match='needs the column "answer"') as raised:
        RewardFunctions(rubric, columns=["reference"])
    assert "columns: reference" in raised.value.hint
    RewardFunctions(rubric, columns=["answer"])


# --- results ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import numpy\ndef f(completions, **_): return numpy.array([1, 0.5])", [1.0, 0.5]),
        ("import torch\ndef f(completions, **_): return torch.tensor([1.0, 0.5])", [1.0, 0.5]),
        ("import torch\ndef f(completion): return torch.tensor([0.5])", [0.5, 0.5]),
        ("import numpy\ndef f(completion): return numpy.float32(0.5)", [0.5, 0.5]),
        ("def f(completions, **_): return [True, False]", [1.0, 0.0]),
        ("def f(completions, **_): return (n for n in (1, 2))", [1.0, 2.0]),
        ("def f(completions, **_): return (1, 2)", [1.0, 2.0]),
        ("from fractions import Fraction\ndef f(completion): return Fraction(1, 4)", [0.25, 0.25]),
    ],
)
def test_every_kind_of_number_is_a_score(
    tmp_path: Path, code: str, expected: Sequence[float]
) -> None:
    computed = scores(compute(tmp_path, code, rows_of("a", "b")))
    assert computed == expected
    assert all(type(score) is float for score in computed)


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("def f(completion): return None", "it returned None"),
        ("def f(completion): return '0.5'", "it returned str instead of a number"),
        ("def f(completion): return [1]", "it returned list instead of a number"),
        ("def f(completion): yield 1", "it returned generator instead of a number"),
        ("def f(completion): return float('nan')", "it returned nan"),
        ("def f(completion): return 10 ** 400", "it returned int instead of a number"),
        ("def f(completion): return 1j", "it returned complex instead of a number"),
        ("def f(completion): return 7", "7 is outside of the range from -1 to 2"),
        ("def f(completions, **_): return [1]", "it returned 1 score for 2 completions"),
        ("def f(completions, **_): return [1] * 10**6", "it returned 1,000,000 scores for 2 completions"),
        ("def f(completions, **_): return iter(int, 1)",
         "it returned more than 2 scores for as many completions"),
        ("def f(completions, **_): return {'a': 1, 'b': 2}",
         "it returned dict instead of a list of 2 scores"),
        ("def f(completions, **_): return {1, 2}", "it returned set instead of a list of 2 scores"),
        ("def f(completions, **_): return 'ab'", "it returned str instead of a list of 2 scores"),
        ("def f(completions, **_): return 1.0", "it returned float instead of a list of 2 scores"),
        ("def f(completion):\n    return 1 / 0", "ZeroDivisionError: division by zero (rewards.py:2)"),
        ("def f(completion): raise SystemExit(3)", "SystemExit: 3 (rewards.py:1)"),
        ("async def f(completion): raise SystemExit(3)", "SystemExit: 3 (rewards.py:1)"),
        ("def f(completion): raise KeyboardInterrupt", "KeyboardInterrupt (rewards.py:1)"),
        ("async def f(completion): raise TimeoutError('mine')", "TimeoutError: mine (rewards.py:1)"),
        ("class E(Exception):\n    def __str__(self): raise ValueError\n"
         "def f(completion): raise E", "E (rewards.py:3)"),
        ("class N:\n    def __float__(self): raise SystemExit\ndef f(completion): return N()",
         "its result cannot be read: SystemExit"),
        ("class L(list):\n    def __iter__(self): raise ValueError\n"
         "def f(completions, **_): return L([1, 2])", "its result (L) cannot be read: ValueError"),
    ],
)  # fmt: skip
def test_what_is_not_a_score_is_a_failure_that_says_why(
    tmp_path: Path, code: str, failure: str
) -> None:
    computed = compute(tmp_path, code, rows_of("a", "b"), range=[-1, 2])
    assert only_failure(computed) == f"f: {failure}"


def test_one_failed_completion_leaves_the_others_scored(tmp_path: Path) -> None:
    code = "def f(completions, **_): return [1, None, float('inf'), 'x']"
    computed = compute(tmp_path, code, rows_of("a", "b", "c", "d"), group_size=4)
    assert scores(computed) == [1.0, None, None, None]
    assert [each.failure for each in computed] == [
        None,
        "f: it returned None",
        "f: it returned inf",
        "f: it returned str instead of a number",
    ]


def test_what_a_function_prints_and_raises_goes_to_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
        import sys
        def f(completion):
            print("looking at", completion)
            print("beside it", file=sys.stderr)
            return 1 / 0
    """
    with plugin_output_log(tmp_path / "plugin.txt"):
        compute(tmp_path, code, rows_of("a"))
    log = (tmp_path / "plugin.txt").read_text()
    assert "looking at a" in log
    assert "beside it" in log
    assert "return 1 / 0" in log
    assert capsys.readouterr() == ("", "")
