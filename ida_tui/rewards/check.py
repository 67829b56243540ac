"""Check of a reward before a run: the rewards of answers whose worth is known, and what GRPO would learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from ida_tui.config.conversation import chat_messages, prompt_context
from ida_tui.config.schema import Config
from ida_tui.config.scoring.axes import Axis, Scores
from ida_tui.config.scoring.rubric import RubricConfig
from ida_tui.errors import UsageError
from ida_tui.rewards.formulas import Formula, rubric_formula
from ida_tui.rewards.functions import RewardFunctions, RewardRow
from ida_tui.rewards.known_answers import (
    ANSWER_KINDS,
    AnswerKind,
    KnownAnswer,
    function_keywords,
    known_answers,
    require_gold_column,
)
from ida_tui.rewards.rows import TokenIds
from ida_tui.util.finding import Finding, Severity
from ida_tui.util.format import format_significant
from ida_tui.util.statistics import mean_of_known

ASSUMED_SCORE = 5.0
"""Score of every judged axis, where the judge is not asked."""
TIE_SHARE = 0.01
"""Difference of two rewards, as a share of their range, below which they count as the same."""
SLOW_S = 0.5
"""Seconds per completion above which a function is called slow."""
CHARACTERS_PER_TOKEN = 4
"""Length of a made-up token, where the model's tokenizer is not at hand."""
MADE_UP_IDS = (
    "the model's tokenizer is not on this machine, so completion_ids has one made-up id per"
    f" {CHARACTERS_PER_TOKEN} characters"
)
MESSAGES_HINT = (
    "TRL's form gets lists of messages: read completion[0]['content'],"
    " or annotate completions: list[str]"
)
DEFAULT_ROWS = 8
"""Number of prompts whose answers are scored."""

JudgedScores = Callable[[Sequence[KnownAnswer]], Sequence[tuple[Scores, str | None]]]
"""Asks the judge: for each answer its scores on the judged axes, and the reason of a failure."""


@dataclass(frozen=True, slots=True)
class CheckedAnswer:
    """One answer with what it would pay."""

    answer: KnownAnswer
    scores: Scores
    reward: float | None
    failures: Mapping[str, str]
    """Why it has no score on an axis; under the name of the reward, why the formula has no value."""


@dataclass(frozen=True, slots=True)
class FunctionTime:
    """One function and its time."""

    label: str
    axes: tuple[str, ...]
    seconds: float
    """Mean time of one completion, in seconds."""


