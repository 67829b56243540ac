"""Validate a profile's tree, and say in plain words what is wrong with it and what to write.

`validate` turns a tree into its config. The first problem becomes one `UsageError` with its place;
the fix knows the names and values that people use instead of the right ones.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ida_tui.config.profiles import SECTIONS
from ida_tui.config.schema import AXES, Config
from ida_tui.config.yaml_tree import (
    COMMAND_LINE,
    DEFAULT,
    Node,
    Origin,
    Value,
    leaves,
    origins,
    plain,
)
from ida_tui.errors import UsageError
from ida_tui.util.text import quoted, safe

SYNONYMS = {
    "lr": "learning_rate",
    "generations": "num_generations",
    "g": "num_generations",
    "group_size": "num_generations",
    "steps": "max_steps",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "batch": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "accumulation_steps": "gradient_accumulation_steps",
    "dtype": "torch_dtype",
    "precision": "torch_dtype",
    "max_tokens": "max_completion_length",
    "max_new_tokens": "max_completion_length",
    "kl": "beta",
    "kl_coef": "beta",
    "clip": "max_grad_norm",
    "grad_clip": "max_grad_norm",
    "checkpointing": "gradient_checkpointing",
    "optimizer": "optim",
    "rank": "r",
    "lora_alpha": "alpha",
    "memory_limit": "limit_gb",
    "model_name": "path",
}
"""Names that people use for a key, in lower case, and the key."""

OTHER_VALUES = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "metal": "mps",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "adamw": "adamw_torch",
}
"""Words that people use for a value, and the value."""


def validate(
    model: type[BaseModel], root: Node
) -> tuple[BaseModel, dict[str, Value], dict[str, Origin]]:
    """A tree as the config of its kind, with its plain values and the origin of every leaf.

    Raises:
        UsageError: a key is unknown or missing, or a value is wrong.
    """
    raw = plain(root)
    assert isinstance(raw, dict)
    written = {"": root.origin, **dict(origins(root))}
    try:
        config = model.model_validate(raw, strict=True)
    except ValidationError as error:
        raise _explained(error, model, raw, written) from None
    for key, _ in leaves(config.model_dump()):
        written.setdefault(key, DEFAULT)
    return config, raw, written


def _explained(
    error: ValidationError,
    model: type[BaseModel],
    raw: Mapping[str, Value],
    written: Mapping[str, Origin],
) -> UsageError:
    """One error for the first problem: unknown keys before wrong values before missing ones."""
    problems: dict[str, tuple[list[str], ErrorDetails]] = {}
    for problem in error.errors(include_url=False):
        parts = _place(raw, problem)
        problems.setdefault(".".join(parts), (parts, problem))
    ranks = {"extra_forbidden": 0, "missing": 2}
    ordered = sorted(problems, key=lambda key: ranks.get(problems[key][1]["type"], 1))
    key = ordered[0]
    parts, problem = problems[key]
    origin = origin_of(written, key)
    if problem["type"] == "extra_forbidden":
        title, hint = _unknown_key(model, parts, origin)
    elif problem["type"] == "missing":
        title, hint = _missing_key(model, parts)
    else:
        title, hint = _wrong_value(model, parts, problem)
    return UsageError(title, hint + also(ordered[1:]), where=f"{origin}: {safe(key)}")


def also(keys: Sequence[str]) -> str:
    """The lines of a fix that name what else is wrong; empty if nothing is."""
    if not keys:
        return ""
    more = ", ".join(safe(k) for k in keys[:3]) + (", …" if len(keys) > 3 else "")
    return f"\nand then {len(keys)} more: {more}"


def _place(raw: Value | Mapping[str, Value], problem: ErrorDetails) -> list[str]:
    """The path to the value at fault, without pydantic's marks for the branches of a union."""
    parts: list[str] = []
    here: object = raw
    for step in problem["loc"]:
        if isinstance(here, Mapping) and step in here:
            here = here[str(step)]
        elif isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
        elif not (problem["type"] == "missing" and step == problem["loc"][-1]):
            continue
        parts.append(str(step))
    return parts


def origin_of(written: Mapping[str, Origin], key: str) -> Origin:
    """Where a key was written; of one that was not, its section, where that was; else a default."""
    if key in written:
        return written[key]
    while key:
        key = key.rpartition(".")[0]
        if key in written:
            return written[key]
    return DEFAULT


