"""Checks of a stranger's model folder before any library reads it: its files and its chat template.

The libraries read whole files, follow links, wait for pipes and render the template without a limit.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ida_tui.config.conversation import ChatMessage, chat_messages, system_context
from ida_tui.config.trust import render_templates
from ida_tui.util.safe_files import TEXT_SUFFIXES, read_bytes, unsafe_entry_problem
from ida_tui.util.text import one_line, parse_json

MODEL_SUFFIXES = (*TEXT_SUFFIXES, ".safetensors", ".bin", ".tiktoken", ".gguf")
"""Suffixes of the files that libraries read from a model folder."""
MAX_CONFIG_BYTES = 50 << 20
"""Maximum size of config.json and tokenizer_config.json."""
RENDER_TIMEOUT_S = 60.0
"""Maximum wait for the process that renders the chat template; its processor time has a lower limit."""
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_CHILD_ENVIRONMENT = ("PATH", "HOME", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
Problem = tuple[str, str]
"""What is wrong, and what to do."""


def model_folder_problem(folder: Path, link_targets: Sequence[Path] = ()) -> Problem | None:
    """Why the libraries must not read a model folder; None if they may.

    Args:
        folder: the folder.
        link_targets: folders, besides this one, to which links in it may lead, such as the hub cache.
    """
    roots = [root.resolve() for root in (folder, *link_targets)]

    def stays_inside(link: Path) -> bool:
        target = Path(os.path.realpath(link))
        return any(target.is_relative_to(root) for root in roots)

    for path in _model_files(folder):
        if problem := unsafe_entry_problem(path, stays_inside):
            return (
                f"{one_line(path.name)} in the model folder {problem}",
                "replace it by a regular copy, or download the model again",
            )
    stamps = tuple(_stamp(path) for path in _template_files(folder))
    if not any(stamps):
        return None
    if problem := _template_problem(folder, stamps):
        return (
            f"the chat template of the model {problem}",
            "use another copy of the model; its template is in chat_template.jinja or tokenizer_config.json",
        )
    return None


def _model_files(folder: Path) -> Iterator[Path]:
    for directory in (folder, folder / "additional_chat_templates"):
        try:
            with os.scandir(directory) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError:
            continue
        yield from (directory / name for name in names if name.endswith(MODEL_SUFFIXES))


def _template_files(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _TEMPLATE_FILES)
    yield from sorted((folder / "additional_chat_templates").glob("*.jinja"))


def _stamp(path: Path) -> tuple[str, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_size, status.st_mtime_ns


@lru_cache(maxsize=32)
def _template_problem(folder: Path, _stamps: tuple[object, ...]) -> str:
    """What is wrong with the chat templates in a folder, as a predicate; empty if nothing is.

    A template that cannot be rendered at all is no problem here: the libraries report it.
    """
    templates = [text for path in _template_files(folder) for text in _templates_in(path)]
    return render_templates_safely(tuple(templates)).problem if templates else ""


@dataclass(frozen=True, slots=True)
class RenderedTemplates:
    """Chat templates that were rendered with a short message."""

    problem: str = ""
    """What is wrong with them, as a predicate; empty if nothing is."""
    tails: tuple[tuple[str, ...], ...] = ()
    """For each template and each of the arguments, the end of the prompt; empty if it fails."""


@lru_cache(maxsize=32)
def render_templates_safely(
    templates: tuple[str, ...], arguments: str = "[{}]"
) -> RenderedTemplates:
    """Render templates in a process of their own with limited memory and processor time.

    Args:
        templates: the texts of the templates.
        arguments: a JSON list of mappings, each with the arguments for one rendering.
    """
    if any(len(text) > render_templates.MAX_CHARACTERS for text in templates):
        return RenderedTemplates(f"is longer than {render_templates.MAX_CHARACTERS:,} characters")
    try:
        process = subprocess.run(
            [sys.executable, "-P", "-m", render_templates.__name__],
            input=f"[{json.dumps(templates)}, {arguments}, {json.dumps(_random_conversations())}]",
            env={name: os.environ[name] for name in _CHILD_ENVIRONMENT if name in os.environ},
            capture_output=True,
            text=True,
            timeout=RENDER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return RenderedTemplates("does not end")
    if process.returncode in (-signal.SIGPROF, -signal.SIGKILL):
        return RenderedTemplates(f"does not end within {render_templates.MAX_CPU_S} s")
    if process.returncode == render_templates.TOO_LARGE or process.returncode < 0:
        return RenderedTemplates(
            f"expands one short message to over {render_templates.MAX_RENDERED_CHARACTERS:,} characters"
        )
    try:
        tails = json.loads(process.stdout)
    except ValueError:
        return RenderedTemplates()
    return RenderedTemplates(tails=tuple(map(tuple, tails)))


def _random_conversations() -> list[list[ChatMessage]]:
    """Short conversations; a template cannot know their texts, so it cannot behave for them alone."""
    system, question, answer, reply = (
        secrets.token_hex(8 + secrets.randbelow(24)) for _ in range(4)
    )
    return [
        chat_messages(question),
        chat_messages(question, system_context(system)),
        chat_messages(reply, (("user", question), ("assistant", answer))),
    ]


def folder_template(folder: Path) -> str:
    """The chat template in a model folder that transformers uses; empty if there is none."""
    return next((text for path in _template_files(folder) for text in _templates_in(path)), "")


def _templates_in(path: Path) -> Iterator[str]:
    """The templates in one file: a template itself, or JSON with one template or a list of named ones."""
    try:
        text = read_bytes(Path(os.path.realpath(path)), MAX_CONFIG_BYTES).decode("utf-8")
        if path.suffix == ".jinja":
            yield text
            return
        value: Any = parse_json(text)
    except (OSError, ValueError):
        return  # missing, or damaged
    template = value.get("chat_template") if isinstance(value, dict) else None
    for item in template if isinstance(template, list) else [template]:
        named = item.get("template") if isinstance(item, dict) else item
        if isinstance(named, str):
            yield named
