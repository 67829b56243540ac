"""A run as a page: one value that both templates, HTML and Markdown, are filled from."""

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
    """Everything that is on it, in words. Text of models and judges is in here as they wrote it."""

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
    """The page of a run."""
    run, state = facts.run, facts.run.state
    listed, more = tables.alerts(state)
    offline = state.run is not None and state.run.judge == OFFLINE_JUDGE
    return Page(
        title=run.name,
        status=headline.status(facts),
        banner=headline.banner(facts),
        learned=headline.learned(facts),
        verdict=headline.verdict(facts),
        scored_by=f"Every score here is of the {OFFLINE_JUDGE}, a small set of rules: no model's opinion."
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
    """What to type to have this run again."""
    made = facts.made
    versions = " ".join(f"{name}=={version}" for name, version in made.packages)
    if versions:
        yield "# the versions that it ran with"
        yield f"pip install {versions}"
    yield "# the profile, every value written out: it is below, and config.yaml in the run's folder"
    yield "ida-tui --run config.yaml"
    if made.command:
        yield "# as it was typed"
        yield made.command
    where = shown_path(facts.run.directory.path)
    yield "# both models on held-out prompts, and this report"
    yield f"ida-tui evaluate {where}"
    yield f"ida-tui report {where}"


def _repeats(facts: Facts) -> Iterator[str]:
    """How far a second run will be the same."""
    run = facts.run.state.run
    if run is None:
        return
    if run.device != "cpu":
        yield (
            f"The seed, {run.seed}, fixes the prompts' order and the draws; on {run.device} the last bits of"
            " sums still differ from run to run, so that figures come out alike but not equal."
        )
        return
    if run.judge == OFFLINE_JUDGE:
        yield (
            f"On the CPU, with the same versions and the same kind of processor, seed {run.seed} gives the"
            " same weights, byte for byte."
        )
    else:
        yield (
            f"On the CPU, with the same versions and the same kind of processor, seed {run.seed} gives the"
            " same weights, byte for byte, where the judge says the same. A model may score otherwise the"
            " next time; verdicts that are still in the cache are repeated."
        )
    ended = facts.run.state.ended
    if facts.digest and ended is not None and ended.status == "done":
        yield f"SHA-256 of this run's adapter_model.safetensors: {facts.digest}"
