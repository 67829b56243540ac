"""Everything a person can do, in one table: it feeds the key bindings, the footer, the palette and the help.

An action belongs to one screen, or to all of them, and is carried out by the method `action_<id>` of that
screen (of the app, where it belongs to all). `tests/tui/test_actions.py` holds the table to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding, BindingType

Scope = Literal["everywhere", "launch", "run", "completions", "runs", "compare", "sweep", "chat"]

TITLES: dict[Scope, str] = {
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
    """One thing a person can do.

    Args:
        id: carried out by the method ``action_<id>``.
        keys: in Textual's names; the first is the one that is shown.
        label: a word or two, for the footer and the palette.
        help: one sentence, for the palette and the help.
        scope: the screen it belongs to.
        footer: whether the footer shows it.
        shown: the first key as people write it, where Textual's own way is not good enough.
    """

    id: str
    keys: tuple[str, ...]
    label: str
    help: str
    scope: Scope = "everywhere"
    footer: bool = False
    shown: str | None = None


ACTIONS: tuple[Action, ...] = (
    # -- everywhere ---------------------------------------------------------------------------
    Action("go('launch')", ("1",), "Launch", "Choose a model, an experiment and a judge."),
    Action("go('run')", ("2",), "Run", "Watch the run: progress, scores, judge, memory, health."),
    Action("go('completions')", ("3",), "Completions", "Read every completion and its scores."),
    Action("go('runs')", ("4",), "Runs", "Look at past runs, or at one in another process."),
    Action("help", ("question_mark", "5", "f1"), "Help", "Every key.", footer=True, shown="?"),
    Action("cursor_down", ("j", "down"), "Down", "Move down, in a list or a text."),
    Action("cursor_up", ("k", "up"), "Up", "Move up."),
    Action("cursor_top", ("g", "home"), "Top", "Move to the top."),
    Action("cursor_bottom", ("G", "end"), "Bottom", "Move to the bottom.", shown="G"),
    Action("focus_next", ("tab",), "Next pane", "Move to the next list or pane."),
    Action("focus_previous", ("shift+tab",), "Previous pane", "Move to the one before."),
    Action("back", ("escape",), "Back", "Leave a search, a maximised pane or this screen."),
    Action("command_palette", ("ctrl+p",), "Palette", "Find any of these by name.", footer=True),
    Action("change_theme", ("t",), "Theme", "Choose other colours: dark, light or your terminal's."),
    Action("quit", ("q", "ctrl+q"), "Quit", "Leave; asks first while a run is live.", footer=True),
    # -- launch -------------------------------------------------------------------------------
    Action("start", ("enter",), "Start", "Start the run.", "launch", footer=True),
    Action("edit", ("e",), "Edit", "Change the value under the cursor.", "launch", footer=True),
    Action("undo", ("u",), "Undo", "Take back the change to this value.", "launch"),
    Action("undo_all", ("U",), "Undo all", "Take back every change.", "launch", shown="U"),
    Action("filter", ("slash",), "Filter", "Show what has these letters.", "launch", True, "/"),
    Action("recheck", ("r",), "Check again", "Look again at device, model, key, disk.", "launch"),
    Action("check_judge", ("c",), "Check judge", "See how far the judge can be trusted.",
           "launch", footer=True),
    Action("past_runs", ("o",), "Past runs", "Open the list of past runs.", "launch", footer=True),
    # -- run ----------------------------------------------------------------------------------
    Action("stop", ("s",), "Stop", "Stop the training and keep a checkpoint.", "run", footer=True),
    Action("pause", ("p",), "Pause", "Pause the training after this step, or let it go on.", "run",
           footer=True),
    Action("detach", ("d",), "Detach", "Train on in a process of its own; the app only follows.",
           "run", footer=True),
    Action("hold", ("space",), "Hold", "Hold the display still; the run goes on.", "run", True),
    Action("pane('progress')", ("P",), "Progress", "Maximise this pane, or show it again.", "run"),
    Action("pane('scores')", ("S",), "Scores", "Maximise this pane, or show it again.", "run"),
    Action("pane('judge')", ("J",), "Judge", "Maximise this pane, or show it again.", "run"),
    Action("pane('memory')", ("M",), "Memory", "Maximise this pane, or show it again.", "run"),
    Action("pane('health')", ("H",), "Health", "Maximise this pane, or show it again.", "run"),
    Action("pane('log')", ("L",), "Log", "Maximise this pane, or show it again.", "run"),
    Action("hide_pane", ("x",), "Hide pane", "Hide the pane that has the focus.", "run", True),
    Action("show_panes", ("X",), "Show all", "Show every pane again.", "run", shown="X"),
    Action("step_back", ("left_square_bracket",), "Step back", "Look at the step before.", "run",
           shown="["),
    Action("step_on", ("right_square_bracket",), "Step on", "Look at the next step.", "run",
           shown="]"),
    Action("step_end", ("backslash",), "Newest step", "Go back to the newest state.", "run",
           shown="\\"),
    # -- completions --------------------------------------------------------------------------
    Action("next_step", ("n",), "Next step", "Show the next step.", "completions", footer=True),
    Action("previous_step", ("N",), "Previous step", "Show the step before.", "completions",
           shown="N"),
    Action("follow", ("f",), "Follow", "Show the newest step, always.", "completions"),
    Action("sort_reward", ("r",), "By reward", "Sort by reward; again: turned round.",
           "completions", True),
    Action("sort_advantage", ("a",), "By advantage", "Sort by advantage; again: turned round.",
           "completions"),
    Action("sort_group", ("u",), "By group", "Sort by group, as generated.", "completions"),
    Action("side_by_side", ("v",), "Side by side", "Show a whole group side by side.",
           "completions", footer=True),
    Action("search", ("slash",), "Search", "Show completions with these words; n and N then find more.",
           "completions", True, "/"),
    Action("copy", ("y",), "Copy", "Copy the completion to the clipboard.", "completions"),
    Action("save", ("w",), "Save", "Write the completion to a file in the run's folder.",
           "completions"),
    Action("agree", ("plus",), "Agree", "Say that its scores are right; kept with the run.",
           "completions", shown="+"),
    Action("disagree", ("minus",), "Disagree", "Say that its scores are wrong; kept with the run.",
           "completions", shown="-"),
    Action("take_back", ("0",), "Take back", "Take back what you said of its scores.",
           "completions"),
    # -- runs ---------------------------------------------------------------------------------
    Action("open", ("enter",), "Open", "Open the run: replay it, or follow it if it is live.",
           "runs", footer=True),
    Action("filter", ("slash",), "Filter", "Show runs with these letters.", "runs", True, "/"),
    Action("reload", ("r",), "Reload", "Read the folders again.", "runs", footer=True),
    Action("mark", ("space", "m"), "Mark", "Mark the run, to compare it with others.", "runs",
           footer=True),
    Action("compare", ("c",), "Compare", "Put the marked runs side by side.", "runs", footer=True),
    Action("report", ("w",), "Report", "Write the report of the run: report.html in its folder.",
           "runs", footer=True),
    Action("sweeps", ("s",), "Sweeps", "Show the newest sweep: its table and its runs.", "runs"),
    Action("chat", ("a",), "Chat", "Talk to the run's model and to what it was before.", "runs",
           footer=True),
    # -- compare ------------------------------------------------------------------------------
    Action("next_curve", ("n",), "Next curve", "Show the next figure alone, then all again.",
           "compare", footer=True),
    Action("previous_curve", ("N",), "Previous curve", "Show the figure before.", "compare",
           shown="N"),
    Action("reload", ("r",), "Reload", "Read the runs again.", "compare", footer=True),
    # -- sweep --------------------------------------------------------------------------------
    Action("open", ("enter",), "Open", "Open the run: replay it, or follow it if it is live.",
           "sweep", footer=True),
    Action("next_sweep", ("n",), "Older sweep", "Show the sweep before this one.", "sweep",
           footer=True),
    Action("previous_sweep", ("N",), "Newer sweep", "Show the sweep after this one.", "sweep",
           shown="N"),
    # -- chat ---------------------------------------------------------------------------------
    Action("write", ("enter",), "Write", "Write a message to both models; enter sends it.", "chat"),
    Action("judge", ("ctrl+r",), "Judge", "Have the last answers scored by the run's judge.",
           "chat", footer=True),
    Action("kind", ("ctrl+t",), "Kind", "Say whether the next message is harmless or unsafe.",
           "chat", footer=True),
    Action("greedy", ("ctrl+g",), "Greedy", "Take the likeliest token always, or draw by chance.",
           "chat", footer=True),
    Action("keep", ("ctrl+s",), "Keep", "Keep the messages as prompts for the next experiment.",
           "chat", footer=True),
    Action("anew", ("ctrl+n",), "New", "Begin a new conversation.", "chat", footer=True),
)  # fmt: skip


def of(scope: Scope) -> tuple[Action, ...]:
    """The actions of one scope, in order."""
    return tuple(action for action in ACTIONS if action.scope == scope)


def bindings(scope: Scope) -> list[BindingType]:
    """The key bindings of one scope; the footer shows an action's first key only."""
    return [
        Binding(
            key,
            action.id,
            action.label,
            show=action.footer and number == 0,
            key_display=action.shown if number == 0 else None,
            tooltip=action.help,
            id=f"{action.scope}.{action.id}.{number}",
        )
        for action in of(scope)
        for number, key in enumerate(action.keys)
    ]


def method_of(action: Action) -> str:
    """The name of the method that carries an action out."""
    return f"action_{action.id.partition('(')[0]}"


def shown_key(key: str) -> str:
    """A key as people write it."""
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
