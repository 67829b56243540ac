"""The commands in the documentation and the help, each with its file and line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ida_tui.cli import commands
from ida_tui.cli.main import EXAMPLES, command_parser
from tests.conftest import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"))
)
FENCE = re.compile(r"^\s*```(\w*)")
COMMAND_STARTS = (
    "ida-tui", "uv ", "uvx ", "pip ", "pipx ", "export ", "kill ", "torchrun ", "accelerate ",
    "python ", "hf ", "ollama ", "vllm ", "llama-server ", "transformers serve",
)  # fmt: skip
"""A code span in the text is a command if it starts with one of these."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, and the file and line where it appears."""

    text: str
    where: str
    complete: bool = True
    """False for a code span in the text, which may mention a command without its arguments."""


def commands_on_page(page: str) -> Iterator[Command]:
    """Every command of a page: the lines of its bash blocks, and code spans that start like a command."""
    language: str | None = None
    for number, line in enumerate((REPOSITORY / page).read_text().splitlines(), start=1):
        where = f"{page}:{number}"
        if fence := FENCE.match(line):
            language = None if language is not None else fence[1] or "text"
        elif language == "bash":
            if command := without_comment(line):
                yield Command(command, where)
        elif language == "text":
            if line.strip().startswith(("$ ", "uv run ", "ida-tui ")):
                yield Command(without_comment(line.strip().removeprefix("$ ")), where)
        elif language is None:
            for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", line.replace("\\|", "|")):
                if span.startswith(COMMAND_STARTS):
                    yield Command(without_comment(span), where, complete=False)


def commands_in_help() -> Iterator[Command]:
    """Every example in the help of every command; two spaces separate a command from its description."""
    for name in ("", *commands.COMMANDS):
        text = EXAMPLES if not name else (command_parser(name).epilog or "")
        for line in text.splitlines():
            if line.startswith(("  ida-tui", "  torchrun", "  echo", "  source")):
                command = re.split(r"\s{2,}", line.strip())[0]
                yield Command(command, f"ida-tui {name} --help".replace("  ", " "))


def without_comment(line: str) -> str:
    """A line as bash runs it: without a # at the start of a word and what follows."""
    return re.sub(r"(^|\s)#(\s|$).*", "", line).strip()


def split_command(command: str) -> list[str]:
    """The words of a command, without the choice of GPUs, `uv run`, its extras, pipes and redirections."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    if words[:1] == ["echo"] and "|" in words:
        words = words[words.index("|") + 1 :]
    if words and words[0].startswith("CUDA_VISIBLE_DEVICES="):
        words = words[1:]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
        while words[:1] in (["--extra"], ["--no-sync"]):
            words = words[2 if words[0] == "--extra" else 1 :]
    redirections = [words.index(mark) for mark in "<>" if mark in words]
    return words[: min(redirections, default=len(words))]
