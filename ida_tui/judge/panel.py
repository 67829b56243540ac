"""Panel of several judges: each scores every completion, and a score is the mean or the median of theirs.

A judge that fails is left out of a completion's scores while more than half of the panel answer. Within a
group all scores come from the same judges, so that no group mixes completions with and without one of them.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from statistics import fmean, median
from typing import TypeVar

from ida_tui.config.schema import JudgeConfig, JudgeKey, PromptSet, RubricConfig
from ida_tui.errors import UsageError
from ida_tui.events import types as ev
from ida_tui.judge.api_key import judge_secrets
from ida_tui.judge.budget import Budget, BudgetExceeded
from ida_tui.judge.errors import JudgeUnavailable, RequestFault
from ida_tui.judge.scorer import JudgeScorer, JudgeServiceOptions, Scorer
from ida_tui.judge.verdict import JudgeRequest, Verdict, combined_figures
from ida_tui.util.text import is_blank, join_words

T = TypeVar("T")
_SHARED_PARTS = ("formula", "functions", "prompts", "corpus")
"""Parts of a scoring that do not depend on the judge."""


def build_scorer(
    config: JudgeConfig,
    rubric: RubricConfig,
    prompts: PromptSet,
    *,
    key: JudgeKey,
    budget: Budget,
    options: JudgeServiceOptions,
    warn: Callable[[str], None],
) -> Scorer:
    """The scorer of a judge profile: of one judge, or of a panel.

    Raises:
        UsageError: a panel gets one key in place of one for each of its judges.
        IdaError: a judge plugin cannot be used.
        JudgeInterrupted: a stop was requested while a plugin loaded.
    """
    members = config.members
    keys = key if isinstance(key, tuple) else (key,) * (1 if config.kind != "panel" else 0)
    if config.kind == "panel" and key is None:
        keys = (None,) * len(members)
    if len(keys) != len(members):
        raise UsageError(
            "the judges of a panel have keys of their own, but one key is given",
            "give no key: each judge's key is read from the variable that its api_key_env names",
        )
    scorers = [
        JudgeScorer(
            member,
            rubric,
            prompts,
            key=own_key,
            budget=budget,
            options=options,
            warn=warn,
            other_secrets=judge_secrets(config, keys) if len(members) > 1 else (),
        )
        for member, own_key in zip(members, keys, strict=True)
    ]
    if config.kind != "panel":
        return scorers[0]
    return JudgePanel(scorers, use_median=config.panel_score == "median", warn=warn)


class JudgePanel:
    """Scores completions with several judges. Use it on one event loop.

    Args:
        members: the judges.
        use_median: whether a score is the median of the judges' scores; otherwise it is the mean.
        warn: receives warnings for the user.
    """

    def __init__(
        self, members: Sequence[JudgeScorer], *, use_median: bool, warn: Callable[[str], None]
    ) -> None:
        self._members = members
        self._combine: Callable[[Sequence[float]], float] = median if use_median else fmean
        self._score_name = "median" if use_median else "mean"
        self._warn = warn
        self._warned: set[tuple[int, str]] = set()
        self._names = _distinct([member.label for member in members])
        self.label = f"{self._score_name} of {join_words(self._names)}"
        judges = [member.scoring.get("judge", "") for member in members]
        parts = [{k: v for k, v in m.scoring.items() if k not in _SHARED_PARTS} for m in members]
        digest = hashlib.sha256(json.dumps([self._score_name, parts]).encode()).hexdigest()[:12]
        self.scoring = {
            "judge": f"{self._score_name} of {join_words(judges)}",
            **{k: v for m in members for k, v in m.scoring.items() if k in _SHARED_PARTS},
            "settings": digest,
        }

    @property
    def cache_status(self) -> str:
        """One line for the log: the state of each judge's cache."""
        states = dict.fromkeys(member.cache_status for member in self._members)
        if len(states) == 1:
            return next(iter(states))
        return "; ".join(
            f"{name}: {member.cache_status}"
            for name, member in zip(self._names, self._members, strict=True)
        )

    @property
    def slots(self) -> int | None:
        """The current limit of concurrent calls of all judges; None if none of them makes any."""
        known = [member.slots for member in self._members if member.slots is not None]
        return sum(known) if known else None

    @property
    def served_model(self) -> str | None:
        """The models that the servers reported last; None if none of them is known."""
        return _join_models([(member.served_model, member.label) for member in self._members])

    @property
    def output_format(self) -> str:
        """A description of each endpoint's output format; empty before the first call."""
        known = [(n, m.output_format) for n, m in zip(self._names, self._members, strict=True)]
        return "; ".join(f"{name}: {form}" for name, form in known if form)

    def take_traffic(self) -> list[ev.JudgeTraffic]:
        """The calls to each judge since the last time, under its name in the panel."""
        return [
            part._replace(judge=name)
            for name, member in zip(self._names, self._members, strict=True)
            for part in member.take_traffic()
        ]

    def open(self) -> None:
        """Open the caches, on the thread of the event loop."""
        for member in self._members:
            member.open()

    async def close(self) -> None:
        """Close the connections and the caches."""
        for member in self._members:
            await member.close()

    async def probe_endpoint(self) -> RequestFault | None:
        """Test every endpoint and key; returns the first fault."""
        faults = await asyncio.gather(*(member.probe_endpoint() for member in self._members))
        return next((fault for fault in faults if fault is not None), None)

    async def score(self, request: JudgeRequest) -> Verdict:
        """The verdict of the panel on one completion: scored if more than half of the judges answer."""
        if is_blank(request.completion):
            return await self._empty_verdict(request)
        answers = await self._ask_members(lambda member: member.score(request))
        return self._combined([self._own_verdict(n, a) for n, a in enumerate(answers)])

    async def score_group(self, requests: Sequence[JudgeRequest]) -> list[Verdict]:
        """The verdicts of the panel on all completions of one prompt: one call of each judge."""
        answers = await self._ask_members(lambda member: member.score_group(requests))
        verdicts = []
        for row, request in enumerate(requests):
            if is_blank(request.completion):
                verdicts.append(await self._empty_verdict(request))
                continue
            own = [a if isinstance(a, JudgeUnavailable) else a[row] for a in answers]
            verdicts.append(self._combined([self._own_verdict(n, v) for n, v in enumerate(own)]))
        return verdicts

    def align_group(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """The verdicts of a group, all from the same judges: those that score the most completions.

        A completion that one of these judges did not score gets a failed verdict.
        """
        answered = [_answered(verdict.members) for verdict in verdicts if verdict.members]
        if len(set(answered)) <= 1:
            return list(verdicts)
        count = len(self._members)
        subsets = [
            frozenset(subset)
            for size in range(count, count // 2, -1)
            for subset in itertools.combinations(range(count), size)
        ]
        best = max(subsets, key=lambda subset: sum(subset <= own for own in answered))
        if not any(best <= own for own in answered):
            return list(verdicts)
        return [
            self._combined(verdict.members, best) if verdict.members else verdict
            for verdict in verdicts
        ]

    async def _ask_members(
        self, call: Callable[[JudgeScorer], Awaitable[T]]
    ) -> list[T | JudgeUnavailable]:
        """What each judge answers, or why it cannot be used.

        Raises:
            JudgeUnavailable: a call could exceed the budget, or not enough judges are left.
        """
        results = await asyncio.gather(
            *(call(member) for member in self._members), return_exceptions=True
        )
        answers: list[T | JudgeUnavailable] = []
        down: list[JudgeUnavailable] = []
        for result in results:
            if isinstance(result, JudgeUnavailable) and not isinstance(result, BudgetExceeded):
                down.append(result)
                answers.append(result)
            elif isinstance(result, BaseException):
                raise result
            else:
                answers.append(result)
        if down and 2 * (len(results) - len(down)) <= len(results):
            raise down[0]
        return answers

    def _own_verdict(self, number: int, answer: Verdict | JudgeUnavailable) -> Verdict:
        """One judge's verdict under its name in the panel; a failed one if the judge cannot be used."""
        name = self._names[number]
        if isinstance(answer, Verdict):
            samples = tuple(sample._replace(judge=name) for sample in answer.samples)
            return replace(answer, judge=name, samples=samples)
        if (number, answer.title) not in self._warned:
            self._warned.add((number, answer.title))
            self._warn(f"the panel scores without {name}: {answer.title}")
        return Verdict.failed(answer.title, name, calls=0)

    async def _empty_verdict(self, request: JudgeRequest) -> Verdict:
        return replace(await self._members[0].score(request), judge=self.label)

    def _combined(
        self, members: Sequence[Verdict], counted: Collection[int] | None = None
    ) -> Verdict:
        """The verdict of the panel on one completion.

        Args:
            members: the verdict of each judge.
            counted: positions of the judges whose scores count; None: all that answered.
        """
        answered = _answered(members)
        chosen = answered if counted is None else frozenset(counted)
        figures = combined_figures(members)
        missing = [v for n, v in enumerate(members) if n not in answered]
        served = _join_models([(members[n].served_model, members[n].judge) for n in sorted(chosen)])
        failure = ""
        if counted is None and 2 * len(answered) <= len(members):
            reasons = "; ".join(f"{v.judge}: {v.failure}" for v in missing)
            failure = f"only {len(answered)} of {len(members)} judges answered; {reasons}"
        elif late := sorted(chosen - answered):
            judge = members[late[0]]
            failure = f"{judge.judge}, which scored the rest of its group: {judge.failure}"
        if failure:
            declined = any(v.declined for v in missing)
            failed = Verdict.failed(
                failure, self.label, declined=declined, served_model=served, **figures
            )
            return replace(failed, members=tuple(members))
        used = [members[n].known_scores for n in sorted(chosen)]
        scores = {axis: self._combine([own[axis] for own in used]) for axis in used[0]}
        spread = {
            axis: max(own[axis] for own in used) - min(own[axis] for own in used)
            for axis in used[0]
        }
        nearest = min(
            (members[n] for n in sorted(chosen)),
            key=lambda v: sum(abs(v.known_scores[axis] - score) for axis, score in scores.items()),
        )
        verdict = Verdict.scored(
            scores,
            self._reason(nearest, spread, len(chosen), missing),
            self.label,
            cached=all(members[n].cached for n in chosen),
            served_model=served,
            **figures,
        )
        samples = tuple(sample for n in sorted(chosen) for sample in members[n].samples)
        return replace(verdict, members=tuple(members), spread=spread, samples=samples)

    def _reason(
        self, nearest: Verdict, spread: dict[str, float], count: int, missing: Sequence[Verdict]
    ) -> str:
        """Where the judges differ, and the reason of the judge that is nearest to the panel's scores."""
        differences = [f"{axis} by {points:g}" for axis, points in spread.items() if points]
        text = f"{self._score_name} of {count} judges, "
        text += f"which differ on {join_words(differences)}" if differences else "which agree"
        if missing:
            text += f"; without {join_words([verdict.judge for verdict in missing])}"
        return f"{text}. {nearest.judge}: {nearest.reason}"


def _answered(members: Sequence[Verdict]) -> frozenset[int]:
    """Positions of the judges that scored a completion."""
    return frozenset(n for n, verdict in enumerate(members) if verdict.has_scores)


def _distinct(labels: Sequence[str]) -> list[str]:
    """The names of judges; those that occur more than once get a number."""
    counts = Counter(labels)
    numbers: Counter[str] = Counter()
    names = []
    for label in labels:
        numbers[label] += 1
        names.append(f"{label} ({numbers[label]})" if counts[label] > 1 else label)
    return names


def _join_models(served: Sequence[tuple[str | None, str]]) -> str | None:
    """The models that servers reported, with the judge's name where one is unknown; None if all are."""
    if all(model is None for model, _ in served):
        return None
    return " + ".join(model or label for model, label in served)
