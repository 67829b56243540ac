"""Before and after, judged: both models' answers, shuffled, scored by the run's own judge.

`evaluate` does it for a run that lies on the disk; the judging and counting of it (`judge`,
`evaluation_of`) also closes a run whose profile has ``evaluation.judged``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ida_tui.analysis.before_after import figures_of, verdict
from ida_tui.config import precision
from ida_tui.config.prompt_files import Chosen
from ida_tui.config.schema import Config
from ida_tui.engine import quiet
from ida_tui.engine.device import device as devices
from ida_tui.engine.inference.generate import Sampled, answer
from ida_tui.engine.model import load as weights
from ida_tui.engine.model import trained as tuned
from ida_tui.events.types import OFFLINE_JUDGE, now
from ida_tui.judge.backends.offline.refusal import classify
from ida_tui.judge.budget import Purse
from ida_tui.judge.service import JudgeService
from ida_tui.judge.verdict import BatchStats, Question
from ida_tui.runs.store.evaluations import Answer, Evaluation, Model
from ida_tui.runs.weights import Trained

SEED_OFFSET = 1_000_003
"""Keeps the evaluation's random numbers apart from the training's."""
MODELS: tuple[Model, Model] = ("base", "tuned")
Both = Mapping[Model, Sequence[Sampled]]


def evaluate(
    config: Config,
    found: Trained,
    chosen: Chosen,
    *,
    samples: int,
    seed: int,
    key: str | None,
    notes: Sequence[str] = (),
    tell: Callable[[str], object] = lambda line: None,
) -> tuple[Evaluation, list[Answer]]:
    """The untrained and the trained model of a run on some prompts.

    Args:
        config: the run's profile, with the judge that scores.
        found: the run's weights.
        chosen: the prompts.
        samples: answers of each model to each prompt.
        seed: of the sampling, the same for both, and of the order in which answers are judged.
        key: the judge's API key, where it needs one.
        notes: kept with the evaluation.
        tell: takes a line about what is going on.

    Raises:
        IdaError: the device, the weights or the judge cannot be used.
    """
    started = time.monotonic()
    spent = found.state.judge.cost or 0.0
    with (
        quiet.captured(lambda noticed: tell(f"! {noticed.text}")),
        JudgeService(
            config.judge, config.rubric, config.prompts, key=key, purse=Purse(config.budget, spent)
        ) as service,
    ):
        service.look().result()
        both = sample_both(config, found, chosen, samples=samples, seeds=(seed, seed), tell=tell)
        tell(f"{sum(map(len, both.values()))} answers go to the judge: {service.label}")
        answers, stats = judge(service, both, seed=seed)
        for warning in service.warnings:
            tell(f"! {warning}")
        label = service.label
    evaluation = evaluation_of(
        answers,
        prompts=chosen.name,
        samples=samples,
        seed=seed,
        judge=label,
        cost=stats.cost,
        seconds=time.monotonic() - started,
        step=found.step,
        notes=notes,
    )
    return evaluation, answers


def sample_both(
    config: Config,
    found: Trained | None,
    chosen: Chosen,
    *,
    samples: int,
    seeds: tuple[int, int],
    tell: Callable[[str], object] = lambda line: None,
) -> dict[Model, list[Sampled]]:
    """The answers of both models; they are never in memory at once.

    Args:
        config: the run's profile.
        found: the trained weights; None has the untrained model answer twice.
        chosen: the prompts.
        samples: answers to each.
        seeds: of the sampling, for the untrained and the trained model.
        tell: takes a line about what is going on.

    Raises:
        IdaError: the device or the weights cannot be used.
    """
    chosen_device = tuned.device_for(config)
    recipe = precision.recipe(config, chosen_device)
    tokenizer = weights.load_tokenizer(config.model)
    answers: dict[Model, list[Sampled]] = {}

    def ask(which: Model, model: Any) -> None:
        started = time.monotonic()
        answers[which] = answer(
            model,
            tokenizer,
            config,
            chosen_device,
            chosen.prompts,
            samples=samples,
            seed=seeds[MODELS.index(which)] + SEED_OFFSET,
        )
        who = "the untrained model" if which == "base" else "the trained model"
        tell(f"{who}: {len(answers[which])} answers in {time.monotonic() - started:.1f} s")

    base = weights.load_model(config.model, recipe.weights).to(chosen_device)
    if found is None:
        ask("base", base)
        ask("tuned", base)
    elif config.training.method == "lora":
        model = tuned.with_adapter(base, found.path)
        with model.disable_adapter():
            ask("base", model)
        ask("tuned", model)
    else:
        ask("base", base)
        del base
        devices.give_back(chosen_device)
        whole = tuned.whole(config, found.path)
        ask("tuned", weights.load_model(whole, recipe.weights).to(chosen_device))
    return answers


def judge(
    service: JudgeService,
    both: Both,
    *,
    seed: int,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[list[Answer], BatchStats]:
    """Have the answers of both models scored, blind: shuffled, and without a word on who wrote which.

    Args:
        service: the judge.
        both: the answers.
        seed: of the order.
        should_stop: polled while calls are out.

    Returns:
        The answers with their scores, base before tuned, and the figures of the judging.

    Raises:
        JudgeInterrupted: `should_stop` said so.
        JudgeUnavailable: the judge cannot be used, or would cost more than the budget; verdicts that were
            paid for are in its cache.
    """
    rows = [(model, one) for model in MODELS for one in both[model]]
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    verdicts, stats = service.score_batch(
        questions_of([rows[row][1] for row in order]), should_stop=should_stop
    )
    verdict_of = dict(zip(order, verdicts, strict=True))
    answers = []
    for row, (model, one) in enumerate(rows):
        said = verdict_of[row]
        answers.append(
            Answer(
                model=model,
                prompt_id=one.prompt.id,
                kind=one.prompt.kind,
                prompt=one.prompt.text,
                sample=one.sample,
                text=one.text,
                tokens=one.tokens,
                refusal=classify(one.text),
                align=said.align,
                risk=said.risk,
                detail=said.detail,
                r_ida=said.r_ida,
                reason=said.reason if said.failure is None else f"no verdict: {said.failure}",
            )
        )
    return answers, stats


def questions_of(answers: Sequence[Sampled]) -> list[Question]:
    """What the judge is asked, in this order; equal answers to a prompt stay separate opinions."""
    seen: dict[tuple[str, str], int] = {}
    questions = []
    for one in answers:
        times = seen.get((one.prompt.id, one.text), 0)
        seen[one.prompt.id, one.text] = times + 1
        questions.append(Question(one.prompt.id, one.prompt.text, one.prompt.kind, one.text, times))
    return questions


def evaluation_of(
    answers: Sequence[Answer],
    *,
    prompts: str,
    samples: int,
    seed: int,
    judge: str,
    cost: float | None,
    seconds: float,
    step: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """The figures of judged answers, and what they mean."""
    kinds = {answer.prompt_id: answer.kind for answer in answers}
    figures = figures_of(answers, seed=seed)
    return Evaluation(
        made_at=now(),
        prompts=prompts,
        harmless=sum(kind == "harmless" for kind in kinds.values()),
        unsafe=sum(kind == "unsafe" for kind in kinds.values()),
        samples=samples,
        seed=seed,
        judge=judge,
        classifier=OFFLINE_JUDGE,
        figures=figures,
        verdict=verdict(figures),
        unscored=sum(answer.r_ida is None for answer in answers),
        cost=cost,
        seconds=round(seconds, 3),
        step=step,
        notes=tuple(notes),
    )
