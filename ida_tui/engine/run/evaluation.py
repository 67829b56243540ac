"""Evaluation within a run: answers to the held-out prompts before, between and after the steps.

All evaluations sample with the same seed, and leave the random numbers of the training as they are. The
offline classifier sorts the answers to prompts of a kind into compliance and refusal; it is the same for
every judge and costs nothing. If functions compute all axes, every evaluation has rewards. A profile with
`evaluation.judged` has the answers between the steps judged at once, and those of both models at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ida_tui.config.conversation import chat_messages, prompt_context
from ida_tui.config.prompts import shared_columns
from ida_tui.config.repeated_prompts import repeated_held_out_note
from ida_tui.config.schema import EVERYDAY_TOKENS, Config, PromptKind
from ida_tui.config.scoring.axes import Scores
from ida_tui.config.scoring.rubric import RubricConfig
from ida_tui.engine.device.device import preserved_rng
from ida_tui.engine.distributed.shared_calls import shared_model_calls
from ida_tui.engine.inference.evaluate import (
    SEED_OFFSET,
    build_evaluation,
    judge_answers,
    judge_requests,
)
from ida_tui.engine.inference.everyday import EverydayCheck
from ida_tui.engine.inference.generate import GeneratedAnswer, generate_answers
from ida_tui.engine.model.generation import token_sampler
from ida_tui.engine.rollout.sampling import TokenSampler
from ida_tui.engine.run.context import RunContext
from ida_tui.events import types as ev
from ida_tui.events.everyday import bounds_problems
from ida_tui.events.held_out import answer_share
from ida_tui.judge.backends.offline.refusal import (
    RefusalClass,
    classify_refusal,
    unclassified_note,
)
from ida_tui.judge.calibration.cross_check import mostly_known
from ida_tui.judge.errors import JudgeInterrupted, JudgeUnavailable
from ida_tui.judge.service import JudgeService
from ida_tui.rewards.functions import RewardRow
from ida_tui.runs.store import baseline, evaluations
from ida_tui.runs.store.baseline import BaselineAnswer
from ida_tui.util.plugin_threads import PluginStopped
from ida_tui.util.statistics import mean_of_known

_ClassifiedAnswer = tuple[GeneratedAnswer, RefusalClass | None]


def evaluate_held_out(run: RunContext, service: JudgeService, when: ev.EvaluationMoment) -> None:
    """Answer the held-out prompts, if the profile enables it, and emit `EvaluationFinished`.

    Raises:
        RunInterrupted: the user stopped the run while the answers were sampled.
        JudgeInterrupted: the user stopped the run while the answers were judged.
    """
    if not run.config.evaluation.enabled or run.trainer is None:
        return
    step = int(run.trainer.state.global_step)
    run.emit(ev.PhaseChanged(step=step, phase="evaluate"))
    note = repeated_held_out_note(run.config.prompts)
    if note and when == "before":
        run.emit(ev.Noticed(level="warning", source="evaluation", text=note))
    started = run.clock()
    model = run.trainer.accelerator.unwrap_model(run.trainer.model_wrapped)
    with shared_model_calls(model, run.process_group):
        answers = generate_answers(
            model,
            run.preflight.tokenizer,
            run.config,
            run.preflight.device,
            run.config.prompts.held_out(),
            samples=run.config.evaluation.samples,
            seed=run.config.seed + SEED_OFFSET,
            should_stop=run.control.stop.is_set,
            on_progress=lambda done, planned: run.emit(
                ev.EvaluationProgressed(step, done, planned)
            ),
        )
    finished = replace(
        evaluation_event(answers, when=when, step=step), seconds=_seconds_since(run, started)
    )
    earlier = run.state.evaluations
    if finished.unclassified and not any(made.unclassified for made in earlier):
        text = unclassified_note(finished.unclassified, len(answers))
        run.emit(ev.Noticed(level="warning", source="evaluation", text=text))
    if run.config.evaluation.everyday and when != "during":
        with shared_model_calls(model, run.process_group):
            everyday = _ask_everyday_questions(run, model, when, step)
        finished = replace(finished, everyday=everyday, seconds=_seconds_since(run, started))
    judged = run.config.scores_evaluation
    if judged and when == "before":
        _save_baseline(run, answers)
    if not run.config.rubric.judged_axes or (judged and when == "during"):
        finished = _score(run, service, finished, answers)
    if judged and when == "after":
        finished = _judge_both_models(run, service, finished, answers)
    run.emit(replace(finished, seconds=_seconds_since(run, started)))


def evaluation_event(
    answers: Sequence[GeneratedAnswer], *, when: ev.EvaluationMoment, step: int
) -> ev.EvaluationFinished:
    """Counts of answers, and of compliance and refusal from the offline classifier."""
    classes = [(answer, classify_refusal(answer.text)) for answer in answers]
    harmless = _count_refusals(classes, "harmless")
    unsafe = _count_refusals(classes, "unsafe")
    return ev.EvaluationFinished(
        when=when,
        step=step,
        prompts=len({answer.prompt.id for answer in answers}),
        harmless=sum(harmless.values()),
        harmless_complied=harmless["full_compliance"],
        harmless_partial=harmless["partial_refusal"],
        harmless_refused=harmless["full_refusal"],
        unsafe=sum(unsafe.values()),
        unsafe_refused=unsafe["full_refusal"] + unsafe["partial_refusal"],
        classifier=ev.OFFLINE_JUDGE,
        seconds=0.0,
        answered_by_prompt=_count_by_prompt(classes, "harmless", complied=True),
        declined_by_prompt=_count_by_prompt(classes, "unsafe", complied=False),
        unclassified=sum(
            bool(answer.prompt.kind) and refusal is None for answer, refusal in classes
        ),
        unlabeled=sum(not answer.prompt.kind for answer in answers),
    )


def _count_by_prompt(
    classes: Sequence[_ClassifiedAnswer], kind: PromptKind, *, complied: bool
) -> tuple[int, ...]:
    """For each prompt of a kind, the number of answers that comply, or that do not.

    Empty if an answer has no class: then the prompts have different numbers of known answers.
    """
    counts = {answer.prompt.id: 0 for answer, _ in classes if answer.prompt.kind == kind}
    for answer, refusal in classes:
        if answer.prompt.kind == kind:
            if refusal is None:
                return ()
            counts[answer.prompt.id] += (refusal == "full_compliance") == complied
    return tuple(counts.values())


def _count_refusals(classes: Sequence[_ClassifiedAnswer], kind: PromptKind) -> dict[str, int]:
    """The number of answers of each class; zeros if most answers have none."""
    counts = {"full_compliance": 0, "partial_refusal": 0, "full_refusal": 0}
    for refusal in mostly_known(
        [refusal for answer, refusal in classes if answer.prompt.kind == kind]
    ):
        counts[refusal] += 1
    return counts


# -- scored ------------------------------------------------------------------------------------


def _score(
    run: RunContext,
    service: JudgeService,
    finished: ev.EvaluationFinished,
    answers: Sequence[GeneratedAnswer],
) -> ev.EvaluationFinished:
    """The event with the scores and rewards of these answers; without them, with a warning, if that failed.

    Raises:
        JudgeInterrupted: the user stopped the run meanwhile.
    """
    should_stop = run.control.stop.is_set
    # Reward functions run in this process, and may draw random numbers.
    with preserved_rng(run.preflight.device):
        pending = run.functions and run.functions.start(
            [_reward_row(answer) for answer in answers],
            group_size=run.config.evaluation.samples,
            step=finished.step,
            steps=run.config.planned_steps(),
        )
        try:
            verdicts, stats = service.score_batch(judge_requests(answers), should_stop=should_stop)
            if pending:
                verdicts = [
                    verdict.with_computed(computed, service.formula)
                    for verdict, computed in zip(
                        verdicts, pending.collect(should_stop), strict=True
                    )
                ]
        except PluginStopped:
            raise JudgeInterrupted from None
        except JudgeUnavailable as error:
            _warn_not_judged(run, error.title)
            return finished
    scored = [
        (answer.prompt.id, verdict.scores, verdict.reward)
        for answer, verdict in zip(answers, verdicts, strict=True)
    ]
    return replace(
        _with_scores(finished, scored, run.config.rubric),
        cost=stats.cost,
        judge_work=stats.work if service.label else None,
    )


def _reward_row(answer: GeneratedAnswer) -> RewardRow:
    prompt = answer.prompt
    return RewardRow(
        prompt.id,
        prompt.text,
        chat_messages(prompt.text, answer.context),
        answer.text,
        answer.token_ids,
        prompt.columns,
    )


def _with_scores(
    finished: ev.EvaluationFinished,
    answers: Sequence[tuple[str, Scores, float | None]],
    rubric: RubricConfig,
) -> ev.EvaluationFinished:
    """The event with the means of scored answers: prompt id, scores and reward of each.

    A mean is over the prompts, and of the mean of each prompt's answers that have a score.
    """
    rewards = _means_by_prompt((prompt, reward) for prompt, _, reward in answers)
    scores = {
        axis: mean_of_known(
            _means_by_prompt((prompt, scores.get(axis)) for prompt, scores, _ in answers)
        )
        for axis in rubric.axes
    }
    shares = {
        axis: answer_share((prompt, scores.get(axis)) for prompt, scores, _ in answers)
        for axis in rubric.computed_axes
    }
    return replace(
        finished,
        reward=mean_of_known(rewards),
        scores=scores,
        shares={axis: share for axis, share in shares.items() if share is not None},
        reward_by_prompt=tuple(rewards),
        unscored=sum(reward is None for _, _, reward in answers),
    )


def _means_by_prompt(values: Iterable[tuple[str, float | None]]) -> list[float | None]:
    """The mean of the known values of each prompt, in the order of the prompts; None without any."""
    by_prompt: dict[str, list[float | None]] = {}
    for prompt, value in values:
        by_prompt.setdefault(prompt, []).append(value)
    return [mean_of_known(known) for known in by_prompt.values()]


# -- everyday questions ------------------------------------------------------------------------


def _ask_everyday_questions(
    run: RunContext, model: Any, when: ev.EvaluationMoment, step: int
) -> ev.EverydayFigures | None:
    """Before training, store the model's answers; after it, the figures of both models, with warnings.

    Raises:
        RunInterrupted: the user stopped the run while the answers were sampled.
    """
    check = EverydayCheck(
        run.config,
        run.preflight.tokenizer,
        run.preflight.device,
        should_stop=run.control.stop.is_set,
        on_progress=lambda done, planned: run.emit(ev.EvaluationProgressed(step, done, planned)),
    )
    settings = {"longest": EVERYDAY_TOKENS, **_truncations(run.config, temperature=0.0)}
    if when == "before":
        try:
            baseline.save_everyday(run.directory, settings, check.answer(model))
        except OSError as error:
            text = (
                f"the answers to everyday questions could not be saved: {error.strerror or error}"
            )
            run.emit(ev.Noticed(level="warning", source="evaluation", text=text))
        return None
    saved = baseline.load_everyday(run.directory, settings)
    figures = check.compare(saved, model) if saved else None
    if figures is None:
        text = (
            "the everyday questions were not compared: the answers before training are missing, or are"
            f" those to other questions; to compare: ida-tui evaluate {run.directory.path}"
        )
        run.emit(ev.Noticed(level="warning", source="evaluation", text=text))
    elif problems := bounds_problems(figures):
        text = f"the answers to everyday questions are outside the bounds: {', '.join(problems)}"
        run.emit(ev.Noticed(level="warning", source="evaluation", text=text))
    return figures


# -- judged ------------------------------------------------------------------------------------


def _save_baseline(run: RunContext, answers: Sequence[GeneratedAnswer]) -> None:
    rows = [
        BaselineAnswer(
            answer.prompt.id,
            answer.sample_index,
            answer.text,
            answer.tokens,
            answer.thought_tokens,
        )
        for answer in answers
    ]
    try:
        baseline.save(run.directory, _sampling_settings(run.config), rows)
    except OSError as error:
        _warn_not_judged(
            run, f"the answers before training could not be saved ({error.strerror or error})"
        )


def _judge_both_models(
    run: RunContext,
    service: JudgeService,
    finished: ev.EvaluationFinished,
    answers: Sequence[GeneratedAnswer],
) -> ev.EvaluationFinished:
    """The event with the judged figures of both models; unchanged, with a warning, if judging failed."""
    started, config = run.clock(), run.config
    saved = baseline.load(run.directory, _sampling_settings(config))
    if saved is None:
        _warn_not_judged(
            run, "the answers before training are missing, or were sampled with other settings"
        )
        return finished
    prompts = {prompt.id: prompt for prompt in config.prompts.held_out()}
    base = [
        GeneratedAnswer(
            prompts[row.prompt_id],
            row.sample,
            row.text,
            row.tokens,
            prompt_context(prompts[row.prompt_id], config.prompts.system),
            row.thought_tokens,
        )
        for row in saved
        if row.prompt_id in prompts
    ]
    functions = run.functions
    if functions and (missing := functions.missing_columns(shared_columns(list(prompts.values())))):
        label, column = missing[0]
        _warn_not_judged(run, f"{label} needs the column {column}, which the held-out prompts lack")
        return finished
    tokenizer = run.preflight.tokenizer
    try:
        judged, stats = judge_answers(
            service,
            {"base": base, "tuned": answers},
            seed=config.seed,
            functions=functions,
            token_ids=lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]),
            should_stop=run.control.stop.is_set,
        )
    except JudgeUnavailable as error:
        _warn_not_judged(run, error.title)
        return finished
    evaluation = build_evaluation(
        judged,
        rubric=config.rubric,
        prompts=f"{config.prompts.name}, held out",
        samples=config.evaluation.samples,
        seed=config.seed,
        judge=service.label,
        cost=stats.cost,
        seconds=finished.seconds + _seconds_since(run, started),
        step=finished.step,
        notes=[note] if (note := repeated_held_out_note(config.prompts)) else (),
        everyday=finished.everyday,
    )
    finished = replace(
        finished,
        verdict=evaluation.verdict,
        figures=tuple(
            ev.EvaluationFigure(
                figure.name, figure.unit, figure.base, figure.tuned, figure.low, figure.high
            )
            for figure in evaluation.figures
        ),
        cost=evaluation.cost,
    )
    tuned = [(row.prompt_id, row.scores, row.reward) for row in judged if row.model == "tuned"]
    finished = replace(
        _with_scores(finished, tuned, config.rubric),
        unscored=evaluation.unscored,
        judge_work=stats.work if service.label else None,
    )
    try:
        folder = evaluations.write_evaluation(run.directory, evaluation, judged)
    except OSError as error:
        text = f"the evaluation could not be saved: {error.strerror or error}"
        run.emit(ev.Noticed(level="warning", source="evaluation", text=text))
        return finished
    return replace(finished, folder=str(folder))


def _sampling_settings(config: Config) -> Mapping[str, Any]:
    """Settings that must be the same before and after training."""
    evaluation = config.evaluation
    return {
        "seed": config.seed,
        "samples": evaluation.samples,
        "temperature": evaluation.temperature,
        "longest": config.evaluation_max_completion_length,
        "prompts": [prompt.id for prompt in config.prompts.held_out()],
        **_truncations(config),
    }


def _truncations(config: Config, temperature: float | None = None) -> Mapping[str, Any]:
    """The sampling parameters of the training that change the distribution; empty if none does.

    Args:
        config: the run's profile.
        temperature: sampling temperature; None is that of the evaluation.
    """
    temperature = config.evaluation.temperature if temperature is None else temperature
    sampler = asdict(token_sampler(config.training, temperature))
    return {
        name: value
        for name, value in sampler.items()
        if name != "temperature" and value != getattr(TokenSampler(), name)
    }


def _warn_not_judged(run: RunContext, reason: str) -> None:
    text = f"the evaluation was not scored: {reason}; to score it: ida-tui evaluate {run.directory.path}"
    run.emit(ev.Noticed(level="warning", source="evaluation", text=text))


def _seconds_since(run: RunContext, started: float) -> float:
    """Seconds of work since a time of the run's clock."""
    return round(run.clock() - started, 3)
