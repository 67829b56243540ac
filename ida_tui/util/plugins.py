"""Judge and formula plugins of installed packages, found through entry points.

    [project.entry-points."ida_tui.judges"]
    keywords = "ida_keywords:Keywords"

A plugin is imported only when a profile or a command line names it; checking whether it exists reads package
metadata only. A plugin runs with all permissions of this process.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.plugin_threads import PluginFailure, run_call
from ida_tui.util.text import quoted

JUDGE_GROUP = "ida_tui.judges"
FORMULA_GROUP = "ida_tui.formulas"
REWARD_GROUP = "ida_tui.rewards"
LOAD_TIMEOUT_S = 600.0
"""Longest wait for the import of a plugin, in seconds; it may load a model."""
T = TypeVar("T")
_PLUGIN_KINDS = {JUDGE_GROUP: "judge", FORMULA_GROUP: "formula", REWARD_GROUP: "reward function"}


def plugin_names(group: str) -> list[str]:
    """The names of all plugins in an entry point group, sorted."""
    return sorted({entry.name for entry in entry_points(group=group)})


def find_plugin(group: str, name: str) -> EntryPoint:
    """The entry point of a plugin; its package is not imported.

    Raises:
        UsageError: no installed package provides the plugin, or several do.
    """
    entries = {entry.value: entry for entry in entry_points(group=group, name=name)}
    if len(entries) > 1:
        packages = " and ".join(sorted(describe_plugin(entry) for entry in entries.values()))
        raise UsageError(
            f"several packages provide the {_PLUGIN_KINDS[group]} {quoted(name)}: {packages}",
            "uninstall all but one of them",
        )
    if not entries:
        known = plugin_names(group)
        raise UsageError(
            f"no installed package provides the {_PLUGIN_KINDS[group]} {quoted(name)}"
            f" (entry point group {group})",
            f"available: {', '.join(known)}"
            if known
            else "install the package that provides it into the environment of ida-tui",
        )
    return next(iter(entries.values()))


def load_plugin(
    group: str,
    name: str,
    build: Callable[[object], T],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> T:
    """What `build` makes of the object that a plugin's entry point refers to; its package is imported.

    Args:
        group: the entry point group.
        name: the name of the plugin.
        build: receives the object. It runs in the plugin's thread, because it calls the plugin's code.
        should_stop: polled meanwhile.

    Raises:
        UsageError: no installed package provides the plugin, or several do.
        IdaError: the plugin cannot be imported or built.
        PluginStopped: `should_stop` returned true.
    """
    entry = find_plugin(group, name)
    try:
        return run_call(lambda: build(entry.load()), LOAD_TIMEOUT_S, should_stop=should_stop)
    except PluginFailure as failure:
        raise IdaError(
            f"the {_PLUGIN_KINDS[group]} {describe_plugin(entry)} cannot be used: {failure}",
            f"fix or reinstall that package, or choose another {_PLUGIN_KINDS[group]}",
            code=ExitCode.USAGE,
        ) from failure


def describe_plugin(entry: EntryPoint) -> str:
    """An entry point and its package, such as `"plain" (plain_judge:Plain from plain-judge 0.1.0)`."""
    package = f" from {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
    return f"{quoted(entry.name)} ({entry.value}{package})"
