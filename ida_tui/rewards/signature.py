"""Form of a reward function: how it wants to be called, told from the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from ida_tui.config.scoring.reward_files import BUILT_IN_PARAMETERS
from ida_tui.errors import UsageError

FunctionForm = Literal["batch", "group", "single"]
"""Called for a whole step, for the completions of one prompt, or for one completion."""
TEXT_ANNOTATIONS = ("list[str]", "sequence[str]")
"""Annotations of `completions` with which TRL's form gets texts instead of chat messages, in lower case."""


@dataclass(frozen=True, slots=True)
class Signature:
    """How a function wants to be called."""

    form: FunctionForm
    parameters: frozenset[str]
    """Names of the arguments that it can get, without those that its options have set."""
    takes_all: bool
    """Whether it has `**` for further columns."""
    required: frozenset[str]
    """Parameters without a default."""
    wants_texts: bool
    """Whether it gets texts; otherwise chat messages."""
    is_async: bool

    def missing_columns(self, columns: Collection[str]) -> list[str]:
        """The columns that it needs and that are not among these, sorted."""
        return sorted(self.required - set(BUILT_IN_PARAMETERS) - set(columns))


def read_signature(
    call: Callable[..., object], label: str, options: Collection[str] = ()
) -> Signature:
    """How a function wants to be called.

    Args:
        call: the function.
        label: its reference, for the error.
        options: names of its arguments that the rubric sets.

    Raises:
        UsageError: it takes neither `completion` nor `completions`.
    """
    try:
        parameters = dict(inspect.signature(call).parameters)
    except (TypeError, ValueError):
        parameters = {}
    kinds = inspect.Parameter
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        and name not in options
    }
    takes_all = any(parameter.kind == kinds.VAR_KEYWORD for parameter in parameters.values())
    if "completion" in named:
        form: FunctionForm = "single"
    elif "completions" in named:
        form = "group" if "prompt" in named else "batch"
    elif takes_all or "completion_ids" in named:
        form = "batch"
    else:
        raise UsageError(
            f"the reward function {label} takes neither completion nor completions",
            "define it as f(prompt, completion, **columns), or as TRL does: "
            "f(prompts, completions, completion_ids, **columns)",
        )
    annotation = str(named["completions"].annotation) if "completions" in named else ""
    texts = annotation.replace("typing.", "").replace(" ", "").lower()
    return Signature(
        form=form,
        parameters=frozenset(named),
        takes_all=takes_all,
        required=frozenset(name for name, p in named.items() if p.default is kinds.empty),
        wants_texts=form == "group" or texts in TEXT_ANNOTATIONS,
        is_async=_is_async(call),
    )


def _is_async(call: Callable[..., object]) -> bool:
    inner = getattr(call, "func", call)  # of functools.partial
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
        getattr(inner, "__call__", None)  # noqa: B004 - tests for async, not for callable
    )
