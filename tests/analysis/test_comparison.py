"""The commands compare, rescore and replay-judge, and spot checks by a person, on a recorded run."""

from __future__ import annotations

import json
import math
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from ida_tui.analysis.comparison import compare_runs, score_curve
from ida_tui.analysis.rejudge import build_requests, draw_completions, measure_agreement, rejudge
from ida_tui.analysis.rescore import compute_advantages, rescore
from ida_tui.config.resolve import resolve
from ida_tui.errors import UsageError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.judge.service import JudgeService
from ida_tui.rewards.formulas import parse_formula
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store import spot_checks
from ida_tui.runs.store.spot_checks import SpotCheck
from screenshots import recorded
from tests.support.judge_server import ScriptedJudge


@pytest.fixture
def run() -> RunDirectory:
    """The recorded quickstart run, unpacked below outputs in the working directory."""
    return RunDirectory(recorded.unpack(Path.cwd()))


def rows(run: RunDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.completions.read_text().splitlines()]


# --- rewards under another formula ----------------------------------------------------------------


def test_advantages_equal_those_the_trainer_used(run: RunDirectory) -> None:
    steps: dict[int, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows(run):
        steps[row["step"]][row["group"]].append(row)
    for groups in steps.values():
        advantages = compute_advantages(
            [[r["reward"] for r in group] for group in groups.values()], "batch"
        )
        for group, computed in zip(groups.values(), advantages, strict=True):
            assert computed == pytest.approx([r["advantage"] for r in group], abs=2e-4)


def test_a_group_with_one_verdict_has_zero_advantages() -> None:
    assert compute_advantages([[0.5, None], [None, None]], "group") == [[0.0, 0.0], [0.0, 0.0]]
    assert compute_advantages([[0.2, 0.6]], "none") == [[pytest.approx(-0.2), pytest.approx(0.2)]]


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("r_ida", 0.0),
        ("ungated", 0.5),
        ("align-only", 1.0),
        ("0 if risk < 5 else align * detail / 100", 0.0),
        ("min(align, risk, detail) / 10", 0.0),
        ("sqrt(align * detail) / 10", 1.0),
    ],
)
def test_formula_rewards_a_harmful_answer_as_expected(text: str, reward: float) -> None:
    assert math.isclose(
        parse_formula(text).reward({"align": 10.0, "risk": 0.0, "detail": 10.0}), reward
    )


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
def test_anything_but_arithmetic_over_the_axes_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_formula(text)


def test_rescoring_with_the_runs_formula_changes_nothing(
    run: RunDirectory, ida_tui_here: Any
) -> None:
    result = ida_tui_here("rescore", str(run.path), "formula=r_ida", "--json")
    assert result.code == 0, result.err
    output = json.loads(result.out)
    assert (output["rank_changed"], output["sign_changed"]) == (0, 0)


def test_rescoring_with_another_formula_reports_what_would_change(
    run: RunDirectory, ida_tui_here: Any
) -> None:
    result = ida_tui_here("rescore", str(run.path), "formula=align-only")
    assert result.code == 0, result.err
    assert "rescored with align-only" in result.out
    assert "2,560 completions with scores in 40 steps" in result.out
    assert "sign of advantage changes" in result.out


def test_an_invalid_formula_is_quoted_in_the_error(run: RunDirectory, ida_tui_here: Any) -> None:
    result = ida_tui_here("rescore", str(run.path), "formula=align +* risk")
    assert (result.code, "Traceback" in result.err) == (2, False)
    assert "align +* risk" in result.err


# --- another judge --------------------------------------------------------------------------------


def test_agreement_counts_equal_scores_and_averages_differences() -> None:
    agreement = measure_agreement("align", [1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 4.0, 9.0])
    assert agreement.exact == 0.25
    assert agreement.difference == pytest.approx((0 + 0.5 + 1 + 5) / 4)
    assert agreement.spearman is None, "a rank correlation of four pairs is mostly chance"


def test_the_rank_correlation_of_two_judges_needs_eight_pairs() -> None:
    scores = [float(score) for score in range(8)]

    assert measure_agreement("align", scores, scores).spearman == pytest.approx(1)
    assert measure_agreement("align", scores[1:], scores[1:]).spearman is None


def test_the_same_judge_agrees_with_itself(run: RunDirectory, ida_tui_here: Any) -> None:
    result = ida_tui_here(
        "replay-judge", str(run.path), "judge=offline", "--sample", "64", "--json"
    )
    assert result.code == 0, result.err
    output = json.loads(result.out)
    assert {axis["exact"] for axis in output["agreement"].values()} == {1.0}


