"""The commands that the documentation and the help tell people to type, with the place of each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ida_tui.cli import commands
from ida_tui.cli.main import EXAMPLES, word_parser
from tests.conftest import REPOSITORY

PAGES = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"))
)
FENCE = re.compile(r"^\s*```(\w*)")
BEGINNINGS = (
    "ida-tui", "uv ", "uvx ", "pip ", "pipx ", "export ", "kill ", "torchrun ", "accelerate ",
    "python ", "hf ", "ollama ", "vllm ", "llama-server ", "transformers serve",
)  # fmt: skip
"""What a span of code in the text, or a line in a block of text, begins with when it is a command."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command line, and where it stands."""

    text: str
    where: str
    whole: bool = True
    """False for a span in the text, which may name a command without its arguments."""


def of_page(page: str) -> Iterator[Command]:
    """Every command of a page: each line of its blocks of bash, and spans of code that begin like one."""
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
                if span.startswith(BEGINNINGS):
                    yield Command(without_comment(span), where, whole=False)


def of_the_help() -> Iterator[Command]:
    """Every example of a command's help; what it does stands behind two spaces."""
    for word in ("", *commands.WORDS):
        text = EXAMPLES if not word else (word_parser(word).epilog or "")
        for line in text.splitlines():
            if line.startswith(("  ida-tui", "  torchrun", "  echo", "  source")):
                command = re.split(r"\s{2,}", line.strip())[0]
                yield Command(command, f"ida-tui {word} --help".replace("  ", " "))


def without_comment(line: str) -> str:
    """A line as bash would run it: nothing behind a # that begins a word."""
    return re.sub(r"(^|\s)#(\s|$).*", "", line).strip()


def words_of(command: str) -> list[str]:
    """Its words, without `uv run` and its extras, what feeds it and what takes its output."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    if words[:1] == ["echo"] and "|" in words:
        words = words[words.index("|") + 1 :]
    if words[:2] == ["uv", "run"]:
        words = words[2:]
        while words[:1] == ["--extra"]:
            words = words[2:]
    ends = [words.index(mark) for mark in "<>" if mark in words]
    return words[: min(ends, default=len(words))]
