"""Process that renders chat templates with limited memory and processor time: a list in JSON on its input."""

from __future__ import annotations

import json
import resource
import secrets
import signal
import sys
from typing import Any

MAX_CHARACTERS = 1_000_000
"""Maximum length of a template."""
MAX_RENDERED_CHARACTERS = 100_000
"""Maximum length of a short conversation that it renders; every prompt of a run is as long."""
MAX_CPU_S = 1
"""Maximum processor time for all templates, in seconds."""
MAX_MEMORY_BYTES = 1 << 30
TOO_LARGE = 3
"""Exit status if a template renders too much text, or needs too much memory."""


def _conversations() -> list[list[dict[str, str]]]:
    """Short conversations; a template cannot know their texts, so it cannot behave for them alone."""
    system, question, answer, reply = (
        {"role": role, "content": secrets.token_hex(8 + secrets.randbelow(24))}
        for role in ("system", "user", "assistant", "user")
    )
    return [[question], [system, question], [question, answer, reply]]


def main() -> int:
    """Render every template with every conversation; returns the exit status."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block with which training templates mark the answer."""

        tags = {"generation"}  # noqa: RUF012 - declared by jinja2

        def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
            """The contents of the block."""
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(
                ("name:endgeneration",), drop_needle=True
            )
            return body

    templates = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["strftime_now"] = lambda pattern: "1 January 2026"
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)  # its signal ends the process
    conversations = _conversations()
    for template in templates:
        for messages in conversations:
            length = 0
            try:
                for part in environment.from_string(template).generate(
                    messages=messages, add_generation_prompt=True, tools=None, **tokens
                ):
                    length += len(part)
                    if length > MAX_RENDERED_CHARACTERS:
                        return TOO_LARGE
            except MemoryError:
                return TOO_LARGE
            except (TemplateError, ArithmeticError, LookupError, RecursionError):
                continue
            except (AttributeError, TypeError, ValueError):
                continue
    return 0


if __name__ == "__main__":
    sys.exit(main())
