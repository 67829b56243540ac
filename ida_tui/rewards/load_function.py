"""Loader of reward functions: from a Python file, an importable module, or an entry point.

load_function("rewards.py:accuracy", {})          a file
load_function("trl.rewards:accuracy_reward", {})  a module
load_function("mine", {})                         an entry point of the group `ida_tui.rewards`
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import linecache
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ida_tui.config.scoring.reward_files import (
    COMPLETION_PARAMETERS,
    FunctionReference,
    function_names,
    parse_reference,
)
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util import plugins
from ida_tui.util.paths import display_path
from ida_tui.util.plugin_threads import PluginFailure, run_call
from ida_tui.util.text import quoted

_helper_modules: dict[Path, set[str]] = {}
"""The modules beside a reward file that its import has loaded; they are loaded again with it."""


@dataclass(frozen=True, slots=True)
class LoadedFunction:
    """A reward function."""

    call: Callable[..., object]
    file: Path | None
    """The Python file; None for a module or an entry point."""
    options: frozenset[str] = frozenset()
    """Names of the arguments that the options have set; the data does not set them."""


def load_function(
    reference: str,
    options: Mapping[str, object],
    *,
    imported: dict[Path, ModuleType] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LoadedFunction:
    """Import a reward function, which runs the code of its file.

    A callable that takes neither `completion` nor `completions` is called with the options and returns the
    function, as TRL's `get_…` functions do.

    Args:
        reference: as in the module's docstring.
        options: keyword arguments of the function.
        imported: files that are imported already, so that functions of one file share its module; the new
            one is added.
        should_stop: polled meanwhile.

    Raises:
        UsageError: the reference is invalid, there is no such file, module or function, or it does not take
            the options.
        IdaError: the file or module cannot be imported.
        PluginStopped: `should_stop` returned true.
    """
    parsed = parse_reference(reference)
    if parsed.kind == "entry point":
        return plugins.load_plugin(
            plugins.REWARD_GROUP,
            parsed.name,
            lambda plugin: _with_options(plugin, options, None),
            should_stop=should_stop,
        )
    problem: list[UsageError] = []

    def build() -> LoadedFunction:
        if parsed.file is None:
            module = importlib.import_module(parsed.module)
        elif imported is not None and parsed.file in imported:
            module = imported[parsed.file]
        else:
            module = _import_file(parsed.file)
            if imported is not None:
                imported[parsed.file] = module
        try:
            return _with_options(_attribute(module, parsed), options, parsed.file)
        except UsageError as error:
            problem.append(error)
            raise

    try:
        return run_call(build, plugins.LOAD_TIMEOUT_S, should_stop=should_stop)
    except PluginFailure as failure:
        if problem:
            raise problem[0] from None
        where = display_path(parsed.file) if parsed.file else parsed.module
        raise IdaError(
            f"the reward function {reference} cannot be loaded: {failure}",
            f"to see where, run: {'python' if parsed.file else 'python -m'} {where}",
            code=ExitCode.USAGE,
        ) from failure


def _attribute(module: ModuleType, parsed: FunctionReference) -> object:
    value = getattr(module, parsed.name, None)
    if callable(value):
        return value
    where = display_path(parsed.file) if parsed.file else parsed.module
    names = function_names(parsed.file) if parsed.file else []
    raise UsageError(
        f"{where} has no function {quoted(parsed.name)}",
        f"its reward functions: {', '.join(names)}" if names else "name a function of it",
    )


def _with_options(
    value: object, options: Mapping[str, object], file: Path | None
) -> LoadedFunction:
    """The function with its options applied; the result of a factory.

    Raises:
        UsageError: it does not take the options.
    """
    if not callable(value):
        raise TypeError(f"{type(value).__name__} is not callable")
    if isinstance(value, type):
        return LoadedFunction(_made_by(value, options), file)
    parameters = inspect.signature(value).parameters
    takes_completions = not COMPLETION_PARAMETERS.isdisjoint(parameters)
    takes_anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_completions and not takes_anything:
        return LoadedFunction(_made_by(value, options), file)
    _check_options(value, options)
    call = functools.partial(value, **options) if options else value
    return LoadedFunction(call, file, frozenset(options))


def _made_by(
    factory: Callable[..., object], options: Mapping[str, object]
) -> Callable[..., object]:
    """The function that a class or a factory makes."""
    name = getattr(factory, "__name__", type(factory).__name__)
    _check_options(factory, options, complete=True)
    made = factory(**options)
    if not callable(made):
        raise UsageError(
            f"{name} takes neither completion nor completions, and returns no function but"
            f" {type(made).__name__}",
            "define it as f(prompt, completion, **columns), or as TRL does: "
            "f(prompts, completions, completion_ids, **columns)",
        )
    return made


def _check_options(
    value: Callable[..., object], options: Mapping[str, object], *, complete: bool = False
) -> None:
    """Raise if a function does not take the options, or needs more of them."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return  # a class of C; its call says what is wrong
    try:
        (signature.bind if complete else signature.bind_partial)(**options)
    except TypeError as error:
        name = getattr(value, "__name__", type(value).__name__)
        names = ", ".join(p for p in signature.parameters if p not in ("self",))
        raise UsageError(
            f"{name} cannot take its options: {error}",
            f"set options: {{NAME: value}} of the axis; {name} takes {names or 'none'}",
        ) from None


def _import_file(file: Path) -> ModuleType:
    """The module of a file; files beside it can be imported by name."""
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides no installed package
    for helper in _helper_modules.pop(file, ()):
        sys.modules.pop(helper, None)
    importlib.invalidate_caches()
    linecache.checkcache(str(file))
    name = f"ida_tui_reward_file_{file.stem}_{abs(hash(str(file))):x}"
    module = ModuleType(name)
    module.__file__ = str(file)
    before = set(sys.modules)
    sys.modules[name] = module
    try:
        # Compiled here: a cached compilation may be of a file that was changed within the same second.
        code = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        _helper_modules[file] = {
            helper
            for helper in set(sys.modules) - before
            if _folder_of(sys.modules[helper]) == file.parent and helper != name
        }
    return module


def _folder_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).parent if isinstance(file, str) else None
