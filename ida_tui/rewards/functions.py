"""Reward functions: Python functions of a person that compute axes of a rubric.

    functions = RewardFunctions(config.rubric)
    pending = functions.start(rows, group_size=8)      # while the judge works
    for computed in pending.collect():                 # one per completion
        computed.scores, computed.failures

A function has one of three forms, told apart by the names of its parameters:

    def f(prompts, completions, completion_ids, **columns) -> list[float | None]    TRL's, for a whole step
    def f(prompt, completions, **columns) -> list[float | None]                     for one group
    def f(prompt, completion, **columns) -> float | None | dict[str, float]         for one completion

Each may be `async`. It gets the columns of the data that its signature names, or all of them with `**`. TRL's
form gets lists of chat messages, as for TRL's conversational data sets, unless its parameter `completions` is
annotated `list[str]`; the other forms get texts. A function runs in a thread of its own with all permissions
of this process. An exception, None, a result of another length or type, a score outside of the axis's range,
and a call that takes longer than `rubric.function_timeout_s` are failures with a reason, never scores.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import ModuleType

from ida_tui.config.scoring.reward_files import display_reference
from ida_tui.config.scoring.rubric import RubricConfig
from ida_tui.errors import UsageError
from ida_tui.rewards.function_call import Function, FunctionCall
from ida_tui.rewards.load_function import load_function
from ida_tui.rewards.rows import ComputedScores as ComputedScores
from ida_tui.rewards.rows import RewardRow as RewardRow
from ida_tui.rewards.signature import read_signature
from ida_tui.util.plugin_threads import PluginFailure, PluginLoop
from ida_tui.util.text import quoted


class RewardFunctions:
    """The reward functions of a rubric. Use it from one thread.

    Args:
        rubric: the rubric; its computed axes name the functions.
        columns: names of the columns of the data, to check that the functions find theirs; None: no check.
        should_stop: polled while a function's file is imported.

    Raises:
        UsageError: a function cannot be found, or needs a column that the data does not have.
        IdaError: a function cannot be imported.
        PluginStopped: `should_stop` returned true.
    """

    def __init__(
        self,
        rubric: RubricConfig,
        *,
        columns: Collection[str] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rubric = rubric
        self._columns = columns
        self._should_stop = should_stop
        self._timeout_s = rubric.function_timeout_s
        self.functions: Sequence[Function] = self._load()
        """Each function once, in the order of its first axis."""

    def _load(self) -> list[Function]:
        rubric = self._rubric
        functions: dict[tuple[str, str], Function] = {}
        imported: dict[Path, ModuleType] = {}
        for axis in rubric.axis_list:
            if axis.kind != "computed":
                continue
            settings = rubric.axes[axis.name]
            reference, options = settings.function, settings.options
            key = (reference, repr((sorted(options.items()), settings.include_thoughts)))
            if key not in functions:
                loaded = load_function(
                    reference, options, imported=imported, should_stop=self._should_stop
                )
                label = display_reference(reference)
                signature = read_signature(loaded.call, label, loaded.options)
                loop = PluginLoop() if signature.is_async else None
                functions[key] = Function(
                    loaded.call,
                    label,
                    loaded.file,
                    signature,
                    [],
                    loop,
                    settings.include_thoughts,
                )
            functions[key].axes.append(axis)
        if self._columns is not None:
            for function in functions.values():
                for column in function.signature.missing_columns(self._columns):
                    raise missing_column_error(function.label, column, self._columns)
        return list(functions.values())

    def __bool__(self) -> bool:
        return bool(self.functions)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes that the functions compute."""
        return tuple(axis.name for function in self.functions for axis in function.axes)

    @property
    def needs_token_ids(self) -> bool:
        """Whether a function names `completion_ids`."""
        return any("completion_ids" in f.signature.parameters for f in self.functions)

    def missing_columns(self, columns: Collection[str]) -> list[tuple[str, str]]:
        """Each function with a column that it needs and that is not among these."""
        return [
            (function.label, column)
            for function in self.functions
            for column in function.signature.missing_columns(columns)
        ]

    def leave_out_all_but_texts(self) -> list[tuple[str, str]]:
        """Leave out the functions that need columns or token ids; their axes, each with the reason."""
        left_out, kept = [], []
        for function in self.functions:
            missing = function.signature.missing_columns(())
            needs = f"the column {missing[0]}" if missing else ""
            if not needs and "completion_ids" in function.signature.parameters:
                needs = "token ids"
            if needs:
                names = ", ".join(axis.name for axis in function.axes)
                left_out.append((names, f"{function.label} needs {needs}"))
            else:
                kept.append(function)
        self.functions = kept
        return left_out

    def reload(self) -> None:
        """Import the functions again, after their files have changed.

        Raises:
            IdaError: as in the constructor; the functions are those of before.
        """
        self.functions = self._load()

    def start(
        self, rows: Sequence[RewardRow], *, group_size: int, step: int = 0, steps: int = 0
    ) -> PendingScores:
        """Call the functions for all completions of a step; returns immediately.

        Args:
            rows: the completions, those of a group next to each other.
            group_size: completions per prompt.
            step: steps done so far, for `trainer_state.global_step`.
            steps: the planned steps, for `trainer_state.max_steps`.
        """
        state = {"global_step": step, "max_steps": steps}
        calls = [
            FunctionCall(function, rows, group_size, state, self._timeout_s)
            for function in self.functions
        ]
        return PendingScores(calls, len(rows))

    def compute(
        self,
        rows: Sequence[RewardRow],
        *,
        group_size: int,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> list[ComputedScores]:
        """Call the functions and wait for their scores.

        Raises:
            PluginStopped: `should_stop` returned true.
        """
        return self.start(rows, group_size=group_size).collect(should_stop)


class PendingScores:
    """Scores that functions are computing."""

    def __init__(self, calls: Sequence[FunctionCall], rows: int) -> None:
        self._calls = calls
        self._rows = rows

    def collect(self, should_stop: Callable[[], bool] = lambda: False) -> list[ComputedScores]:
        """Wait for the scores of all completions, in their order.

        Raises:
            PluginStopped: `should_stop` returned true.
        """
        for call in self._calls:
            call.wait(should_stop)
        return [self._computed_scores(row) for row in range(self._rows)]

    @property
    def seconds(self) -> list[float]:
        """The time of each function for all completions, in seconds, after `collect`."""
        return [call.seconds or 0.0 for call in self._calls]

    def _computed_scores(self, row: int) -> ComputedScores:
        scores: dict[str, float | None] = {}
        failures: dict[str, str] = {}
        for call in self._calls:
            for axis, score in call.scores(row).items():
                if isinstance(score, PluginFailure):
                    scores[axis], failures[axis] = None, str(score)
                else:
                    scores[axis] = score
        return ComputedScores(scores, failures)


def missing_column_error(label: str, column: str, columns: Collection[str]) -> UsageError:
    """The error of a function that needs a column that the data does not have."""
    known = ", ".join(sorted(columns)) or "none"
    return UsageError(
        f"the reward function {label} needs the column {quoted(column)}, which the prompts do not have",
        f"add it to the data, rename the parameter, or give it a default; columns: {known}",
    )
