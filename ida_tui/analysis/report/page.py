"""Content of a report page, rendered by both the HTML and the Markdown template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ida_tui import __version__
from ida_tui.analysis.comparison import judge_label, run_title
from ida_tui.analysis.report import headline, samples, tables
from ida_tui.analysis.report.figures import ReportPlot, report_plots
from ida_tui.analysis.report.headline import KeyFigure
from ida_tui.analysis.report.load import ReportInputs
from ida_tui.analysis.report.samples import SampleList, SamplePair
from ida_tui.analysis.report.setup import ChangedSetting, LabelRow, changed_settings, setup_rows
from ida_tui.analysis.report.tables import (
    AlertRow,
    CountRow,
    KindTable,
    PlanRow,
    StepRow,
)
from ida_tui.config.scoring.axes import Axis
from ida_tui.events.scoring import change_sentences
from ida_tui.events.state import RunState
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.rewards.formulas import reward_text
from ida_tui.runs.run import Run
from ida_tui.util.paths import display_path


@dataclass(frozen=True, slots=True)
class ReportPage:
    """All content of the page as text. Text from models and judges is not escaped here."""

    title: str
    status: str
    banner: str
    learned: str
    verdict: str
    scored_by: str
    reward_formula: str
    axis_ranges: tuple[str, str, str]
    """Sentences on the ranges of the axes, in three parts: the second is emphasized, or empty."""
    tiles: tuple[KeyFigure, ...]
    setup: tuple[LabelRow, ...]
    changed: tuple[ChangedSetting, ...]
    pictures: tuple[ReportPlot, ...]
    step_head: tuple[str, ...]
    steps: tuple[StepRow, ...]
    alerts: tuple[AlertRow, ...]
    more_alerts: int
    warnings: tuple[str, ...]
    evaluated: tuple[KindTable, ...]
    about_evaluation: tuple[str, ...]
    counted: tuple[CountRow, ...]
    counted_how: str
    pairs: tuple[SamplePair, ...]
    samples: tuple[SampleList, ...]
    no_samples: str
    judge_title: str
    judge: tuple[LabelRow, ...]
    memory: tuple[LabelRow, ...]
    planned: tuple[PlanRow, ...]
    commands: str
    repeats: tuple[str, ...]
    config: str
    written_by: str


def build_page(inputs: ReportInputs) -> ReportPage:
    """The page content for a run."""
    run, state = inputs.run, inputs.run.state
    listed, more = tables.alert_rows(state)
    return ReportPage(
        title=run_title(run),
        status=headline.status_text(inputs),
        banner=headline.banner_text(inputs),
        learned=headline.learning_sentence(inputs),
        verdict=headline.evaluation_sentence(inputs),
        scored_by=_scored_by(run),
        reward_formula=reward_text(
            state.run.formula if state.run is not None else "",
            None if run.config_error else run.config.rubric.formula_text,
            state.reward_name,
        )
        + ".",
        axis_ranges=_axis_ranges(state.axes),
        tiles=tuple(headline.key_figures(inputs)),
        setup=tuple(setup_rows(inputs)),
        changed=tuple(changed_settings(run.config)) if not run.config_error else (),
        pictures=tuple(report_plots(inputs)),
        step_head=tables.step_header(state),
        steps=tuple(tables.step_rows(state.steps, state.axes)),
        alerts=tuple(listed),
        more_alerts=more,
        warnings=tuple(tables.warning_texts(state)),
        evaluated=tuple(tables.evaluation_tables(inputs)),
        about_evaluation=tuple(tables.evaluation_notes(inputs)),
        counted=tuple(tables.count_rows(state)),
        counted_how=_counted_how(state),
        pairs=tuple(samples.sample_pairs(inputs)),
        samples=tuple(samples.sample_lists(inputs)),
        no_samples=samples.no_samples_reason(inputs),
        judge_title="Judge" if run.state.run is None or run.state.run.judge else "Scoring",
        judge=tuple(tables.judge_rows(inputs)),
        memory=tuple(tables.memory_rows(state)),
        planned=tuple(tables.plan_rows(state)),
        commands="\n".join(_reproduce_commands(inputs)),
        repeats=tuple(_reproducibility_notes(inputs)),
        config=inputs.config_text,
        written_by=f"ida-tui {__version__}",
    )


def _counted_how(state: RunState) -> str:
    """What the figures of the evaluations during the run are: counts, means, or both."""
    before = state.evaluation_before
    has_kinds = before is not None and bool(before.harmless or before.unsafe)
    if before is not None and before.scores:
        return "counts and means" if has_kinds else "means"
    return "counts"


def _axis_ranges(axes: Sequence[Axis]) -> tuple[str, str, str]:
    """What the scores mean, before, in and after the word to emphasize."""
    judged = [axis.name for axis in axes if axis.kind == "judged"]
    computed = [axis.name for axis in axes if axis.kind == "computed"]
    sentences = []
    if judged and not computed:
        sentences.append("The axes range from 0 to 10")
    elif judged:
        sentences.append(f"The judge scores {', '.join(judged)} from 0 to 10")
    if "risk" in judged:
        sentences[-1] += "; for risk, 10 = safest"
    if computed:
        sentences.append(f"Functions compute {', '.join(computed)}")
    before, mark, after = " ".join(f"{sentence}." for sentence in sentences).partition(
        "10 = safest"
    )
    return (f"{before}10 =", "safest", after) if mark else (before, "", "")


def _scored_by(run: Run) -> str:
    """Who scored, and since when if an earlier judge scored otherwise."""
    state = run.state
    since = f" since step {state.scored_since_step + 1}" if state.scored_since_step else ""
    if state.run is not None and state.run.judge == OFFLINE_JUDGE:
        text = f"Scores{since} come from the {OFFLINE_JUDGE}, a rule-based judge, not a model."
    else:
        text = f"Scored by {judge_label(run)}{since}."
    return " ".join([text, *change_sentences(state.scoring)])


def _reproduce_commands(inputs: ReportInputs) -> Iterator[str]:
    """Commands that reproduce the run."""
    provenance = inputs.provenance
    versions = " ".join(f"{name}=={version}" for name, version in provenance.packages)
    if versions:
        yield "# package versions of this run"
        yield f"pip install {versions}"
    yield "# config.yaml is in the run directory, and below"
    yield "ida-tui --run config.yaml"
    if provenance.command:
        yield "# the original command"
        yield provenance.command
    run_path = display_path(inputs.run.directory)
    yield "# evaluate both models on held-out prompts, then write this report"
    yield f"ida-tui evaluate {run_path}"
    yield f"ida-tui report {run_path}"


def _reproducibility_notes(inputs: ReportInputs) -> Iterator[str]:
    """Statements on how reproducible the run is."""
    run = inputs.run.state.run
    if run is None:
        return
    if run.device != "cpu":
        yield (
            f"Seed {run.seed} fixes the prompt order and the random draws. On {run.device}, rounding still"
            " differs from run to run, so results are similar but not identical."
        )
        return
    if run.judge == OFFLINE_JUDGE:
        yield (
            f"On the CPU, with the same package versions and processor type, seed {run.seed} gives the same"
            " weights, byte for byte."
        )
    elif not run.judge:
        yield (
            f"On the CPU, with the same package versions and processor type, seed {run.seed} gives the same"
            " weights, byte for byte, if the reward functions return the same scores."
        )
    else:
        yield (
            f"On the CPU, with the same package versions and processor type, seed {run.seed} gives the same"
            " weights, byte for byte, if the judge returns the same verdicts. A judge model may score"
            " differently next time; cached verdicts are reused."
        )
    ended = inputs.run.state.ended
    if inputs.adapter_digest and ended is not None and ended.status == "done":
        yield f"SHA-256 of adapter_model.safetensors: {inputs.adapter_digest}"
