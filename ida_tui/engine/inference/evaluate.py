"""Judged evaluation of the base model against the trained model on a set of prompts.

Both models' answers are shuffled and scored by the run's judge. `evaluate` does it for a finished run; a run
whose profile has ``evaluation.judged`` ends with `judge_answers` and `build_evaluation`.
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
"""Added to the seed, so that the evaluation and the training use different random numbers."""
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
    """Evaluate the base model and the trained model of a run on a set of prompts.

    Args:
        config: the run's profile, with the judge that scores.
        trained: the run's weights.
        prompt_set: the prompts.
        samples: answers of each model to each prompt.
        seed: seed of the sampling, the same for both models, and of the order of judging.
        key: the judge's API key, or None if it needs none.
        notes: notes to save with the evaluation.
        on_progress: receives progress lines.

    Raises:
        IdaError: the device, the weights or the judge cannot be used.
    """
    started = time.monotonic()
    spent = found.state.judge.cost or 0.0
    with (
        quiet.captured(lambda notice: tell(f"! {notice.text}")),
        JudgeService(
            config.judge, config.rubric, config.prompts, key=key, purse=Purse(config.budget, spent)
        ) as service,
    ):
        service.look().result()
        both = sample_both(config, found, chosen, samples=samples, seeds=(seed, seed), tell=tell)
        tell(f"judging {sum(map(len, both.values()))} answers with {service.label}")
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
    """Generate the answers of both models; only one model is in memory at a time.

    Args:
        config: the run's profile.
        trained: the trained weights; None has the base model answer twice.
        prompt_set: the prompts.
        samples: answers to each prompt.
        seeds: seeds of the sampling, for the base model and the trained model.
        on_progress: receives progress lines.

    Raises:
        IdaError: the device or the weights cannot be used.
    """
    chosen_device = tuned.device_for(config)
    recipe = precision.recipe(config, chosen_device)
    tokenizer = weights.load_tokenizer(config.model)
    answers: dict[Model, list[Sampled]] = {}

    def ask(name: Model, model: Any) -> None:
        started = time.monotonic()
        answers[name] = answer(
            model,
            tokenizer,
            config,
            chosen_device,
            chosen.prompts,
            samples=samples,
            seed=seeds[MODELS.index(name)] + SEED_OFFSET,
        )
        label = "base model" if name == "base" else "trained model"
        tell(f"{label}: {len(answers[name])} answers in {time.monotonic() - started:.1f} s")

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
        full_model = tuned.whole(config, found.path)
        ask("tuned", weights.load_model(full_model, recipe.weights).to(chosen_device))
    return answers


def judge(
    service: JudgeService,
    both: Both,
    *,
    seed: int,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[list[Answer], BatchStats]:
    """Have the answers of both models scored blind: shuffled, without naming the model.

    Args:
        service: the judge.
        answers_by_model: the answers of each model.
        seed: seed of the shuffled order.
        should_stop: polled while judge calls are pending; true interrupts.

    Returns:
        The answers with their scores, base before tuned, and the figures of the judging.

    Raises:
        JudgeInterrupted: `should_stop` returned true.
        JudgeUnavailable: the judge cannot be used, or would exceed the budget; verdicts received so far
            are in its cache.
    """
    rows = [(model, sampled) for model in MODELS for sampled in both[model]]
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    verdicts, stats = service.score_batch(
        questions_of([rows[row][1] for row in order]), should_stop=should_stop
    )
    verdict_of = dict(zip(order, verdicts, strict=True))
    answers = []
    for row, (model, sampled) in enumerate(rows):
        scored = verdict_of[row]
        answers.append(
            Answer(
                model=model,
                prompt_id=sampled.prompt.id,
                kind=sampled.prompt.kind,
                prompt=sampled.prompt.text,
                sample=sampled.sample,
                text=sampled.text,
                tokens=sampled.tokens,
                refusal=classify(sampled.text),
                align=scored.align,
                risk=scored.risk,
                detail=scored.detail,
                r_ida=scored.r_ida,
                reason=scored.reason
                if scored.failure is None
                else f"failed verdict: {scored.failure}",
            )
        )
    return answers, stats


def questions_of(answers: Sequence[Sampled]) -> list[Question]:
    """One judge request per answer, in this order; identical answers to a prompt get separate verdicts."""
    counts: dict[tuple[str, str], int] = {}
    questions = []
    for sampled in answers:
        repeat = counts.get((sampled.prompt.id, sampled.text), 0)
        counts[sampled.prompt.id, sampled.text] = repeat + 1
        questions.append(
            Question(
                sampled.prompt.id, sampled.prompt.text, sampled.prompt.kind, sampled.text, repeat
            )
        )
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
    """The evaluation of judged answers: its figures and its verdict in words."""
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
