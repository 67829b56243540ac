"""Modelfile of an export: what Ollama needs to use a GGUF file as the model was trained.

It names the file, the chat template in Ollama's language, the end tokens and the profile's system prompt.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ida_tui.engine.export.chat_layout import ChatLayout
from ida_tui.util.paths import display_path

MODELFILE = "Modelfile"
QUOTES = '"""'


def create_command(name: str, folder: Path) -> str:
    """The command that adds an export to Ollama.

    Args:
        name: the experiment's name.
        folder: the export.
    """
    model = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "trained"
    return f"ollama create {model} -f {shlex.quote(display_path(folder / MODELFILE))}"


def modelfile(
    file: str, layout: ChatLayout | None, end_tokens: Sequence[str], system: str | None
) -> str:
    """The text of a Modelfile.

    Args:
        file: name of the GGUF file in the same folder.
        layout: the chat template's; None leaves the choice of a template to Ollama.
        end_tokens: texts of the tokens that end an answer.
        system: the system prompt; see `can_quote`.
    """
    lines = [f"FROM ./{file}"]
    if layout is not None:
        lines.append(f"TEMPLATE {QUOTES}{go_template(layout)}{QUOTES}")
    lines += [f'PARAMETER stop "{token}"' for token in end_tokens]
    if system and system.strip():
        lines.append(f"SYSTEM {QUOTES}{system}{QUOTES}")
    return "\n".join(lines) + "\n"


def can_quote(text: str) -> bool:
    """Whether a Modelfile can hold this text: it has no escape for three quotes at the end of a line."""
    return not any(line.rstrip().endswith(QUOTES) for line in text.splitlines())


def go_template(layout: ChatLayout) -> str:
    """The layout as a template of Go's text/template, which Ollama fills with `.Messages` and `.System`.

    The texts are string constants, which the markers that trim white space do not touch.
    """
    system = f"{_text(layout.system.before)}{{{{ $.System }}}}{_text(layout.system.after)}"
    start = _text(layout.start)
    if layout.system.place == "first":
        opening = f"{{{{ if $.System }}}}{system}{{{{ else }}}}{start}{{{{ end }}}}"
    else:
        opening = start
    user = [f"{{{{- if $first }}}}{opening}{{{{ end }}}}"]
    if layout.system.place == "last":
        user.append(f"{{{{- if and $last $.System }}}}{system}{{{{ end }}}}")
    return "\n".join(
        [
            "{{- range $i, $m := .Messages }}",
            "{{- $first := or (eq $i 0) (and (eq $i 1) $.System) }}",
            "{{- $last := eq (len (slice $.Messages $i)) 1 }}",
            '{{- if eq .Role "user" }}',
            *user,
            "{{- .Content }}{{ if $last }}" + _text(layout.end),
            "{{- else }}" + _text(layout.after_user) + "{{ end }}",
            '{{- else if eq .Role "assistant" }}',
            "{{- .Content }}{{ if not $last }}" + _text(layout.after_assistant) + "{{ end }}",
            "{{- end }}",
            "{{- end }}",
        ]
    )


def _text(text: str) -> str:
    """An action that writes a fixed text; nothing for an empty one. JSON's escapes are also Go's."""
    if not text:
        return ""
    # Ollama drops characters that cannot be printed.
    safe = (c if c.isprintable() else json.dumps(c)[1:-1] for c in text.replace("\\", "\\\\"))
    return '{{ "' + "".join(safe).replace('"', '\\"') + '" }}'
