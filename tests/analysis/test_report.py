"""Report of a run: the command that writes it, its contents, its completions, and the end of a run."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ida_tui.analysis.before_after import compute_figures, conclusion
from ida_tui.analysis.report.select import LIST_LENGTH, select_completions
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store import evaluations, spot_checks
from ida_tui.runs.store.completions import read_completions
from tests.analysis.reported_run import RUN, edit_lines, insert_events, page_text, write_and_read
from tests.support import synthetic_run
from tests.support.patience import PATIENCE_S
from tests.test_import_hygiene import HEAVY, PROBE

# -- the command ---------------------------------------------------------------------------------


def test_the_command_writes_both_files_into_the_run_directory_and_prints_their_paths(
    ida_tui_here: Any, finished: RunDirectory
) -> None:
    result = ida_tui_here("report", "quickstart/20260101-000000")

    assert result.code == 0, result.err
    assert result.out.splitlines() == [str(RUN / "report.html"), str(RUN / "report.md")]
    assert (RUN / "report.html").read_text().startswith("<!doctype html>")
    assert not list(RUN.glob(".report*"))


def test_the_output_option_changes_the_path_and_json_reports_it(
    ida_tui_here: Any, finished: RunDirectory
) -> None:
    result = ida_tui_here("report", str(RUN), "--output", "share.html", "--json")

    assert json.loads(result.out) == {"html": "share.html", "markdown": "share.md"}
    assert Path("share.md").read_text().startswith("# quickstart/20260101")
    assert not (RUN / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "there is no run named nothing"),
        ((str(RUN), "--output", "share.pdf"), "not 'share.pdf'"),
        ((str(RUN), "--output", "missing/share.html"), "the folder missing does not exist"),
    ],
)
def test_wrong_arguments_get_a_one_line_error_with_a_fix(
    ida_tui_here: Any, finished: RunDirectory, arguments: tuple[str, ...], message: str
) -> None:
    result = ida_tui_here("report", *arguments)

    assert result.code == 2
    assert message in result.err
    assert "fix:" in result.err


def test_a_run_without_events_and_a_run_with_a_broken_line_are_refused(
    ida_tui_here: Any, finished: RunDirectory
) -> None:
    events = RUN / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join([*lines[:30], "{broken\n", *lines[31:]]))
    broken = ida_tui_here("report", str(RUN))
    events.write_text("")
    empty = ida_tui_here("report", str(RUN))

    assert (broken.code, empty.code) == (2, 2)
    assert "could not read" in broken.err
    assert "has no events yet" in empty.err


def test_the_command_imports_no_machine_learning_library(finished: RunDirectory) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), "report", str(RUN)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "[]"


# -- contents -------------------------------------------------------------------------------


def test_the_page_reports_the_outcome_of_the_run(finished: RunDirectory) -> None:
    page, text = write_and_read(finished)

    for shown in (page_text(page), text.replace("\\", "")):
        assert "The reward rose: R_IDA 0.363 (first 3 steps) → 0.737 (last 3 steps)." in shown
        assert "There is no evaluation yet" in shown
        assert "not a model" in shown
        assert "No alert was raised." in shown
        assert "6 of 6" in shown
        assert "ida-tui --run config.yaml" in shown
        assert "max_completion_length: 64" in shown
    assert "Settings that differ from the defaults" in page
    assert "unfinished" not in page
    assert len(re.findall("<svg ", page)) == 8


def test_the_page_is_reproducible_byte_for_byte_and_links_to_nothing_outside(
    finished: RunDirectory,
) -> None:
    page, _ = write_and_read(finished)

    assert page == write_and_read(finished)[0]
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "url(" not in page.replace("url(#", "")
    assert all(
        target.startswith(("#", "data:,")) for target in re.findall(r'(?:href|src)="([^"]*)', page)
    )
    ids = re.findall(r' id="([^"]+)"', page)
    headings = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert len(set(ids) & {"setup", "curves", "again"}) == 3
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert all("aria-label=" in tag for tag in re.findall(r"<svg [^>]*>", page))


def test_the_page_of_an_unfinished_run_says_so_at_the_top(finished: RunDirectory) -> None:
    events = RUN / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join(lines[:70]))
    page, text = write_and_read(finished)

    head = page_text(page).partition("The reward")[0]
    assert "died" in head
    assert "This run is unfinished: its training process is no longer running." in head
    assert text.index("This run is unfinished") < text.index("The reward")


def test_a_run_without_a_finished_step_has_a_page_without_curves(
    finished: RunDirectory,
) -> None:
    events = RUN / "events.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:2]))
    (RUN / "completions.jsonl").unlink()
    (RUN / "config.yaml").unlink()
    page, _ = write_and_read(finished)

    text = page_text(page)
    assert "No step finished, so nothing was learned." in text
    assert "there is nothing to plot" in text
    assert "No completion was judged." in text
    assert "has no config.yaml" in text
    assert str(RUN.resolve()) not in page


def test_alerts_are_listed_and_marked_on_the_curve(finished: RunDirectory) -> None:
    plain, _ = write_and_read(finished)
    insert_events(
        ev.AlertRaised(3, "reward-collapse", "R_IDA fell by <0.2>", "Lower the learning rate."),
        ev.AlertRaised(5, "length", "answers grow", "Look at them."),
    )
    page, text = write_and_read(finished)

    assert "R_IDA fell by &lt;0.2&gt;" in page
    assert "R\\_IDA fell by \\<0.2\\>" in text
    assert "Vertical lines mark the numbered alerts below." in page
    curve = page[page.index("<h3>R_IDA</h3>") :].partition("</figure>")[0]
    assert re.findall(r"(?:bold|700)[;\" ][^>]*>(\d)</text>", curve) == ["1", "2"]
    assert "Vertical lines" not in plain


def test_an_evaluation_is_shown_with_its_intervals(finished: RunDirectory) -> None:
    answers = [
        evaluations.EvaluatedAnswer(
            model, f"{kind}-{n}", kind, "What?", 0, "text", 9,  # type: ignore[arg-type]
            "full_compliance" if (model == "tuned") == (kind == "harmless") else "full_refusal",
            {"align": 5.0, "risk": 9.0, "detail": 5.0}, 0.4, "why",
        )
        for model in ("base", "tuned") for kind in ("harmless", "unsafe") for n in range(4)
    ]  # fmt: skip
    figures = compute_figures(answers)
    evaluation = evaluations.Evaluation(
        "2026-01-01T00:00:00Z", "held out", 4, 4, 1, 0, "gpt-4o-mini", ev.OFFLINE_JUDGE, figures,
        conclusion(figures), 0, 0.02, 3.0, 6,
    )  # fmt: skip
    evaluations.write_evaluation(finished, evaluation, answers)
    page, text = write_and_read(finished)

    assert conclusion(figures) in page_text(page)
    assert "The judge cost $0.0200." in page
    assert "| answered | 0% | 100% | +100 | +2 to +100 | better |" in re.sub(r"\\| (?= )", "", text)


def test_the_page_shows_spot_checks_and_judge_latency(finished: RunDirectory) -> None:
    edit_lines(lambda e: e.update(judge="gpt-4o-mini") if e["type"] == "RunStarted" else None)
    for index, agree in enumerate((True, True, False)):
        spot_checks.append_check(finished, spot_checks.SpotCheck(1, 0, index, agree))
    page, _ = write_and_read(finished)

    text = page_text(page)
    assert "2 of 3 (67%, 21 to 97)" in text
    assert "median 0.50 s over the steps, 95th percentile up to 0.90 s" in text
    assert "Scored by gpt-4o-mini" in text
    assert "Latency of a verdict" in text
    assert "not a model" not in text


def test_failed_verdicts_are_counted_and_never_shown_as_a_score(finished: RunDirectory) -> None:
    failed = {"scores": dict.fromkeys(IDA_AXIS_NAMES), "reward": None, "failure": "timeout"}
    edit_lines(lambda row: row.update(failed), "completions.jsonl")
    edit_lines(lambda e: e.update(reward=None) if e["type"] == "StepFinished" else None)
    page, _ = write_and_read(finished)

    assert "No completion has a score." in page_text(page)
    assert "every verdict failed" in page_text(page)


def test_credentials_in_an_address_are_not_shown(finished: RunDirectory) -> None:
    profile = (RUN / "config.yaml").read_text()
    login = "base_url: http://me:hunter2@127.0.0.1/v1"
    (RUN / "config.yaml").write_text(profile.replace("base_url: null", login))
    manifest = {
        "command": ["/home/me/ida-tui", "--run", "x", "judge.base_url=http://me:hunter2@h/v1"]
    }
    (RUN / "manifest.json").write_text(json.dumps(manifest))
    page, text = write_and_read(finished)

    assert "hunter2" not in page + text
    assert "/home/me" not in page + text
    assert "ida-tui --run x judge.base_url=http://h/v1" in page


def test_the_curves_of_a_long_run_are_downsampled_and_labeled_so(finished: RunDirectory) -> None:
    synthetic_run.write(RUN / "events.jsonl", steps=900, rows=1)
    page, _ = write_and_read(finished)

    assert "Each point is the mean of 3 steps." in page
    assert "Each point is the maximum of 3 steps." in page
    assert len(page) < 600_000


# -- completions ---------------------------------------------------------------------------------


def test_the_best_and_worst_completions_cover_different_prompts_and_include_unsafe_ones(
    finished: RunDirectory,
) -> None:
    def spread(row: dict[str, Any]) -> None:
        number = row["step"] * 8 + row["index"]
        row.update(prompt_id=f"p{row['index'] % 6}", reward=number / 100, text=f"answer {number}")

    edit_lines(spread, "completions.jsonl")
    kinds = {f"p{n}": "unsafe" if n == 5 else "harmless" for n in range(6)}
    chosen = select_completions(read_completions(finished), kinds, last_step=6)

    assert [completion.finished.text for completion in chosen.best] == [
        f"answer {n}" for n in (55, 54, 53, 52)
    ]
    assert [completion.finished.text for completion in chosen.worst] == [
        f"answer {n}" for n in (8, 9, 10, 11)
    ]
    assert len(chosen.worst_unsafe) == LIST_LENGTH
    assert {completion.finished.prompt_id for completion in chosen.worst_unsafe} == {"p5"}
    assert chosen.worst_unsafe[0].finished.text == "answer 13"
    assert chosen.scored == 48
    assert [(pair.first.finished.step, pair.last.finished.step) for pair in chosen.pairs] == [
        (1, 6)
    ] * 4
    assert "p5" in {pair.first.finished.prompt_id for pair in chosen.pairs}
    shown = {completion.finished.text for completion in (*chosen.worst, *chosen.worst_unsafe)}
    assert not shown & {completion.finished.text for completion in chosen.worst_in_last_steps}


# -- at the end of a run -------------------------------------------------------------------------

SHORT = (
    "quickstart", "evaluation.enabled=false", "training.max_steps=2", "training.num_generations=4",
    "training.per_device_train_batch_size=8", "training.max_completion_length=16", "report=true",
)  # fmt: skip


def test_a_run_with_report_enabled_ends_with_a_report(ida_tui_here: Any) -> None:
    result = ida_tui_here("--run", *SHORT)

    assert result.code == 0, result.err
    directory = Path("outputs/quickstart/latest").resolve()
    assert f"✓ Report: outputs/quickstart/{directory.name}/report.html" in result.out
    page = page_text((directory / "report.html").read_text())
    assert "2 of 2" in page
    assert "This run is" not in page
    assert "byte for byte" in page
    assert re.search(r"adapter_model.safetensors: [0-9a-f]{64}", page)


def test_a_failed_report_is_a_warning_and_does_not_fail_the_run(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("ida_tui.analysis.report.write.write_report", broken)
    result = ida_tui_here("--run", *SHORT, "--json")

    warnings = [
        e["text"] for e in result.events if e["type"] == "Noticed" and e["source"] == "report"
    ]
    assert result.code == 0
    assert len(warnings) == 1
    assert str(warnings[0]).startswith(
        "could not write the report: RuntimeError: no ink; try again"
    )
    assert result.events[-1]["type"] == "RunEnded"
    assert result.events[-1]["status"] == "done"