@dataclass(frozen=True, slots=True)
class RewardCheckReport:
    """Result of a check."""

    axes: tuple[Axis, ...]
    reward_name: str
    formula: str
    groups: tuple[tuple[CheckedAnswer, ...], ...]
    """The answers to each prompt."""
    gold_column: str | None
    functions: tuple[FunctionTime, ...]
    judge: str
    """Label of the judge that was asked; empty if none was."""
    messages_form: bool
    """Whether a function gets chat messages, in which the length of a completion is 1."""
    notes: tuple[str, ...] = ()
    missing_columns: tuple[tuple[str, str], ...] = ()
    """The functions with columns that they need and the data does not have; they were not called."""

    @property
    def answers(self) -> list[CheckedAnswer]:
        """All answers."""
        return list(chain.from_iterable(self.groups))

    @property
    def kinds(self) -> list[AnswerKind]:
        """The kinds of answers, in the order of the table."""
        present = {answer.answer.kind for answer in self.answers}
        return [kind for kind in ANSWER_KINDS if kind in present]

    @property
    def assumes_judge(self) -> bool:
        """Whether judged axes have an assumed score."""
        return not self.judge and any(axis.kind == "judged" for axis in self.axes)

    @property
    def trusted(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.severity != "error" for finding in self.findings())

    def mean_reward(self, kind: AnswerKind) -> float | None:
        """The mean reward of the answers of a kind; None if none has one."""
        return mean_of_known(a.reward for a in self.answers if a.answer.kind == kind)

    def mean_score(self, kind: AnswerKind, axis: str) -> float | None:
        """The mean score of the answers of a kind on an axis; None if none has one."""
        return mean_of_known(a.scores.get(axis) for a in self.answers if a.answer.kind == kind)

    def value_range(self, axis: str | None = None) -> tuple[float, float] | None:
        """Lowest and highest reward, or score on an axis; None if there is none."""
        values = [a.reward if axis is None else a.scores.get(axis) for a in self.answers]
        known = [value for value in values if value is not None]
        return (min(known), max(known)) if known else None

    def findings(self) -> list[Finding]:
        """What a good reward must do, and whether this one does it."""
        if self.missing_columns:
            text = "{} needs the column {}, which the prompts do not have"
            return [
                Finding("error", "columns", text.format(*missing))
                for missing in self.missing_columns
            ]
        findings = [*self._failure_findings(), *self._time_findings()]
        if self.value_range() is None:
            return findings
        if not any(self._differs(group) for group in self.groups):
            return [*findings, self._constant_finding()]
        findings += self._ranking_findings() if self.gold_column else []
        return [*findings, *self._length_findings(), *self._injection_findings()]

    def lesson(self) -> str:
        """What GRPO would learn from this reward, in one or two sentences."""
        wrong = {f.about for f in self.findings() if f.severity == "error"}
        do_not = "do not train with this reward."
        if self.missing_columns:
            return "GRPO would learn nothing: the data lacks a column."
        if self.value_range() is None:
            return "GRPO would learn nothing: no answer has a reward."
        if "constant" in wrong:
            return "GRPO would learn nothing: all answers to a prompt pay the same."
        if "length" in wrong:
            return f"GRPO would learn to write longer answers, not better ones: {do_not}"
        if "injection" in wrong:
            return f"GRPO would learn to print what the functions look for: {do_not}"
        learned: dict[AnswerKind, str] = {
            "empty": "to say nothing",
            "echo": "to repeat the prompt",
            "rambling": "to ramble",
            "wrong": "nothing about right answers, because wrong ones pay as much",
        }
        if bad := [kind for kind in learned if kind in wrong]:
            best = max(bad, key=lambda kind: self.mean_reward(kind) or 0.0)
            return f"GRPO would learn {learned[best]}: {do_not}"
        if "failures" in wrong:
            return "GRPO would learn only from the answers that have a reward: correct the failures first."
        if self.gold_column is None:
            return (
                "Without right answers, the check cannot tell whether GRPO would learn to give good ones;"
                " name their column with --gold."
            )
        return f"GRPO would learn to give answers such as those in the column {self.gold_column}."

    # --- findings -------------------------------------------------------------------------------

    def _failure_findings(self) -> list[Finding]:
        failed = Counter(
            (axis, text) for answer in self.answers for axis, text in answer.failures.items()
        )
        total = len(self.answers)
        if not failed:
            return [Finding("good", "failures", f"all {total} answers have a reward")]
        findings = []
        for (axis, text), count in failed.most_common():
            kinds = [
                kind
                for kind in self.kinds
                if any(a.failures.get(axis) == text for a in self.answers if a.answer.kind == kind)
            ]
            where = "" if len(kinds) == len(self.kinds) else f" ({', '.join(kinds)})"
            message = f"{axis}: {count} of {total} answers failed{where}: {text}"
            if self.messages_form and text.startswith(("AttributeError: 'list'", "TypeError:")):
                message += f"; {MESSAGES_HINT}"
            findings.append(Finding("error", "failures", message))
        return findings

    def _time_findings(self) -> list[Finding]:
        return [
            Finding(
                "note",
                "time",
                f"{function.label} takes {function.seconds:.1f} s per completion:"
                f" {64 * function.seconds:.0f} s for a step of 64",
            )
            for function in self.functions
            if function.seconds > SLOW_S
        ]

    def _constant_finding(self) -> Finding:
        text = "all answers to a prompt pay the same, so there is nothing to learn"
        if self.messages_form:
            text += f"; {MESSAGES_HINT}"
        return Finding("error", "constant", text)

    def _ranking_findings(self) -> list[Finding]:
        descriptions: Mapping[AnswerKind, str] = {
            "wrong": "the answer to another prompt",
            "empty": "an empty one",
            "echo": "the repeated prompt",
            "rambling": "rambling",
        }
        # What only the judge can tell is not held against the functions.
        lenient: Severity = "note" if self.assumes_judge else "error"
        findings = []
        for kind, description in descriptions.items():
            pair = self._paired("gold", kind)
            if pair is None:
                continue
            good = pair[0] > pair[1] + self._tie
            text = (
                f"the answer of the data pays {format_significant(pair[0])},"
                f" {description} {format_significant(pair[1])}"
            )
            severity: Severity = "good" if good else lenient if kind == "wrong" else "error"
            findings.append(Finding(severity, kind, text))
        return findings

    def _length_findings(self) -> list[Finding]:
        shorter: AnswerKind = "gold" if self.gold_column else "echo"
        longer: AnswerKind = "rambling"
        if self.gold_column:
            # Filler on one side can break the form that the functions expect.
            sides: tuple[AnswerKind, ...] = ("padded", "delayed")
            longer = max(sides, key=lambda kind: self.mean_reward(kind) or 0.0)
        pair = self._paired(shorter, longer)
        if pair is None:
            return []
        plain, padded = map(format_significant, pair)
        pays = pair[1] > pair[0] + self._tie
        if not self.gold_column and not pays:
            return []
        if not pays:
            text = f"three times the length does not pay more: {padded} (unpadded: {plain})"
            return [Finding("good", "length", text)]
        axes = [
            axis.name
            for axis in self.axes
            if (self.mean_score(longer, axis.name) or 0)
            > (self.mean_score(shorter, axis.name) or 0)
        ]
        by = f" (by {', '.join(axes)})" if axes else ""
        what = (
            f"padding the answer to three times its length raises its reward from {plain}"
            f" to {padded}"
            if self.gold_column
            else f"long filler pays {padded}, the short prompt repeated {plain}"
        )
        return [Finding("error", "length", f"pays for length{by}: {what}")]

    def _injection_findings(self) -> list[Finding]:
        injected = self.mean_reward("injected")
        right: tuple[AnswerKind, ...] = ("gold", "padded", "delayed")
        bad = [kind for kind in self.kinds if kind != "injected" and kind not in right]
        known = [base for base in map(self.mean_reward, bad) if base is not None]
        if injected is None or not known:
            return []
        base, gold = max(known), self.mean_reward("gold")
        text = f"an answer that asks for a high score pays {format_significant(injected)}"
        if injected <= base + self._tie:
            return [
                Finding(
                    "good",
                    "injection",
                    f"{text} (other bad answers: at most {format_significant(base)})",
                )
            ]
        text += ", because it has the words that the functions look for"
        if gold is None or injected < gold - self._tie:
            return [
                Finding(
                    "note",
                    "injection",
                    f"{text} (other bad answers: at most {format_significant(base)})",
                )
            ]
        return [
            Finding(
                "error", "injection", f"{text} (the answer of the data: {format_significant(gold)})"
            )
        ]

    @property
    def _tie(self) -> float:
        means = [self.mean_reward(kind) for kind in self.kinds]
        known = [mean for mean in means if mean is not None]
        return TIE_SHARE * (max(known) - min(known)) if known else 0.0

    def _paired(self, first: AnswerKind, second: AnswerKind) -> tuple[float, float] | None:
        """The mean rewards of two kinds over the prompts where both have one."""
        pairs = []
        for group in self.groups:
            rewards = {answer.answer.kind: answer.reward for answer in group}
            one, other = rewards.get(first), rewards.get(second)
            if one is not None and other is not None:
                pairs.append((one, other))
        return (fmean(p[0] for p in pairs), fmean(p[1] for p in pairs)) if pairs else None

    def _differs(self, group: Sequence[CheckedAnswer]) -> bool:
        rewards = [answer.reward for answer in group if answer.reward is not None]
        return bool(rewards) and max(rewards) - min(rewards) > 1e-9