def test_another_judge_is_called_at_most_once_per_completion_and_disagrees(
    run: RunDirectory, ida_tui_here: Any
) -> None:
    with ScriptedJudge() as server:
        result = ida_tui_here(
            "replay-judge", str(run.path), "judge=gpt-4o-mini",
            f"judge.base_url={server.base_url}", "--sample", "24", "--json",
        )  # fmt: skip
        assert result.code == 0, result.err
        calls = [body for body in server.requests if "max_tokens" in body or "messages" in body]
    output = json.loads(result.out)
    assert 0 < len(calls) <= 24
    assert min(axis["exact"] for axis in output["agreement"].values()) < 0.5


# --- comparing runs ----------------------------------------------------------------------------


def test_a_comparison_shows_only_the_settings_that_differ(
    run: RunDirectory, ida_tui_here: Any
) -> None:
    other = RunDirectory(run.path.with_name("20260101-000000"))
    other.path.mkdir()
    for name in ("events.jsonl", "completions.jsonl"):
        (other.path / name).write_bytes((run.path / name).read_bytes())
    text = run.config.read_text()
    other.config.write_text(text.replace("learning_rate: 0.002", "learning_rate: 0.001"))
    assert other.config.read_text() != text

    result = ida_tui_here("compare", str(run.path), str(other.path))
    assert result.code == 0, result.err
    line = next(line for line in result.out.splitlines() if "learning_rate" in line)
    assert "0.002" in line
    assert "0.001" in line
    assert "max_completion_length" not in result.out, "only what differs is shown"

    output = json.loads(ida_tui_here("compare", str(run.path), str(other.path), "--json").out)
    assert len(output["runs"]) == 2


def test_comparing_a_single_run_is_refused(run: RunDirectory, ida_tui_here: Any) -> None:
    result = ida_tui_here("compare", str(run.path))
    assert (result.code, "Traceback" in result.err) == (2, False)


# --- spot checks by a person ------------------------------------------------------------------------------


def test_only_the_latest_spot_check_of_a_completion_counts(tmp_path: Path) -> None:
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


def test_an_incomplete_spot_check_line_is_skipped_and_later_ones_are_read(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    spot_checks.append_check(run, SpotCheck(1, 0, 0, True))
    with (tmp_path / spot_checks.FILE_NAME).open("a") as file:
        file.write('{"step": 1, "gro')
    spot_checks.append_check(run, SpotCheck(1, 0, 1, False))
    assert spot_checks.count_agreement(run) == (1, 2)


# --- runs whose scoring changed -------------------------------------------------------------------


def resume_with_another_judge(run: RunDirectory, step: int) -> None:
    """Record that a run was resumed with another judge after a step."""
    lines = run.events.read_text().splitlines()
    position = next(
        n for n, line in enumerate(lines)
        if json.loads(line)["type"] == "StepFinished" and json.loads(line)["step"] == step
    )  # fmt: skip
    resumed = ev.RunResumed(step, "another judge")
    lines.insert(
        position + 1, codec.encode(ev.Record(position + 1, ev.current_timestamp(), resumed))
    )
    run.events.write_text("\n".join(lines) + "\n")


def test_a_comparison_leaves_out_the_steps_before_the_judge_changed(
    run: RunDirectory, tmp_path: Path
) -> None:
    other = RunDirectory(tmp_path / "outputs/other/20260101-000000")
    shutil.copytree(run.path, other.path)
    resume_with_another_judge(other, 30)
    comparison = compare_runs([run, other])
    assert any("B: After step 30 the judge" in warning for warning in comparison.warnings)
    curve = score_curve(comparison.runs[1], None)
    assert curve[:30] == [None] * 30
    assert None not in curve[30:]


def test_rescore_and_replay_judge_leave_out_the_steps_before_the_judge_changed(
    run: RunDirectory,
) -> None:
    rescored = rescore(
        run, parse_formula("weakest"), old_scale="batch", new_scale="batch", after_step=30
    )
    assert [step.step for step in rescored.steps] == list(range(31, 41))
    kinds = {row["prompt_id"]: "harmless" for row in rows(run)}
    drawn = draw_completions(run, kinds, count=None, seed=0, after_step=30)  # type: ignore[arg-type]
    assert min(c.finished.step for c in drawn.completions) == 31


def test_replay_judge_with_another_formula_compares_only_the_axes(
    run: RunDirectory,
) -> None:
    config = resolve(str(run.config), verify=False).config
    kinds = {prompt.id: prompt.kind for prompt in config.prompts.prompts}
    drawn = draw_completions(run, kinds, count=10, seed=0)
    with JudgeService(config.judge, config.rubric, config.prompts, key=None) as service:
        requests = build_requests(drawn.completions, kinds)
        result = rejudge(service, drawn.completions, requests, same_formula=False)
    assert [agreement.figure for agreement in result.agreements] == ["align", "risk", "detail"]
