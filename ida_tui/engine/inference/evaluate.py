"""Judged evaluation of the base model against the trained model on a set of prompts.

Both models' answers are shuffled and scored by the run's judge. `evaluate` does it for a finished run; a run
whose profile has `evaluation.judged` ends with `judge_answers` and `build_evaluation`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ida_tui.analysis.before_after import compute_figures, conclusion
from ida_tui.config import precision
from ida_tui.config.conversation import chat_messages
from ida_tui.config.prompt_files import EvaluationPrompts
from ida_tui.config.prompts import shared_columns
from ida_tui.config.schema import Config, JudgeKey, RubricConfig
from ida_tui.engine import libraries
from ida_tui.engine.device.device import free_memory
from ida_tui.engine.inference.everyday import EverydayCheck
from ida_tui.engine.inference.generate import GeneratedAnswer, generate_answers
from ida_tui.engine.model import load
from ida_tui.engine.model.finite_outputs import require_finite_outputs
from ida_tui.engine.model.trained import (
    attach_adapter,
    full_model_config,
    prepare_device,
    require_memory,
)
from ida_tui.events.everyday import everyday_sentence
from ida_tui.events.types import OFFLINE_JUDGE, current_timestamp
from ida_tui.events.values import EverydayFigures
from ida_tui.judge.backends.offline.refusal import classify_refusal, unclassified_note
from ida_tui.judge.budget import Budget
from ida_tui.judge.errors import JudgeInterrupted
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from ida_tui.judge.verdict import BatchStats, JudgeRequest
from ida_tui.planning.inference_memory import plan_evaluation
from ida_tui.rewards.functions import RewardFunctions, RewardRow
from ida_tui.rewards.rows import TokenIds
from ida_tui.runs.store.baseline import EverydayAnswer
from ida_tui.runs.store.evaluations import ComparedModel, EvaluatedAnswer, Evaluation
from ida_tui.runs.weights import TrainedWeights
from ida_tui.util.format import format_count
from ida_tui.util.plugin_threads import PluginStopped

SEED_OFFSET = 1_000_003
"""Added to the seed, so that the evaluation and the training use different random numbers."""
MODELS: tuple[ComparedModel, ComparedModel] = ("base", "tuned")
ModelAnswers = Mapping[ComparedModel, Sequence[GeneratedAnswer]]


def evaluate(
    config: Config,
    trained: TrainedWeights,
    prompt_set: EvaluationPrompts,
    *,
    samples: int,
    seed: int,
    key: JudgeKey,
    budget: Budget | None = None,
    notes: Sequence[str] = (),
    on_progress: Callable[[str], object] = lambda line: None,
) -> tuple[Evaluation, list[EvaluatedAnswer]]:
    """Evaluate the base model and the trained model of a run on a set of prompts.

    Args:
        config: the run's profile, with the judge that scores.
        trained: the run's weights.
        prompt_set: the prompts.
        samples: answers of each model to each prompt.
        seed: seed of the sampling, the same for both models, and of the order of judging.
        key: the judge's API key, or None if it needs none.
        budget: what the judge may cost; None is unlimited.
        notes: notes to save with the evaluation.
        on_progress: receives progress lines.

    Raises:
        IdaError: the device, the weights or the judge cannot be used.
    """
    started = time.monotonic()
    with (
        libraries.capture_library_output(lambda notice: on_progress(f"! {notice.text}")),
        JudgeService(
            config.judge,
            config.rubric,
            config.prompts,
            key=key,
            options=JudgeServiceOptions(budget=budget),
        ) as service,
    ):
        functions = _load_functions(config, prompt_set)
        service.probe_endpoint().result()
        answers_by_model, everyday = generate_pairs(
            config,
            trained,
            prompt_set,
            samples=samples,
            seeds=(seed, seed),
            on_progress=on_progress,
        )
        scorer = service.label or "the reward functions"
        count = sum(map(len, answers_by_model.values()))
        on_progress(
            f"{'judging' if service.label else 'scoring'} {format_count(count, 'answer')} with {scorer}"
        )
        needs_ids = functions is not None and functions.needs_token_ids
        answers, stats = judge_answers(
            service,
            answers_by_model,
            seed=seed,
            functions=functions,
            token_ids=load.local_token_ids(config.model) if needs_ids else None,
        )
        for warning in service.warnings:
            on_progress(f"! {warning}")
        label = service.label
    evaluation = build_evaluation(
        answers,
        rubric=config.rubric,
        prompts=prompt_set.name,
        samples=samples,
        seed=seed,
        judge=label,
        cost=stats.cost,
        seconds=time.monotonic() - started,
        step=trained.step,
        notes=notes,
        everyday=everyday,
    )
    return evaluation, answers


def _load_functions(config: Config, prompt_set: EvaluationPrompts) -> RewardFunctions | None:
    """The reward functions of a rubric; None without any.

    Raises:
        IdaError: a function cannot be imported, or needs a column that the prompts do not have.
    """
    if not config.rubric.computed_axes:
        return None
    return RewardFunctions(config.rubric, columns=shared_columns(prompt_set.prompts))


def generate_pairs(
    config: Config,
    trained: TrainedWeights | None,
    prompt_set: EvaluationPrompts,
    *,
    samples: int,
    seeds: tuple[int, int],
    on_progress: Callable[[str], object] = lambda line: None,
) -> tuple[dict[ComparedModel, list[GeneratedAnswer]], EverydayFigures | None]:
    """Generate the answers of both models; only one model is in memory at a time.

    Args:
        config: the run's profile.
        trained: the trained weights; None has the base model answer twice.
        prompt_set: the prompts.
        samples: answers to each prompt.
        seeds: seeds of the sampling, for the base model and the trained model.
        on_progress: receives progress lines.

    Returns:
        The answers of each model, and the figures of the everyday questions if the profile asks them.

    Raises:
        IdaError: the device or the weights cannot be used.
    """
    device = prepare_device(config)
    planned = plan_evaluation(config, device, prompt_set.prompts, samples)
    if warning := require_memory(planned, config, device, "evaluation"):
        on_progress(f"! {warning}")
    recipe = precision.resolve_precision(config, device)
    tokenizer = load.load_tokenizer(config.model)
    answers: dict[ComparedModel, list[GeneratedAnswer]] = {}
    check = EverydayCheck(config, tokenizer, device) if config.evaluation.everyday else None
    everyday: list[EverydayAnswer] = []
    compared: EverydayFigures | None = None

    def answer_with(name: ComparedModel, model: Any) -> None:
        started = time.monotonic()
        answers[name] = generate_answers(
            model,
            tokenizer,
            config,
            device,
            prompt_set.prompts,
            samples=samples,
            seed=seeds[MODELS.index(name)] + SEED_OFFSET,
        )
        label = "base model" if name == "base" else "trained model"
        made = format_count(len(answers[name]), "answer")
        on_progress(f"{label}: {made} in {time.monotonic() - started:.1f} s")
        if check is not None:
            questions = format_count(config.evaluation.everyday, "everyday question")
            on_progress(f"{label}: answering {questions}…")
        if check is not None and name == "base":
            everyday.extend(check.answer(model))
        elif check is not None:
            nonlocal compared
            compared = check.compare(everyday, model)

    base = load.load_model(config.model, recipe.weights, tokenizer).to(device)
    require_finite_outputs(base, tokenizer, config.model, recipe)
    if trained is None:
        answer_with("base", base)
        answer_with("tuned", base)
    elif config.training.method == "lora" and not config.lora.keeps_base:
        answer_with("base", base)
        answer_with("tuned", attach_adapter(base, trained.path))
    elif config.training.method == "lora":
        model = attach_adapter(base, trained.path)
        with model.disable_adapter():
            answer_with("base", model)
        answer_with("tuned", model)
    else:
        answer_with("base", base)
        del base
        free_memory(device)
        full_model = full_model_config(config, trained.path)
        answer_with("tuned", load.load_model(full_model, recipe.weights, tokenizer).to(device))
    return answers, compared


def judge_answers(
    service: JudgeService,
    answers_by_model: ModelAnswers,
    *,
    seed: int,
    functions: RewardFunctions | None = None,
    token_ids: TokenIds | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[EvaluatedAnswer], BatchStats]:
    """Have the answers of both models scored blind: shuffled, without naming the model.

    Args:
        service: the judge.
        answers_by_model: the answers of each model.
        seed: seed of the shuffled order.
        functions: the reward functions of the computed axes; None without any.
        token_ids: the model's tokenizer, for functions that take `completion_ids`.
        should_stop: polled while judge calls are pending; true interrupts.

    Returns:
        The answers with their scores, base before tuned, and the figures of the judging.

    Raises:
        JudgeInterrupted: `should_stop` returned true.
        JudgeUnavailable: the judge cannot be used, or would exceed the budget; verdicts received so far
            are in its cache.
    """
    rows = [(model, answer) for model in MODELS for answer in answers_by_model[model]]
    pending = functions and functions.start(
        [_reward_row(answer, token_ids) for _, answer in rows], group_size=_group_size(rows)
    )
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    verdicts, stats = service.score_batch(
        judge_requests([rows[row][1] for row in order]), should_stop=should_stop
    )
    verdict_of = dict(zip(order, verdicts, strict=True))
    if pending:
        try:
            computed = pending.collect(should_stop)
        except PluginStopped:
            raise JudgeInterrupted from None
        for row, scores in enumerate(computed):
            verdict_of[row] = verdict_of[row].with_computed(scores, service.formula)
    answers = []
    for row, (model, answer) in enumerate(rows):
        verdict = verdict_of[row]
        answers.append(
            EvaluatedAnswer(
                model=model,
                prompt_id=answer.prompt.id,
                kind=answer.prompt.kind,
                prompt=answer.prompt.text,
                sample=answer.sample_index,
                text=answer.text,
                tokens=answer.tokens,
                refusal=classify_refusal(answer.text),
                scores=verdict.scores,
                reward=verdict.reward,
                reason=verdict.reason
                if verdict.failure is None
                else f"failed verdict: {verdict.failure}",
                thought_tokens=answer.thought_tokens,
                context=answer.context,
            )
        )
    return answers, stats


def _group_size(rows: Sequence[tuple[ComparedModel, GeneratedAnswer]]) -> int:
    """Number of answers of a model to each prompt."""
    return 1 + max((answer.sample_index for _, answer in rows), default=0)


def _reward_row(answer: GeneratedAnswer, token_ids: TokenIds | None) -> RewardRow:
    prompt = answer.prompt
    return RewardRow(
        prompt.id,
        prompt.text,
        chat_messages(prompt.text, answer.context),
        answer.text,
        token_ids(answer.text) if token_ids is not None else (),
        prompt.columns,
    )


def judge_requests(answers: Sequence[GeneratedAnswer]) -> list[JudgeRequest]:
    """One judge request per answer, in this order; identical answers to a prompt get separate verdicts."""
    counts: dict[tuple[str, str], int] = {}
    requests = []
    for answer in answers:
        repeat = counts.get((answer.prompt.id, answer.text), 0)
        counts[answer.prompt.id, answer.text] = repeat + 1
        requests.append(
            JudgeRequest(
                answer.prompt.id,
                answer.prompt.text,
                answer.prompt.kind,
                answer.text,
                repeat,
                context=answer.context,
                checks=answer.prompt.checks,
            )
        )
    return requests


def build_evaluation(
    answers: Sequence[EvaluatedAnswer],
    *,
    rubric: RubricConfig,
    prompts: str,
    samples: int,
    seed: int,
    judge: str,
    cost: float | None,
    seconds: float,
    step: int,
    notes: Sequence[str] = (),
    everyday: EverydayFigures | None = None,
) -> Evaluation:
    """The evaluation of judged answers: its figures and its verdict in words."""
    kinds = {answer.prompt_id: answer.kind for answer in answers}
    figures = compute_figures(answers, rubric.axis_list, rubric.reward_name)
    if unclassified := sum(bool(a.kind) and a.refusal is None for a in answers):
        notes = [*notes, unclassified_note(unclassified, len(answers))]
    return Evaluation(
        made_at=current_timestamp(),
        prompts=prompts,
        harmless=sum(kind == "harmless" for kind in kinds.values()),
        unsafe=sum(kind == "unsafe" for kind in kinds.values()),
        unlabeled=sum(not kind for kind in kinds.values()),
        samples=samples,
        seed=seed,
        judge=judge,
        classifier=OFFLINE_JUDGE,
        figures=figures,
        verdict=" ".join(
            [
                conclusion(figures, rubric.reward_name),
                *([everyday_sentence(everyday)] if everyday is not None else []),
            ]
        ),
        unscored=sum(answer.reward is None for answer in answers),
        cost=cost,
        seconds=round(seconds, 3),
        step=step,
        axes=rubric.axis_list,
        reward=rubric.reward_name,
        notes=tuple(notes),
        everyday=everyday,
    )
