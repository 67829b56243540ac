"""Generator of `docs/profiles.md`, `docs/commands.md`, the completed config keys, and TRL's arguments.

uv run python scripts/write_reference.py

`tests/docs/test_docs.py` fails if one of these files differs from what this script writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import enum
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ida_tui.cli import commands
from ida_tui.cli.main import _main_parser, command_parser
from ida_tui.config import listing, profiles, schema

REPOSITORY = Path(__file__).resolve().parents[1]
GENERATED = "<!-- Written by scripts/write_reference.py; change ida_tui/{} instead. -->"

PROFILES_HEAD = """\
# Profiles

{generated}

An experiment profile is a YAML file that names a model, a judge, a rubric and prompts, and sets the training
options. A key that a profile omits has the default listed below. `uv run ida-tui --show NAME` prints every
value and the line that sets it.

```bash
uv run ida-tui --list
uv run ida-tui --show dev-mps
uv run ida-tui --check quickstart training.learning_rate=1e-3 judge=offline
```

Save your own profiles as `<kind>/NAME.yaml` in the folder that `--list` prints at the end (set
`IDA_TUI_PROFILES` to use another folder), or anywhere and give a path that ends in `.yaml`. `extends: NAME`
starts from another profile of the same kind: mappings are merged, all other values are replaced, and
`description` is not inherited. A section of an experiment is the name of a profile, or its values, or both:

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

On the command line `model=NAME`, `judge=NAME`, `rubric=NAME` and `prompts=NAME` choose profiles first, and
`prompts=train.jsonl` or `prompts=org/dataset` [your own data](data.md); then dotted keys change single
values, and the last one wins. A wrong key or value, or values that contradict each other, stop the command
with the place and the fix.
"""

COMMANDS_HEAD = """\
# Commands

{generated}

Every command has help: `uv run ida-tui --help`, `uv run ida-tui judge --help`. Use `uv run` in a checkout;
leave it out if ida-tui is installed as a tool. RUN is a run directory, a run id, or the name of an
experiment (its newest run). With `--json`, data goes to stdout and messages go to stderr.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | the command line or a profile is wrong; nothing was started |
| 3 | the judge is unavailable; a run is paused with a checkpoint |
| 4 | out of memory; a checkpoint was written |
| 5 | the device cannot be used |
| 6 | stopped by an alert |
| 130 | interrupted; a checkpoint was written |
"""


def profiles_page() -> str:
    """Text of `docs/profiles.md`: the shipped profiles, and every key of an experiment."""
    parts = [PROFILES_HEAD.format(generated=GENERATED.format("config/schema.py"))]
    parts.append("## Shipped profiles\n")
    for kind in profiles.PROFILE_KINDS:
        parts.append(f"**{kind}**\n\n| name | description |\n|---|---|")
        shipped = (entry for entry in listing.list_entries(kind) if not entry.is_user_profile)
        parts += [f"| `{entry.name}` | {_table_cell(entry.description)} |" for entry in shipped]
        parts.append("")
    parts.append("## Keys\n")
    for title, model, prefix in _sections():
        parts.append(f"### {title}\n\n{_first_line(model)}\n")
        parts.append("| key | values | default | |\n|---|---|---|---|")
        parts += _rows(model, prefix)
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def commands_page() -> str:
    """Text of `docs/commands.md`: every command with its arguments and examples."""
    parts = [
        COMMANDS_HEAD.format(generated=GENERATED.format("cli/main.py and ida_tui/cli/commands/"))
    ]
    parts.append("## ida-tui\n\nWithout arguments, `ida-tui` opens the app.\n")
    parts += _arguments(_main_parser())
    for word, about in commands.COMMANDS.items():
        parser = command_parser(word)
        parts.append(f"\n## ida-tui {word}\n\n{about[:1].upper()}{about[1:]}.\n")
        parts += _arguments(parser)
        examples = (parser.epilog or "").partition("examples:\n")[2].partition("\n\n")[0]
        parts.append(f"\n```bash\n{_as_comments(examples)}\n```")
    return "\n".join(parts).rstrip() + "\n"


def _sections() -> Iterator[tuple[str, type[BaseModel], str]]:
    yield "An experiment", schema.Config, ""
    for name, field in schema.Config.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield f"`{name}`", model, f"{name}."


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = [kind for kind in _members(field.annotation) if _is_section(kind)]
        about = _table_cell(field.description or "")
        if inner and not prefix:
            yield f"| `{name}` | see [`{name}`](#{name}) | {_default(field)} | {about} |"
        elif inner and get_origin(field.annotation) is not list:
            yield f"| `{prefix}{name}` | mapping | {_default(field)} | {about} |"
            yield from _rows(inner[0], f"{prefix}{name}.")
        else:
            yield f"| `{prefix}{name}` | {_allowed_values(field)} | {_default(field)} | {about} |"


def _members(kind: Any) -> Iterator[Any]:
    if get_origin(kind) in (Union, types.UnionType, Annotated, list):
        for part in get_args(kind):
            yield from _members(part)
    else:
        yield kind


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _allowed_values(field: FieldInfo) -> str:
    limits = [
        f"{sign} {_format_value(bound)}"
        for part in _metadata(field)
        for sign, name in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le"))
        if (bound := getattr(part, name, None)) is not None
    ]
    type_names = " or ".join(dict.fromkeys(_type_name(kind) for kind in _kinds(field.annotation)))
    return f"{type_names}, {', '.join(dict.fromkeys(limits))}" if limits else type_names


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


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) is list:
        inner = list(_kinds(get_args(kind)[0]))
        return f"list of {' or '.join(_type_name(part) for part in inner)}"
    if get_origin(kind) is dict:
        return "mapping"
    if _is_section(kind):
        return "mappings"
    names = {int: "integer", float: "number", str: "text", bool: "`true`, `false`"}
    return "`null`" if kind is type(None) else names.get(kind, str(kind))


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        default = field.default_factory()  # type: ignore[call-arg]
        return f"`{default}`".replace("'", "")
    if field.default is PydanticUndefined:
        return "required"
    if isinstance(field.default, BaseModel):
        return "see its keys"
    return f"`{_format_value(field.default)}`" if field.default != "" else ""


def _format_value(value: object) -> str:
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
        yield f"| `{name}{value}` | {_table_cell(action.help or '')} |"


def _as_comments(examples: str) -> str:
    """The examples of a help text, each with its description as a comment."""
    lines = []
    for line in examples.rstrip().splitlines():
        command, gap, about = line.strip().partition("  ")
        lines.append(f"{command:<58} # {about.strip()}" if gap else command)
    return "\n".join(lines)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def _table_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def completed_keys() -> str:
    """Text of the table that shell completion reads: override keys with descriptions, and their values."""
    keys, values = (
        dict(_completed_keys(schema.Config, "")),
        dict(_completed_values(schema.Config, "")),
    )
    return json.dumps({"keys": keys, "values": values}, indent=1, ensure_ascii=False) + "\n"


def _completed_keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    """Each key as typed, `seed=` or `training.`, with its description; a profile's section has both."""
    for name, field in model.model_fields.items():
        description = (field.description or "").partition("\n")[0]
        section = _section_of(field)
        if section is None or (not prefix and name in profiles.SECTIONS):
            yield f"{prefix}{name}=", description
        if section is not None:
            yield f"{prefix}{name}.", description
            yield from _completed_keys(section, f"{prefix}{name}.")


