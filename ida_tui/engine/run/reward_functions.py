"""Reward functions of one training run: loaded after a notice that names their files."""

from __future__ import annotations

from ida_tui.config.scoring.reward_files import named_functions
from ida_tui.engine.exceptions import RunInterrupted
from ida_tui.engine.run.context import RunContext
from ida_tui.events import types as ev
from ida_tui.rewards.functions import RewardFunctions
from ida_tui.util.plugin_threads import PluginStopped


def load_functions(run: RunContext) -> RewardFunctions | None:
    """The reward functions of a run; None without any. Loading runs the code of their files.

    Raises:
        IdaError: a function cannot be found or imported, or needs a column that the data does not have.
        RunInterrupted: the user stopped the run while a file was imported.
    """
    rubric = run.config.rubric
    if not rubric.computed_axes:
        return None
    for label, axes in named_functions(rubric):
        text = f"Reward function {label} computes {', '.join(axes)}"
        run.emit(ev.Noticed(level="info", source="reward", text=text))
    try:
        return RewardFunctions(
            rubric,
            columns=run.config.prompts.column_names(),
            should_stop=run.control.stop.is_set,
        )
    except PluginStopped:
        raise RunInterrupted from None
