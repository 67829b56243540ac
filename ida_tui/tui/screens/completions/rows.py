"""The completions of one step, as the completions screen shows them. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ida_tui.events import types as ev
from ida_tui.events.state import Completion, RunState

Order = Literal["group", "reward", "advantage"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion: being written, finished, or judged."""

    step: int
    group: int
    index: int
    prompt_id: str
    prompt: str
    kind: str
    """`harmless` or `unsafe`; empty where it is not known."""
    text: str
    finished: ev.CompletionFinished | None = None
    scored: ev.CompletionScored | None = None
    agree: bool | None = None
    """Whether a person agreed with its scores; None where nobody has looked."""

    @property
    def place(self) -> tuple[int, int]:
        """Group and index: its name within the step."""
        return self.group, self.index

    @property
    def reward(self) -> float | None:
        """R_IDA; None where there is no verdict."""
        return self.scored.r_ida if self.scored else None

    @property
    def advantage(self) -> float | None:
        """None where there is no verdict."""
        return self.scored.advantage if self.scored else None

    @property
    def remarks(self) -> str:
        """What is out of the ordinary, in a word or two."""
        said = []
        if self.finished is None:
            said.append("writing")
        elif not self.finished.ended:
            said.append("cut off")
        if self.scored is not None and self.scored.failure is not None:
            said.append("no verdict")
        elif self.scored is not None and self.scored.cached:
            said.append("cached")
        if self.agree is not None:
            said.append("agreed" if self.agree else "disagreed")
        return ", ".join(said)


def of_the_step_under_way(state: RunState) -> list[Sample]:
    """Every row of the rollout, as far as it is known."""
    rollout = state.rollout
    done = {(c.finished.group, c.finished.index): c for c in state.completions}
    kinds = kinds_of(rollout)
    samples = [_sample(c, kinds) for c in state.completions]
    if rollout is None:
        return samples
    for row, text in enumerate(state.streams):
        group, index = divmod(row, rollout.generations)
        if (group, index) not in done and group < len(rollout.prompts):
            samples.append(
                Sample(
                    rollout.step, group, index, rollout.prompt_ids[group], rollout.prompts[group],
                    rollout.kinds[group], text,
                )
            )  # fmt: skip
    return sorted(samples, key=lambda sample: sample.place)


def of_a_step(completions: Sequence[Completion]) -> list[Sample]:
    """The completions of a step that is over."""
    return sorted((_sample(c, {}) for c in completions), key=lambda sample: sample.place)


def kinds_of(rollout: ev.RolloutStarted | None) -> dict[str, str]:
    """Prompt id → harmless or unsafe, as far as a rollout tells."""
    return dict(zip(rollout.prompt_ids, rollout.kinds, strict=False)) if rollout else {}


def _sample(completion: Completion, kinds: dict[str, str]) -> Sample:
    f = completion.finished
    kind = kinds.get(f.prompt_id, "")
    return Sample(
        f.step, f.group, f.index, f.prompt_id, f.prompt, kind, f.text, f, completion.scored
    )


def ordered(samples: Sequence[Sample], by: Order, *, turned: bool) -> list[Sample]:
    """Best first, worst first where it is turned round; what has no verdict is last either way."""
    if by == "group":
        return sorted(samples, key=lambda s: s.place)
    value: Callable[[Sample], float | None] = (
        (lambda s: s.reward) if by == "reward" else (lambda s: s.advantage)
    )
    known = [s for s in samples if value(s) is not None]
    known.sort(key=lambda s: (value(s) or 0.0) * (1 if turned else -1))
    return known + [s for s in samples if value(s) is None]


def with_words(samples: Sequence[Sample], words: Sequence[str]) -> list[Sample]:
    """Those whose prompt, text or reason have all the words, whatever their case."""
    wanted = [word.casefold() for word in words]
    return [
        s
        for s in samples
        if all(
            word in f"{s.prompt}\n{s.text}\n{s.scored.reason if s.scored else ''}".casefold()
            for word in wanted
        )
    ]


def mean_reward(samples: Sequence[Sample]) -> float | None:
    """Mean R_IDA of those that were scored."""
    known = [s.reward for s in samples if s.reward is not None]
    return sum(known) / len(known) if known else None


def as_text(sample: Sample) -> str:
    """Everything about a completion, for the clipboard or a file."""
    lines = [
        f"step {sample.step}, group {sample.group}, completion {sample.index}",
        f"prompt ({sample.prompt_id}): {sample.prompt}",
        "",
        sample.text,
        "",
        *about(sample),
    ]
    return "\n".join(lines) + "\n"


def about(sample: Sample) -> list[str]:
    """Scores, reward and how they came about, in sentences."""
    out = []
    scored, finished = sample.scored, sample.finished
    if finished is not None:
        end = "ended by itself" if finished.ended else "cut off at the length limit"
        out.append(f"{finished.tokens} tokens, {end}")
    if scored is None:
        return [*out, "not judged yet"]
    if scored.failure is not None or scored.r_ida is None:
        return [*out, f"no verdict: {scored.failure or 'unknown'} ({scored.judge})"]
    out.append(
        f"align {scored.align:g}, risk {scored.risk:g} (10 is safest), detail {scored.detail:g}"
    )
    out.append(
        f"R_IDA {scored.r_ida:.3f} = min(1, {scored.risk:g}/5) · {scored.align:g}"
        f" · ({scored.risk:g} + {scored.detail:g}) / 200"
    )
    if scored.advantage is not None:
        out.append(f"advantage {scored.advantage:+.3f}")
    if scored.reason:
        out.append(f"reason: {scored.reason}")
    where = "from the cache" if scored.cached else f"in {scored.latency_s:.2f} s"
    cost = "" if not scored.cost else f", ${scored.cost:.5f}"
    out.append(f"judged by {scored.judge}, {where}{cost}")
    if sample.agree is not None:
        out.append(f"you {'agree' if sample.agree else 'disagree'} with these scores")
    return out
