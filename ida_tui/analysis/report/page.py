"""Content of a report page, rendered by both the HTML and the Markdown template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ida_tui import __version__
from ida_tui.analysis.report import headline, samples, tables
from ida_tui.analysis.report.figures import Picture, pictures
from ida_tui.analysis.report.headline import Tile
from ida_tui.analysis.report.load import Facts
from ida_tui.analysis.report.samples import Both, Samples
from ida_tui.analysis.report.setup import Changed, Row, changed, setup
from ida_tui.analysis.report.tables import STEP_HEAD, Alert, Count, Kind, Part, Step
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.util.paths import shown_path


@dataclass(frozen=True, slots=True)
class Page:
    """All content of the page as text. Text from models and judges is not escaped here."""

    title: str
    status: str
    banner: str
    learned: str
    verdict: str
    scored_by: str
    tiles: tuple[Tile, ...]
    setup: tuple[Row, ...]
    changed: tuple[Changed, ...]
    pictures: tuple[Picture, ...]
    step_head: tuple[str, ...]
    steps: tuple[Step, ...]
    alerts: tuple[Alert, ...]
    more_alerts: int
    warnings: tuple[str, ...]
    evaluated: tuple[Kind, ...]
    about_evaluation: tuple[str, ...]
    counted: tuple[Count, ...]
    pairs: tuple[Both, ...]
    samples: tuple[Samples, ...]
    no_samples: str
    judge: tuple[Row, ...]
    memory: tuple[Row, ...]
    planned: tuple[Part, ...]
    commands: str
    repeats: tuple[str, ...]
    config: str
    written_by: str


def page(facts: Facts) -> Page:
    """The page content for a run."""
    run, state = facts.run, facts.run.state
    listed, more = tables.alerts(state)
    offline = state.run is not None and state.run.judge == OFFLINE_JUDGE
    return Page(
        title=run.name,
        status=headline.status(facts),
        banner=headline.banner(facts),
        learned=headline.learned(facts),
        verdict=headline.verdict(facts),
        scored_by=f"Scores come from the {OFFLINE_JUDGE}, a rule-based judge, not a model."
        if offline
        else f"Scored by {run.judge}.",
        tiles=tuple(headline.tiles(facts)),
        setup=tuple(setup(facts)),
        changed=tuple(changed(run.config)) if run.config is not None else (),
        pictures=tuple(pictures(facts)),
        step_head=STEP_HEAD,
        steps=tuple(tables.some_steps(state.steps)),
        alerts=tuple(listed),
        more_alerts=more,
        warnings=tuple(tables.warnings(state)),
        evaluated=tuple(tables.evaluated(facts)),
        about_evaluation=tuple(tables.about_evaluation(facts)),
        counted=tuple(tables.counted(state)),
        pairs=tuple(samples.pairs(facts)),
        samples=tuple(samples.lists(facts)),
        no_samples=samples.missing(facts),
        judge=tuple(tables.judge(facts)),
        memory=tuple(tables.memory(state)),
        planned=tuple(tables.planned(state)),
        commands="\n".join(_commands(facts)),
        repeats=tuple(_repeats(facts)),
        config=facts.config_text,
        written_by=f"ida-tui {__version__}",
    )


def _commands(facts: Facts) -> Iterator[str]:
    """Commands that reproduce the run."""
    provenance = facts.made
    versions = " ".join(f"{name}=={version}" for name, version in provenance.packages)
    if versions:
        yield "# package versions of this run"
        yield f"pip install {versions}"
    yield "# config.yaml is in the run directory, and below"
    yield "ida-tui --run config.yaml"
    if provenance.command:
        yield "# the original command"
        yield provenance.command
    run_path = shown_path(facts.run.directory.path)
    yield "# evaluate both models on held-out prompts, then write this report"
    yield f"ida-tui evaluate {run_path}"
    yield f"ida-tui report {run_path}"


def _repeats(facts: Facts) -> Iterator[str]:
    """Statements on how reproducible the run is."""
    run = facts.run.state.run
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
    else:
        yield (
            f"On the CPU, with the same package versions and processor type, seed {run.seed} gives the same"
            " weights, byte for byte, if the judge returns the same verdicts. A judge model may score"
            " differently next time; cached verdicts are reused."
        )
    ended = facts.run.state.ended
    if facts.digest and ended is not None and ended.status == "done":
        yield f"SHA-256 of adapter_model.safetensors: {facts.digest}"
