"""Recognition of models that think before they answer, by their chat template or by their name.

The template is rendered in a process of its own; no model runs.
"""

from __future__ import annotations

import json
import re

from ida_tui.config.model_files import chat_template_of
from ida_tui.config.schema import Config, ModelConfig
from ida_tui.config.trust.model_safety import render_templates_safely
from ida_tui.util.finding import Finding, note_finding
from ida_tui.util.thoughts import mentioned_tags, opened_thought

SWITCHES = ("enable_thinking", "thinking")
"""Arguments of chat templates that switch thoughts on or off."""
_NAME_PATTERN = re.compile(
    r"(?:^|[-_/.])(?:r1|qwq|thinking|thinker|reasoning|reasoner|magistral)(?:[-_./]|$)",
    re.IGNORECASE,
)


def find_thinking(config: Config) -> Finding | None:
    """A note that the model thinks before it answers, with what to do; None if nothing shows it."""
    model, length = config.model, config.training.max_completion_length
    template = chat_template_of(model)
    switch = next((name for name in SWITCHES if re.search(rf"\b{name}\b", template)), "")
    if template:
        reason = _template_reason(model, template, switch)
    elif _NAME_PATTERN.search(model.path):
        reason = "the model thinks before it answers, as its name says"
    else:
        reason = ""
    if not reason:
        return None
    longer = f"raise training.max_completion_length (now {length})"
    return note_finding(
        "training.max_completion_length",
        f"{reason}; a thought that is cut off at {length} tokens has no answer, and no reward",
        f"set model.chat_template_kwargs.{switch}=false, or {longer}" if switch else longer,
    )


def _template_reason(model: ModelConfig, template: str, switch: str) -> str:
    """Why a model with this template thinks; empty if it does not."""
    if not mentioned_tags(template):
        return ""
    used = dict(model.chat_template_kwargs)
    arguments = [used, *({**used, switch: value} for value in (True, False) if switch)]
    tails = render_templates_safely((template,), json.dumps(arguments)).tails
    if not tails:
        return ""
    tail, *switched = tails[0]
    if opened_thought(tail):
        return "the model's chat template opens a thought at the end of every prompt"
    if switched and tail == switched[1] != switched[0]:
        return ""  # switched off
    if switch and used.get(switch) is False:
        return ""
    if switched and switched[0] == switched[1] and not used.get(switch):
        return ""
    return "the model's chat template is made for thoughts before the answers"
