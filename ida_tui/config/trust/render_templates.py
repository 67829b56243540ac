"""Process that renders chat templates with limited memory and processor time.

Its input is JSON: a list of templates, a list of arguments for all of them, and a list of conversations. Its
output is a JSON list with the end of the prompt that each template renders from the first conversation, with
each of the arguments.
"""

from __future__ import annotations

import json
import resource
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
TAIL_CHARACTERS = 200
"""Length of the end of a prompt in the output."""
TOO_LARGE = 3
"""Exit status if a template renders too much text, or needs too much memory."""


def main() -> int:
    """Render every template with every conversation and arguments; returns the exit status."""
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

    templates, arguments, conversations = json.load(sys.stdin)
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
    tails: list[list[str]] = []
    for template in templates:
        tails.append([])
        for settings in arguments:
            for position, messages in enumerate(conversations):
                tail, length = "", 0
                try:
                    for part in environment.from_string(template).generate(
                        messages=messages,
                        add_generation_prompt=True,
                        tools=None,
                        **tokens,
                        **settings,
                    ):
                        length += len(part)
                        tail = (tail + part)[-TAIL_CHARACTERS:]
                        if length > MAX_RENDERED_CHARACTERS:
                            return TOO_LARGE
                except MemoryError:
                    return TOO_LARGE
                except (TemplateError, ArithmeticError, LookupError, RecursionError):
                    tail = ""
                except (AttributeError, TypeError, ValueError):
                    tail = ""
                if not position:
                    tails[-1].append(tail)
    json.dump(tails, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