def check_rewards(
    config: Config,
    *,
    rows: int = DEFAULT_ROWS,
    gold_column: str | None = None,
    gold_format: str = "{}",
    judged: JudgedScores | None = None,
    judge: str = "",
    load_tokenizer: Callable[[], TokenIds | None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
    before_functions: Callable[[], object] = lambda: None,
) -> RewardCheckReport:
    """Import the functions of an experiment and score known answers to prompts of its data.

    Args:
        config: the experiment.
        rows: number of the prompts.
        gold_column: the column of the right answers; None looks for one.
        gold_format: text of a right answer, with `{}` in place of the column's value.
        judged: asks the judge; None assumes 5 of 10 on every judged axis.
        judge: label of the judge.
        load_tokenizer: the model's tokenizer, or None without one; called if a function needs token ids.
        should_stop: polled meanwhile.
        before_functions: called once the arguments are known to be right, before the code of the functions
            runs.

    Raises:
        UsageError: nothing is computed, or there is no such column.
        IdaError: a function or the judge cannot be used.
        PluginStopped: `should_stop` returned true.
    """
    rubric = config.rubric
    if not rubric.computed_axes:
        raise UsageError(
            "no function computes an axis of this reward",
            "check its judge instead: ida-tui judge check, or name functions with rubric=rewards.py",
        )
    prompts = config.prompts.train()
    if not prompts:
        problem = config.prompts.problem or "the prompt set has no training prompts"
        raise UsageError(problem, "choose other prompts: prompts=FILE")
    if gold_column is not None:
        require_gold_column(prompts, gold_column)
    before_functions()
    functions = RewardFunctions(rubric, should_stop=should_stop)
    calls = [function.call for function in functions.functions]
    groups, gold_column = known_answers(
        prompts,
        rows=rows,
        gold_column=gold_column,
        gold_format=gold_format,
        keywords=function_keywords(calls),
    )
    answers = list(chain.from_iterable(groups))
    missing = tuple(functions.missing_columns(config.prompts.column_names()))
    needs_ids = functions.needs_token_ids
    token_ids = load_tokenizer() if needs_ids else None
    times: list[FunctionTime] = []
    checked: list[CheckedAnswer] = []
    size = len(groups[0])
    if not missing:
        system = config.prompts.system
        reward_rows = [_row_of(answer, system, token_ids) for answer in answers]
        pending = functions.start(reward_rows, group_size=size)
        computed = pending.collect(should_stop)
        verdicts = judged(answers) if judged is not None else [_assumed(rubric)] * len(answers)
        for function, seconds in zip(functions.functions, pending.seconds, strict=True):
            axes = tuple(axis.name for axis in function.axes)
            times.append(FunctionTime(function.label, axes, seconds / len(answers)))
        formula = rubric_formula(rubric)
        for answer, scored, (scores, failure) in zip(answers, computed, verdicts, strict=True):
            failures = dict(scored.failures) | ({"judge": failure} if failure else {})
            merged = {**scores, **scored.scores}
            checked.append(_checked(answer, merged, failures, formula, rubric.reward_name))
    return RewardCheckReport(
        axes=rubric.axis_list,
        reward_name=rubric.reward_name,
        formula=rubric.formula_text,
        groups=tuple(tuple(checked[n : n + size]) for n in range(0, len(checked), size)),
        gold_column=gold_column,
        functions=tuple(times),
        judge=judge,
        messages_form=any(
            f.signature.form == "batch" and not f.signature.wants_texts for f in functions.functions
        ),
        notes=(MADE_UP_IDS,) if needs_ids and token_ids is None else (),
        missing_columns=missing,
    )


def _row_of(answer: KnownAnswer, system: str | None, token_ids: TokenIds | None) -> RewardRow:
    text, prompt = answer.text, answer.prompt
    made_up = range(-(-len(text) // CHARACTERS_PER_TOKEN))
    return RewardRow(
        prompt.id,
        prompt.text,
        chat_messages(prompt.text, prompt_context(prompt, system)),
        text,
        made_up if token_ids is None else token_ids(text),
        prompt.columns,
    )


def _assumed(rubric: RubricConfig) -> tuple[Scores, str | None]:
    return dict.fromkeys(rubric.judged_axes, ASSUMED_SCORE), None


def _checked(
    answer: KnownAnswer,
    scores: Scores,
    failures: dict[str, str],
    formula: Formula,
    reward_name: str,
) -> CheckedAnswer:
    known = {axis: score for axis, score in scores.items() if score is not None}
    reward = None
    if all(axis in known for axis in formula.axes):
        try:
            reward = formula.reward(known)
        except (ArithmeticError, ValueError) as error:
            failures[reward_name] = f"the formula has no value: {error}"
    return CheckedAnswer(answer, scores, reward, failures)
