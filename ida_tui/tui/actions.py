"""Table of all user actions, from which the key bindings, footer, palette, and help are built.

An action belongs to one screen or to all screens. The method `action_<id>` of that screen runs it (of the app
if it belongs to all screens). `tests/tui/test_actions.py` checks that every action has its method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding, BindingType

Scope = Literal["everywhere", "launch", "run", "completions", "runs", "compare", "sweep", "chat"]

SCOPE_TITLES: dict[Scope, str] = {
    "everywhere": "Everywhere",
    "launch": "Launch",
    "run": "Run",
    "completions": "Completions",
    "runs": "Runs",
    "compare": "Compare",
    "sweep": "Sweep",
    "chat": "Chat",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One user action.

    Args:
        id: name of the action; the method `action_<id>` runs it.
        keys: key names as Textual spells them; the footer and the help show the first.
        label: one or two words, for the footer and the palette.
        help: one sentence, for the palette and the help.
        scope: the screen it belongs to.
        footer: whether the footer shows it.
        key_label: label of the first key; None uses Textual's label.
    """

    id: str
    keys: tuple[str, ...]
    label: str
    help: str
    scope: Scope = "everywhere"
    footer: bool = False
    key_label: str | None = None


ACTIONS: tuple[Action, ...] = (
    # -- everywhere ---------------------------------------------------------------------------
    Action("go('launch')", ("1",), "Launch", "Choose a model, an experiment, and a judge."),
    Action("go('run')", ("2",), "Run",
           "Show the run's progress, scores, judge, memory, and health."),
    Action("go('completions')", ("3",), "Completions",
           "Read every completion with its scores and the judge's reason."),
    Action("go('runs')", ("4",), "Runs", "List past runs, and live runs of other processes."),
    Action("help", ("question_mark", "5", "f1"), "Help",
           "List all keys, and explain what the scores mean.", footer=True, key_label="?"),
    Action("cursor_down", ("j", "down"), "Move down",
           "Go to the next line of the focused list or pane."),
    Action("cursor_up", ("k", "up"), "Move up",
           "Go to the previous line of the focused list or pane."),
    Action("cursor_top", ("g", "home"), "Go to top",
           "Go to the first line of the focused list or pane."),
    Action("cursor_bottom", ("G", "end"), "Go to bottom",
           "Go to the last line of the focused list or pane.", key_label="G"),
    Action("focus_next", ("tab",), "Next pane", "Focus the next list or pane of this screen."),
    Action("focus_previous", ("shift+tab",), "Previous pane",
           "Focus the previous list or pane of this screen."),
    Action("back", ("escape",), "Back", "Close the search, the maximized pane, or this screen."),
    Action("command_palette", ("ctrl+p",), "Palette", "Search all actions by name.", footer=True),
    Action("change_theme", ("t",), "Theme", "Choose the colors: dark, light, or the terminal's."),
    Action("quit", ("q", "ctrl+q"), "Quit", "Close the app; you must confirm if a run is live.",
           footer=True),
    # -- launch -------------------------------------------------------------------------------
    Action("start", ("enter",), "Start", "Train with the selected model, experiment, and judge.",
           "launch", footer=True),
    Action("edit", ("e",), "Edit", "Change the selected setting for the next run.",
           "launch", footer=True),
    Action("undo", ("u",), "Undo", "Reset the selected setting to the profile's value.",
           "launch"),
    Action("undo_all", ("U",), "Undo all", "Reset all edited settings to the profile's values.",
           "launch", key_label="U"),
    Action("filter", ("slash",), "Filter", "Filter this list by text.",
           "launch", True, "/"),
    Action("recheck", ("r",), "Recheck", "Check the device, model, API key, and disk again.",
           "launch"),
    Action("check_judge", ("c",), "Check reward",
           "Test the reward functions and the judge on known answers.", "launch", footer=True),
    Action("past_runs", ("o",), "Past runs", "List the runs in the output directory.",
           "launch", footer=True),
    # -- run ----------------------------------------------------------------------------------
    Action("stop", ("s",), "Stop", "End the training and save a checkpoint.", "run", footer=True),
    Action("pause", ("p",), "Pause", "Pause the training after this step, or resume it.", "run",
           footer=True),
    Action("detach", ("d",), "Detach", "Continue the training in the background.",
           "run", footer=True),
    Action("freeze", ("space",), "Freeze", "Freeze or unfreeze the display; training continues.",
           "run", True),
    Action("pane('progress')", ("P",), "Progress", "Maximize or restore the Progress pane.", "run"),
    Action("pane('scores')", ("S",), "Scores", "Maximize or restore the Scores pane.", "run"),
    Action("pane('judge')", ("J",), "Judge", "Maximize or restore the Judge pane.", "run"),
    Action("pane('memory')", ("M",), "Memory", "Maximize or restore the Memory pane.", "run"),
    Action("pane('health')", ("H",), "Health", "Maximize or restore the Health pane.", "run"),
    Action("pane('log')", ("L",), "Log", "Maximize or restore the Log pane.", "run"),
    Action("hide_pane", ("x",), "Hide pane",
           "Hide the focused pane; press its capital letter to show it again.", "run", True),
    Action("show_panes", ("X",), "Show all", "Show all hidden panes, and restore a maximized pane.",
           "run", key_label="X"),
    Action("step_back", ("left_square_bracket",), "Step back",
           "Show the run as it was one step earlier.", "run", key_label="["),
    Action("step_forward", ("right_square_bracket",), "Step forward",
           "Show the run as it was one step later.", "run", key_label="]"),
    Action("latest_step", ("backslash",), "Latest step", "Return to the latest step of the run.",
           "run", key_label="\\"),
    # -- completions --------------------------------------------------------------------------
    Action("next_step", ("n",), "Next step",
           "Show the next step; during a search, the next step with a match.",
           "completions", footer=True),
    Action("previous_step", ("N",), "Previous step",
           "Show the previous step; during a search, the previous step with a match.",
           "completions", key_label="N"),
    Action("follow", ("f",), "Follow", "Always show the latest step of the run.", "completions"),
    Action("sort_reward", ("r",), "By reward",
           "Sort by reward, highest first; press again to reverse.", "completions", True),
    Action("sort_advantage", ("a",), "By advantage",
           "Sort by advantage, highest first; press again to reverse.", "completions"),
    Action("sort_group", ("u",), "By group", "Sort by group, in the order of generation.",
           "completions"),
    Action("side_by_side", ("v",), "Side by side",
           "Show all completions of the selected group in columns.", "completions", footer=True),
    Action("toggle_thoughts", ("z",), "Thoughts",
           "Show the thoughts of the completions, or fold them.", "completions"),
    Action("search", ("slash",), "Search",
           "Filter completions by words; n and N search other steps.",
           "completions", True, "/"),
    Action("copy", ("y",), "Copy", "Copy the completion and its scores to the clipboard.",
           "completions"),
    Action("save", ("w",), "Save", "Write the completion to a file in the run directory.",
           "completions"),
    Action("agree", ("plus",), "Agree", "Mark the scores as right; the mark is saved with the run.",
           "completions", key_label="+"),
    Action("disagree", ("minus",), "Disagree",
           "Mark the scores as wrong; the mark is saved with the run.",
           "completions", key_label="-"),
    Action("clear_mark", ("0",), "Clear", "Remove your mark from the scores.", "completions"),
    # -- runs ---------------------------------------------------------------------------------
    Action("open", ("enter",), "Open", "Replay the run, or follow it if it is live.",
           "runs", footer=True),
    Action("filter", ("slash",), "Filter", "Filter this list by words.",
           "runs", True, "/"),
    Action("reload", ("r",), "Reload", "Read the run directories from disk again.",
           "runs", footer=True),
    Action("mark", ("space", "m"), "Mark", "Select the run for comparison, or deselect it.", "runs",
           footer=True),
    Action("compare", ("c",), "Compare", "Show the marked runs side by side.", "runs", footer=True),
    Action("report", ("w",), "Report", "Write report.html to the run directory.",
           "runs", footer=True),
    Action("sweeps", ("s",), "Sweeps", "Show the results and the runs of the latest sweep.", "runs"),
    Action("chat", ("a",), "Chat", "Talk to the model before and after training.", "runs",
           footer=True),
    # -- compare ------------------------------------------------------------------------------
    Action("next_curve", ("n",), "Next curve",
           "Show the next metric alone; after the last metric, show all.",
           "compare", footer=True),
    Action("previous_curve", ("N",), "Previous curve", "Show the previous metric alone.", "compare",
           key_label="N"),
    Action("reload", ("r",), "Reload", "Read the compared runs from disk again.",
           "compare", footer=True),
    # -- sweep --------------------------------------------------------------------------------
    Action("open", ("enter",), "Open", "Replay the run, or follow it if it is live.",
           "sweep", footer=True),
    Action("next_sweep", ("n",), "Older sweep", "Show the next older sweep.",
           "sweep", footer=True),
    Action("previous_sweep", ("N",), "Newer sweep", "Show the next newer sweep.",
           "sweep", key_label="N"),
    # -- chat ---------------------------------------------------------------------------------
    Action("write", ("enter",), "Write", "Type a message to both models; Enter sends it.", "chat"),
    Action("judge", ("ctrl+r",), "Judge", "Score the latest answers with the run's judge.",
           "chat", footer=True),
    Action("kind", ("ctrl+t",), "Kind", "Mark the next message as harmless or unsafe.",
           "chat", footer=True),
    Action("greedy", ("ctrl+g",), "Greedy", "Switch between greedy decoding and sampling.",
           "chat", footer=True),
    Action("toggle_thoughts", ("ctrl+o",), "Thoughts",
           "Show the thoughts of the answers, or fold them into one line each.", "chat"),
    Action("save_messages", ("ctrl+s",), "Save",
           "Save the messages as prompts for the next experiment.", "chat", footer=True),
    Action("new_conversation", ("ctrl+n",), "New", "Clear the messages and start a new conversation.",
           "chat", footer=True),
)  # fmt: skip


def actions_of(scope: Scope) -> tuple[Action, ...]:
    """The actions of one scope, in table order."""
    return tuple(action for action in ACTIONS if action.scope == scope)


def bindings_for(scope: Scope) -> list[BindingType]:
    """The key bindings of one scope. The footer shows only the first key of an action."""
    return [
        Binding(
            key,
            action.id,
            action.label,
            show=action.footer and number == 0,
            key_display=action.key_label if number == 0 else None,
            tooltip=action.help,
            id=f"{action.scope}.{action.id}.{number}",
        )
        for action in actions_of(scope)
        for number, key in enumerate(action.keys)
    ]


def method_name(action: Action) -> str:
    """The name of the method that runs an action."""
    return f"action_{action.id.partition('(')[0]}"


def key_label(key: str) -> str:
    """A key name of Textual as the app displays it."""
    names = {
        "question_mark": "?",
        "slash": "/",
        "backslash": "\\",
        "left_square_bracket": "[",
        "right_square_bracket": "]",
        "escape": "esc",
        "down": "↓",
        "up": "↑",
    }
    return names.get(key, key.replace("ctrl+", "^") if key.startswith("ctrl+") else key)