def _completed_values(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Each key whose values can be listed, with these values."""
    for name, field in model.model_fields.items():
        section = _section_of(field)
        if section is not None:
            yield from _completed_values(section, f"{prefix}{name}.")
        elif values := [value for kind in _kinds(field.annotation) for value in _listed(kind)]:
            yield f"{prefix}{name}", values


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The class that holds the nested keys of a field; None for a value or a list."""
    return next((kind for kind in _kinds(field.annotation) if _is_section(kind)), None)


def _listed(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [str(value) for value in get_args(kind)]
    return {bool: ["true", "false"], type(None): ["null"]}.get(kind, [])


def trl_arguments() -> str:
    """The table of `ida_tui.config.training_checks.extra`: arguments of the installed TRL, with types."""
    from trl import GRPOConfig

    arguments = {
        field.name: sorted(dict.fromkeys(_json_types(field.type)))
        for field in dataclasses.fields(GRPOConfig)
        if field.init
    }
    return json.dumps({"arguments": dict(sorted(arguments.items()))}, indent=1) + "\n"


def _json_types(kind: Any) -> Iterator[str]:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        for part in get_args(kind):
            yield from _json_types(part)
    elif origin is Literal:
        yield from {_JSON_TYPES[type(value)] for value in get_args(kind)}
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        yield "str"
    else:
        yield _JSON_TYPES.get(origin or kind, "dict")


_JSON_TYPES = {
    int: "int", float: "float", bool: "bool", str: "str", list: "list", dict: "dict",
    types.NoneType: "null",
}  # fmt: skip


FILES = {
    "docs/profiles.md": profiles_page,
    "docs/commands.md": commands_page,
    "ida_tui/cli/completion/config_keys.json": completed_keys,
    "ida_tui/config/training_checks/trl_arguments.json": trl_arguments,
}


def main() -> None:
    """Write the files."""
    for path, text in FILES.items():
        (REPOSITORY / path).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
