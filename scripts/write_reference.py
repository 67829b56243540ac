"""Write `docs/profiles.md` and `docs/commands.md` from the program itself.

uv run python scripts/write_reference.py

`tests/docs/test_docs.py` fails while a page is not what this would write.
"""

from __future__ import annotations

import argparse
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ida_tui.cli import commands
from ida_tui.cli.main import _parser, word_parser
from ida_tui.config import listing, profiles
from ida_tui.config import schema as config

DOCS = Path(__file__).resolve().parents[1] / "docs"
GENERATED = "<!-- Written by scripts/write_reference.py; change ida_tui/{} instead. -->"

PROFILES_HEAD = """\
# Profiles

{generated}

A run is an experiment: a YAML file that names a model, a judge, a rubric and prompts, and says how to
train. What a profile leaves out has the default below. `uv run ida-tui --show NAME` prints every value and
the line that it comes from.

```bash
uv run ida-tui --list
uv run ida-tui --show dev-mps
uv run ida-tui --check quickstart training.learning_rate=1e-3 judge=offline
```

Your own profiles live in `<kind>/NAME.yaml` under the folder that `--list` names at its end
(`IDA_TUI_PROFILES` names another), or anywhere as a path ending in `.yaml`. `extends: NAME` starts from
another one of its kind: mappings are merged, everything else is replaced. A section of an experiment is a
profile's name, or the values themselves, or both:

```yaml
# experiments/mine.yaml
extends: quickstart
judge:
  extends: ollama
  model: qwen3:8b
training:
  max_steps: 20
  learning_rate: 1e-3
```

On the command line `model=NAME`, `judge=NAME`, `rubric=NAME` and `prompts=NAME` choose profiles first; then
dotted keys change single values, the later ones winning. A wrong key or value, and values that do not fit
together, are refused with the place and the fix.
"""

COMMANDS_HEAD = """\
# Commands

{generated}

Every command explains itself: `uv run ida-tui --help`, `uv run ida-tui judge --help`. `uv run` stands
before them in a checkout; where ida-tui is installed as a tool, it does not. RUN is a run's folder, its id,
or the name of an experiment (its newest run). `--json` prints data on stdout; whatever is meant for people
goes to stderr then.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | the command line or a profile is wrong; nothing was started |
| 3 | the judge cannot be used; the run is paused, with a checkpoint |
| 4 | out of memory; a checkpoint was written |
| 5 | the device cannot be used |
| 6 | stopped by an alert |
| 130 | interrupted; a checkpoint was written |
"""


def profiles_page() -> str:
    """`docs/profiles.md`: every key of every kind of profile, and the profiles that ship."""
    parts = [PROFILES_HEAD.format(generated=GENERATED.format("config.py"))]
    parts.append("## What ships\n")
    for kind in profiles.KINDS:
        parts.append(f"**{kind}**\n\n| name | what it is |\n|---|---|")
        shipped = (entry for entry in listing.entries(kind) if not entry.own)
        parts += [f"| `{entry.name}` | {_cell(entry.description)} |" for entry in shipped]
        parts.append("")
    parts.append("## Keys\n")
    for title, model, prefix in _sections():
        parts.append(f"### {title}\n\n{_first_line(model)}\n")
        parts.append("| key | values | default | |\n|---|---|---|---|")
        parts += _rows(model, prefix)
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def commands_page() -> str:
    """`docs/commands.md`: every command with its arguments and examples."""
    parts = [COMMANDS_HEAD.format(generated=GENERATED.format("cli.py and ida_tui/commands/"))]
    parts.append("## ida-tui\n\nWithout a flag the app opens.\n")
    parts += _arguments(_parser())
    for word, about in commands.WORDS.items():
        parser = word_parser(word)
        parts.append(f"\n## ida-tui {word}\n\n{about[:1].upper()}{about[1:]}.\n")
        parts += _arguments(parser)
        examples = (parser.epilog or "").partition("examples:\n")[2].partition("\n\n")[0]
        parts.append(f"\n```bash\n{_as_comments(examples)}\n```")
    return "\n".join(parts).rstrip() + "\n"


def _sections() -> Iterator[tuple[str, type[BaseModel], str]]:
    yield "An experiment", config.Config, ""
    for name, field in config.Config.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield f"`{name}`", model, f"{name}."


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = [kind for kind in _members(field.annotation) if _is_section(kind)]
        about = _cell(field.description or "")
        if inner and not prefix:
            yield f"| `{name}` | see [`{name}`](#{name}) | {_default(field)} | {about} |"
        elif inner and get_origin(field.annotation) is not list:
            yield f"| `{prefix}{name}` | mapping | {_default(field)} | {about} |"
            yield from _rows(inner[0], f"{prefix}{name}.")
        else:
            yield f"| `{prefix}{name}` | {_values(field)} | {_default(field)} | {about} |"


def _members(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType, Annotated, list):
        for part in get_args(kind):
            yield from _members(part)
    else:
        yield kind


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _values(field: FieldInfo) -> str:
    limits = [
        f"{sign} {_plain(bound)}"
        for part in _metadata(field)
        for sign, name in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le"))
        if (bound := getattr(part, name, None)) is not None
    ]
    words = " or ".join(dict.fromkeys(_word(kind) for kind in _kinds(field.annotation)))
    return f"{words}, {', '.join(dict.fromkeys(limits))}" if limits else words


def _metadata(field: FieldInfo) -> Iterator[Any]:
    yield from field.metadata
    for kind in get_args(field.annotation) or (field.annotation,):
        if get_origin(kind) is Annotated:
            for part in get_args(kind)[1:]:
                yield from part.metadata if isinstance(part, FieldInfo) else (part,)


def _kinds(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _kinds(part)
    elif get_origin(kind) is Annotated:
        yield from _kinds(get_args(kind)[0])
    else:
        yield kind


def _word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is list:
        inner = list(_kinds(get_args(kind)[0]))
        return f"list of {' or '.join(_word(part) for part in inner)}"
    if get_origin(kind) is dict:
        return "mapping"
    if _is_section(kind):
        return "mappings"
    names = {int: "integer", float: "number", str: "text", bool: "`true`, `false`"}
    return "`null`" if kind is type(None) else names.get(kind, str(kind))


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        made = field.default_factory()  # type: ignore[call-arg]
        return f"`{made}`".replace("'", "")
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "its own"
    return f"`{_plain(field.default)}`" if field.default != "" else ""


def _plain(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield "| argument | |\n|---|---|"
    for action in parser._actions:
        if action.dest == "help":
            continue
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        if action.choices is not None:
            metavar = "\\|".join(map(str, action.choices))
        name = action.option_strings[-1] if action.option_strings else metavar
        value = f" {metavar}" if action.option_strings and action.nargs != 0 else ""
        yield f"| `{name}{value}` | {_cell(action.help or '')} |"


def _as_comments(examples: str) -> str:
    """The examples of a help text, with what they do behind a #."""
    lines = []
    for line in examples.rstrip().splitlines():
        command, gap, about = line.strip().partition("  ")
        lines.append(f"{command:<58} # {about.strip()}" if gap else command)
    return "\n".join(lines)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"profiles.md": profiles_page, "commands.md": commands_page}


def main() -> None:
    """Write both pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
