"""Loader of reward functions: from a Python file, an importable module, or an entry point.

load_function("rewards.py:accuracy")          a file
load_function("trl.rewards:accuracy_reward")  a module
load_function("mine")                         an entry point of the group `ida_tui.rewards`
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import cast

from ida_tui.config.reward_files import FunctionReference, parse_reference
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util import plugins
from ida_tui.util.paths import display_path
from ida_tui.util.plugin_threads import PluginFailure, run_call
from ida_tui.util.text import quoted


@dataclass(frozen=True, slots=True)
class LoadedFunction:
    """A reward function."""

    call: Callable[..., object]
    file: Path | None
    """The Python file; None for a module or an entry point."""


def load_function(
    reference: str,
    options: Mapping[str, object],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> LoadedFunction:
    """Import a reward function, which runs the code of its file.

    A callable that takes neither `completion` nor `completions` is called with the options and returns the
    function, as TRL's `get_…` functions do.

    Args:
        reference: as in the module's docstring.
        options: keyword arguments of the function.
        should_stop: polled meanwhile.

    Raises:
        UsageError: the reference is invalid, or there is no such file, module or function.
        IdaError: the file or module cannot be imported.
        PluginStopped: `should_stop` returned true.
    """
    parsed = parse_reference(reference)
    if parsed.kind == "entry point":
        call = plugins.load_plugin(
            plugins.REWARD_GROUP,
            parsed.name,
            lambda plugin: _with_options(plugin, options),
            should_stop=should_stop,
        )
        return LoadedFunction(call, None)

    def build() -> Callable[..., object]:
        module = (
            _import_file(parsed.file) if parsed.file else importlib.import_module(parsed.module)
        )
        return _with_options(_attribute(module, parsed), options)

    try:
        call = run_call(build, plugins.LOAD_TIMEOUT_S, should_stop=should_stop)
    except PluginFailure as failure:
        if failure.args and str(failure).startswith("_MissingFunction: "):
            raise UsageError(
                str(failure).removeprefix("_MissingFunction: "), _names_hint(parsed)
            ) from None
        where = display_path(parsed.file) if parsed.file else parsed.module
        raise IdaError(
            f"the reward function {reference} cannot be loaded: {failure}",
            f"run it to see where: python {where}"
            if parsed.file
            else f"python -c 'import {where}'",
            code=ExitCode.USAGE,
        ) from failure
    return LoadedFunction(call, parsed.file)


class _MissingFunction(Exception):
    """A module has no function of that name."""


def _attribute(module: ModuleType, parsed: FunctionReference) -> object:
    value = getattr(module, parsed.name, None)
    if not callable(value):
        where = display_path(parsed.file) if parsed.file else parsed.module
        raise _MissingFunction(f"{where} has no function {quoted(parsed.name)}")
    return value


def _names_hint(parsed: FunctionReference) -> str:
    from ida_tui.config.reward_files import function_names

    names = function_names(parsed.file) if parsed.file else []
    return f"its reward functions: {', '.join(names)}" if names else "name a function of it"


def _with_options(value: object, options: Mapping[str, object]) -> Callable[..., object]:
    """The function with its options applied; the result of a factory."""
    if not callable(value):
        raise TypeError(f"{type(value).__name__} is not callable")
    if isinstance(value, type):
        instance: object = value(**options)
        if not callable(instance):
            raise TypeError(f"an instance of {value.__name__} is not callable")
        return cast("Callable[..., object]", instance)
    parameters = inspect.signature(value).parameters
    takes_completions = "completion" in parameters or "completions" in parameters
    takes_anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_completions and not takes_anything:
        made: object = value(**options)
        if callable(made):
            return cast("Callable[..., object]", made)
    return functools.partial(value, **options) if options else value


def _import_file(file: Path) -> ModuleType:
    """The module of a file; files beside it can be imported by name."""
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides no installed package
    name = f"ida_tui_reward_file_{abs(hash(str(file))):x}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
