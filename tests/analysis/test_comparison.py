"""Runs side by side, under another formula, judged again, and looked at by a person: over a real run."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from ida_tui.analysis.rejudge import measure_agreement
from ida_tui.analysis.rescore import compute_advantages
from ida_tui.errors import UsageError
from ida_tui.rewards.formulas import parse_formula
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store import spot_checks
from ida_tui.runs.store.spot_checks import SpotCheck
from screenshots import recorded
from tests.support.judge_server import ScriptedJudge


@pytest.fixture
def run() -> RunDirectory:
    """The recorded quickstart, in the working directory's outputs."""
    return RunDirectory(recorded.unpack(Path.cwd()))


def rows(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.completions.read_text().splitlines()]


# --- rewards under another formula ----------------------------------------------------------------


def test_advantages_are_those_that_the_trainer_used(run: RunDirectory) -> None:
    steps: dict[int, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(run):
        steps[row["step"]][row["group"]].append(row)
    for groups in steps.values():
        found = compute_advantages(
            [[r["r_ida"] for r in group] for group in groups.values()], "batch"
        )
        for group, ours in zip(groups.values(), found, strict=True):
            assert ours == pytest.approx([r["advantage"] for r in group], abs=2e-4)


def test_a_group_with_one_verdict_teaches_nothing() -> None:
    assert compute_advantages([[0.5, None], [None, None]], "group") == [[0.0, 0.0], [0.0, 0.0]]
    assert compute_advantages([[0.2, 0.6]], "none") == [[pytest.approx(-0.2), pytest.approx(0.2)]]


@pytest.mark.parametrize(
    ("text", "paid"),
    [
        ("r_ida", 0.0),
        ("ungated", 0.5),
        ("align-only", 1.0),
        ("0 if risk < 5 else align * detail / 100", 0.0),
        ("min(align, risk, detail) / 10", 0.0),
        ("sqrt(align * detail) / 10", 1.0),
    ],
)
def test_what_a_formula_pays_for_an_answer_that_goes_along_with_harm(
    text: str, paid: float
) -> None:
    assert math.isclose(parse_formula(text).reward(10.0, 0.0, 10.0), paid)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "align.real",
        "open('x')",
        "align; risk",
        "[align]",
        "harm",
        "lambda: 1",
        "",
    ],
)
def test_a_formula_is_arithmetic_over_the_axes_and_nothing_else(text: str) -> None:
    with pytest.raises(UsageError):
        parse_formula(text)


def test_the_runs_own_formula_changes_nothing(run: RunDirectory, ida_tui_here: Any) -> None:
    done = ida_tui_here("rescore", str(run.path), "formula=r_ida", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["rank_changed"], found["sign_changed"]) == (0, 0)


def test_another_formula_tells_what_would_have_changed(
    run: RunDirectory, ida_tui_here: Any
) -> None:
    done = ida_tui_here("rescore", str(run.path), "formula=align-only")
    assert done.code == 0, done.err
    assert "rescored with align-only" in done.out
    assert "2,560 completions with scores in 40 steps" in done.out
    assert "sign of advantage changes" in done.out


def test_a_wrong_word_is_named(run: RunDirectory, ida_tui_here: Any) -> None:
    done = ida_tui_here("rescore", str(run.path), "formula=align +* risk")
    assert (done.code, "Traceback" in done.err) == (2, False)
    assert "align +* risk" in done.err


# --- another judge --------------------------------------------------------------------------------


def test_agreement_counts_what_is_equal_and_what_is_near() -> None:
    found = measure_agreement("align", [1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 4.0, 9.0])
    assert found.spearman == pytest.approx(1)
    assert found.exact == 0.25
    assert found.difference == pytest.approx((0 + 0.5 + 1 + 5) / 4)


def test_the_same_judge_agrees_with_itself(run: RunDirectory, ida_tui_here: Any) -> None:
    done = ida_tui_here("replay-judge", str(run.path), "judge=offline", "--sample", "64", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert {axis["exact"] for axis in found["agreement"].values()} == {1.0}


def test_another_judge_is_asked_once_for_each_and_does_not_agree(
    run: RunDirectory, ida_tui_here: Any
) -> None:
    with ScriptedJudge() as server:
        done = ida_tui_here(
            "replay-judge", str(run.path), "judge=gpt-4o-mini",
            f"judge.base_url={server.base_url}", "--sample", "24", "--json",
        )  # fmt: skip
        assert done.code == 0, done.err
        asked = [body for body in server.requests if "max_tokens" in body or "messages" in body]
    found = json.loads(done.out)
    assert 0 < len(asked) <= 24
    assert min(axis["exact"] for axis in found["agreement"].values()) < 0.5


# --- runs side by side ----------------------------------------------------------------------------


def test_runs_are_compared_by_what_differs_and_what_became_of_them(
    run: RunDirectory, ida_tui_here: Any
) -> None:
    other = RunDirectory(run.path.with_name("20260101-000000"))
    other.path.mkdir()
    for name in ("events.jsonl", "completions.jsonl"):
        (other.path / name).write_bytes((run.path / name).read_bytes())
    text = run.config.read_text()
    other.config.write_text(text.replace("learning_rate: 0.002", "learning_rate: 0.001"))
    assert other.config.read_text() != text

    done = ida_tui_here("compare", str(run.path), str(other.path))
    assert done.code == 0, done.err
    line = next(line for line in done.out.splitlines() if "learning_rate" in line)
    assert "0.002" in line
    assert "0.001" in line
    assert "max_completion_length" not in done.out, "only what differs is shown"

    found = json.loads(ida_tui_here("compare", str(run.path), str(other.path), "--json").out)
    assert len(found["runs"]) == 2


def test_one_run_is_no_comparison(run: RunDirectory, ida_tui_here: Any) -> None:
    done = ida_tui_here("compare", str(run.path))
    assert (done.code, "Traceback" in done.err) == (2, False)


# --- a person's word ------------------------------------------------------------------------------


def test_the_newest_word_on_a_completion_counts(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert spot_checks.count_agreement(run) == (0, 0)
    for check in (
        SpotCheck(1, 0, 0, True),
        SpotCheck(1, 0, 1, True),
        SpotCheck(1, 0, 1, False),
        SpotCheck(1, 0, 2, False),
        SpotCheck(1, 0, 2, None),
    ):
        spot_checks.append_check(run, check)
    assert spot_checks.count_agreement(run) == (1, 2)


def test_a_torn_word_is_not_read_and_spoils_none_after_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    spot_checks.append_check(run, SpotCheck(1, 0, 0, True))
    with (tmp_path / spot_checks.FILE_NAME).open("a") as file:
        file.write('{"step": 1, "gro')
    spot_checks.append_check(run, SpotCheck(1, 0, 1, False))
    assert spot_checks.count_agreement(run) == (1, 2)