def _unknown_key(model: type[BaseModel], parts: list[str], origin: Origin) -> tuple[str, str]:
    *inside, name = parts
    section = ".".join(inside)
    title = f"there is no key {quoted(name)}" + (f" in {safe(section)}" if section else "")
    if name.lower() in ("api_key", "key", "token"):
        return title, "keys never stand in profiles: export OPENAI_API_KEY, or put it in .env"
    if name == "extends":
        return title, "extends works in an experiment and in its model, judge, rubric and prompts"
    here = _fields(_annotation(model, inside))
    found = sorted(_sections(model), key=lambda item: item[0] != ("training",))
    places = {".".join(place): fields for place, fields in found}
    meant = SYNONYMS.get(name.lower(), name.lower())
    if meant not in here:
        for place, fields in places.items():
            if meant in fields:
                where = f"under {place}:" if place else "at the top level:"
                full = f"{place}.{meant}" if place else meant
                if origin == COMMAND_LINE:
                    return title, f"{meant} belongs {where} write {full}=…"
                return title, f"{meant} belongs {where}"
        close = difflib.get_close_matches(meant, list(here), n=1, cutoff=0.6)
        if not close:
            for place, fields in places.items():
                elsewhere = difflib.get_close_matches(meant, list(fields), n=1, cutoff=0.75)
                if elsewhere:
                    full = f"{place}.{elsewhere[0]}" if place else elsewhere[0]
                    return title, f"did you mean {full}?"
            return title, f"known keys here: {_some(list(here))}"
        meant = close[0]
    full = f"{section}.{meant}" if section and origin == COMMAND_LINE else meant
    return title, f"did you mean {full}?"


def _some(known: list[str]) -> str:
    return ", ".join(known[:12]) + (", …" if len(known) > 12 else "")


def _missing_key(model: type[BaseModel], parts: list[str]) -> tuple[str, str]:
    *inside, name = parts
    if model is Config and name in SECTIONS and not inside:
        kind = SECTIONS[name]
        return f"the experiment names no {name}", f"add {name}: NAME; ida-tui --list {kind}"
    if name in AXES and inside[-1:] == ["axes"]:
        return (
            f"the rubric has no {name} axis",
            f"add under axes:  {name}: {{zero: what 0 means, ten: what 10 means}}",
        )
    section = safe(".".join(inside)) or "this profile"
    return f"{section} lacks {name}", f"add {name}: {_noun(_annotation(model, parts))}"


def _wrong_value(
    model: type[BaseModel], parts: list[str], problem: ErrorDetails
) -> tuple[str, str]:
    annotation, key, value = _annotation(model, parts), safe(".".join(parts)), problem["input"]
    noun, shown, kind = _noun(annotation), quoted(problem["input"]), problem["type"]
    bounds = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = [f"{bounds[k]} {v:g}" for k, v in problem.get("ctx", {}).items() if k in bounds]
    if limits:
        return f"{shown} is out of range", f"set {key} to a number {' and '.join(limits)}"
    if kind == "finite_number":
        return f"{shown} is not a finite number", f"set {key} to {noun}"
    if kind in ("string_too_short", "too_short"):
        return f"{key} is empty", f"set it to {noun}"
    if parts and parts[-1] in SECTIONS and len(parts) == 1 and model is Config:
        return f"{shown} is not a profile", f"set {key} to the name of a profile, or to a mapping"
    if value is None and _fields(annotation):
        return _missing_key(model, parts)
    example = _example(model, parts)
    hint = f"set {key} to {noun}"
    if noun.endswith("a list") and isinstance(value, str):
        hint = f"write it as a list: {key}: [{safe(value)}]"
    elif noun == "text" and isinstance(value, (int, float)):
        hint = f'put it in quotes: {key}: "{value}"'
    elif isinstance(value, str):
        choices = _words(annotation)
        meant = OTHER_VALUES.get(value.lower(), value.lower())
        close = difflib.get_close_matches(meant, choices, n=1)
        hint = f"did you mean {close[0]}?" if close else hint
    return f"{shown} is not {noun}" + (f"; e.g. {example}" if example else ""), hint


def _example(model: type[BaseModel], parts: list[str]) -> str:
    """The default of a number, as an example of how to write one."""
    owner = _annotation(model, parts[:-1])
    field = _fields(owner).get(parts[-1]) if parts else None
    default = getattr(field, "default", None)
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        return ""
    return re.sub(r"e([-+])0+", r"e\1", f"{default:g}")


def _sections(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[Any]:
    yield at, _fields(model)
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel) and name != "prompts":
                yield from _sections(part, (*at, name))


def _fields(annotation: Any) -> Mapping[str, Any]:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part.model_fields
    return {}


def _annotation(model: type[BaseModel], parts: Sequence[str]) -> Any:
    """The type of the value at a path; of a list's item, the item's."""
    here: Any = model
    for part in parts:
        fields = _fields(here)
        if part in fields:
            here = fields[part].annotation
            continue
        lists = [a for a in (here, *get_args(here)) if get_origin(a) is list]
        here = get_args(lists[0])[0] if lists and part.isdecimal() else Any
    return here


def _noun(annotation: Any) -> str:
    """What a type expects, in plain words."""
    *first, last = dict.fromkeys(_words(annotation))
    return f"{', '.join(first)} or {last}" if first else last


def _words(annotation: Any) -> list[str]:
    """What a type expects, choice by choice."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(args[0])
    if origin in (Union, UnionType):
        return [word for part in args for word in _words(part)]
    if origin is Literal:
        return [str(choice) for choice in args]
    words = {
        bool: ["true", "false"],
        int: ["a whole number"],
        float: ["a number"],
        str: ["text"],
        list: ["a list"],
        NoneType: ["null"],
    }
    return words.get(origin or annotation, ["a mapping of keys to values"])
