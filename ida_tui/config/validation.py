"""Validation of profiles, with error messages that suggest a fix.

`validate` converts a YAML tree into its config model. The first problem raises one `UsageError` with
file, line and key; its hint recognizes common synonyms of keys and values.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from ida_tui.config.profiles import SECTIONS
from ida_tui.config.schema import Config
from ida_tui.config.yaml_tree import (
    COMMAND_LINE_ORIGIN,
    DEFAULT_ORIGIN,
    Node,
    Origin,
    Value,
    iter_leaves,
    iter_origins,
    to_plain,
)
from ida_tui.errors import UsageError
from ida_tui.util.text import quoted, short_key

KEY_SYNONYMS = {
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
"""Common synonym of a key, in lower case → the key."""

VALUE_SYNONYMS = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "metal": "mps",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
    "adamw": "adamw_torch",
}
"""Common synonym of a value, in lower case → the value."""


def validate(
    model: type[BaseModel], root: Node
) -> tuple[BaseModel, dict[str, Value], dict[str, Origin]]:
    """The config model of a tree, its plain values, and the origin of every leaf by dotted key.

    Raises:
        UsageError: a key is unknown or missing, or a value is invalid.
    """
    values = to_plain(root)
    assert isinstance(values, dict)
    origins_by_key = {"": root.origin, **dict(iter_origins(root))}
    for key, leaf in iter_leaves(values):
        if (
            isinstance(leaf, str)
            and not _is_storable(leaf)
            and not key.startswith("prompts.prompts.")
        ):
            raise UsageError(
                "the text has a null character or half of a character pair",
                "remove it; no file name, address or file can hold it",
                where=f"{origin_of(origins_by_key, key)}: {short_key(key)}",
            )
    try:
        config = model.model_validate(values, strict=True)
    except ValidationError as error:
        raise _usage_error_from(error, model, values, origins_by_key) from None
    for key, _ in iter_leaves(config.model_dump()):
        origins_by_key.setdefault(key, DEFAULT_ORIGIN)
    return config, values, origins_by_key


def _is_storable(text: str) -> bool:
    """Whether a file name or a file can hold a text."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _usage_error_from(
    error: ValidationError,
    model: type[BaseModel],
    values: Mapping[str, Value],
    origins_by_key: Mapping[str, Origin],
) -> UsageError:
    """The error for the first problem: unknown keys, then invalid values, then missing keys."""
    problems: dict[str, tuple[list[str], ErrorDetails]] = {}
    for problem in error.errors(include_url=False):
        parts = _value_path(values, problem)
        problems.setdefault(".".join(parts), (parts, problem))
    ranks = {"extra_forbidden": 0, "missing": 2}
    ordered = sorted(problems, key=lambda key: ranks.get(problems[key][1]["type"], 1))
    key = ordered[0]
    parts, problem = problems[key]
    origin = origin_of(origins_by_key, key)
    if problem["type"] == "extra_forbidden":
        title, hint = _describe_unknown_key(model, parts, origin)
    elif problem["type"] == "missing":
        title, hint = _describe_missing_key(model, parts)
    else:
        title, hint = _describe_invalid_value(model, parts, problem)
    return UsageError(
        title, hint + more_problems_hint(ordered[1:]), where=f"{origin}: {short_key(key)}"
    )


def more_problems_hint(keys: Sequence[str]) -> str:
    """A hint line that lists further keys with problems; empty if there are none."""
    if not keys:
        return ""
    more = ", ".join(short_key(k) for k in keys[:3]) + (", …" if len(keys) > 3 else "")
    return f"\n{len(keys)} more to fix: {more}"


def _value_path(values: Value | Mapping[str, Value], problem: ErrorDetails) -> list[str]:
    """The path to the invalid value, without the union-branch labels that pydantic inserts."""
    parts: list[str] = []
    current: object = values
    for step in problem["loc"]:
        if isinstance(current, Mapping) and step in current:
            current = current[str(step)]
        elif isinstance(current, list) and isinstance(step, int) and step < len(current):
            current = current[step]
        elif not (problem["type"] == "missing" and step == problem["loc"][-1]):
            continue
        parts.append(str(step))
    return parts


def origin_of(origins_by_key: Mapping[str, Origin], key: str) -> Origin:
    """The origin of a key, else of its nearest written section, else the origin of a default."""
    if key in origins_by_key:
        return origins_by_key[key]
    while key:
        key = key.rpartition(".")[0]
        if key in origins_by_key:
            return origins_by_key[key]
    return DEFAULT_ORIGIN


def _describe_unknown_key(
    model: type[BaseModel], parts: list[str], origin: Origin
) -> tuple[str, str]:
    *parents, name = parts
    section = ".".join(parents)
    title = f"unknown key {quoted(name)}" + (f" in {short_key(section)}" if section else "")
    if name.lower() in ("api_key", "key", "token"):
        return title, "do not put API keys in profiles: export OPENAI_API_KEY, or put it in .env"
    if name == "extends":
        return (
            title,
            "extends is allowed in an experiment and in its model, judge, rubric and prompts sections",
        )
    fields_here = _model_fields(_annotation_at(model, parents))
    sections = sorted(_iter_sections(model), key=lambda item: item[0] != ("training",))
    fields_by_section = {".".join(path): fields for path, fields in sections}
    key = KEY_SYNONYMS.get(name.lower(), name.lower())
    if key not in fields_here:
        for path, fields in fields_by_section.items():
            if key in fields:
                where = f"under {path}:" if path else "at the top level:"
                full = f"{path}.{key}" if path else key
                if origin == COMMAND_LINE_ORIGIN:
                    return title, f"{key} belongs {where} write {full}=…"
                return title, f"{key} belongs {where}"
        close = difflib.get_close_matches(key, list(fields_here), n=1, cutoff=0.6)
        if not close:
            for path, fields in fields_by_section.items():
                similar = difflib.get_close_matches(key, list(fields), n=1, cutoff=0.75)
                if similar:
                    full = f"{path}.{similar[0]}" if path else similar[0]
                    return title, f"did you mean {full}?"
            return title, f"valid keys here: {_first_names(list(fields_here))}"
        key = close[0]
    full = f"{section}.{key}" if section and origin == COMMAND_LINE_ORIGIN else key
    return title, f"did you mean {full}?"


def _first_names(known: list[str]) -> str:
    return ", ".join(known[:12]) + (", …" if len(known) > 12 else "")


def _describe_missing_key(model: type[BaseModel], parts: list[str]) -> tuple[str, str]:
    *parents, name = parts
    if model is Config and name in SECTIONS and not parents:
        kind = SECTIONS[name]
        return (
            f"the experiment has no {name}",
            f"add {name}: NAME; list names with: ida-tui --list {kind}",
        )
    section = short_key(".".join(parents)) or "this profile"
    return (
        f"{section} has no {name}",
        f"add {name}: {_expected_phrase(_annotation_at(model, parts))}",
    )


def _describe_invalid_value(
    model: type[BaseModel], parts: list[str], problem: ErrorDetails
) -> tuple[str, str]:
    if problem["type"] == "string_pattern_mismatch" and problem["loc"][-1] == "[key]":
        return (
            f"{quoted(problem['input'])} cannot name an axis",
            "rename it, or the function: an English letter, then at most 23 letters, digits and _",
        )
    annotation, key, value = (
        _annotation_at(model, parts),
        short_key(".".join(parts)),
        problem["input"],
    )
    expected, shown_value, error_type = (
        _expected_phrase(annotation),
        quoted(problem["input"]),
        problem["type"],
    )
    bounds = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    limits = [f"{bounds[k]} {v:g}" for k, v in problem.get("ctx", {}).items() if k in bounds]
    if limits:
        return f"{shown_value} is out of range", f"set {key} to a number {' and '.join(limits)}"
    if error_type == "finite_number":
        return f"{shown_value} is not a finite number", f"set {key} to {expected}"
    if error_type in ("string_too_short", "too_short"):
        return f"{key} is empty", f"set it to {expected}"
    if parts and parts[-1] in SECTIONS and len(parts) == 1 and model is Config:
        return (
            f"{shown_value} is not a profile",
            f"set {key} to the name of a profile, or to a mapping",
        )
    if value is None and _model_fields(annotation):
        return _describe_missing_key(model, parts)
    example = _default_example(model, parts)
    hint = f"set {key} to {expected}"
    if expected.endswith("a list") and isinstance(value, str):
        hint = f"write it as a list: {key}: [{short_key(value)}]"
    elif expected == "text" and isinstance(value, (int, float)):
        hint = f'put it in quotes: {key}: "{value}"'
    elif isinstance(value, str):
        choices = _accepted_phrases(annotation)
        candidate = VALUE_SYNONYMS.get(value.lower(), value.lower())
        close = difflib.get_close_matches(candidate, choices, n=1)
        hint = f"did you mean {close[0]}?" if close else hint
    return f"{shown_value} is not {expected}" + (f"; e.g. {example}" if example else ""), hint


def _default_example(model: type[BaseModel], parts: list[str]) -> str:
    """The default of a numeric field, as an example; empty for other fields."""
    owner = _annotation_at(model, parts[:-1])
    field = _model_fields(owner).get(parts[-1]) if parts else None
    default = getattr(field, "default", None)
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        return ""
    return re.sub(r"e([-+])0+", r"e\1", f"{default:g}")


def _iter_sections(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Any]:
    yield path, _model_fields(model)
    for name, field in model.model_fields.items():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel) and name != "prompts":
                yield from _iter_sections(part, (*path, name))


def _model_fields(annotation: Any) -> Mapping[str, Any]:
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part.model_fields
    return {}


def _annotation_at(model: type[BaseModel], parts: Sequence[str]) -> Any:
    """The type annotation at a path of keys and list indices; `Any` if unknown."""
    annotation: Any = model
    for part in parts:
        fields = _model_fields(annotation)
        if part in fields:
            annotation = fields[part].annotation
            continue
        generics = [a for a in (annotation, *get_args(annotation)) if get_origin(a) is not None]
        lists = [a for a in generics if get_origin(a) in (list, tuple)]
        mappings = [a for a in generics if get_origin(a) is dict]
        if mappings:
            annotation = get_args(mappings[0])[1]
        else:
            annotation = get_args(lists[0])[0] if lists and part.isdecimal() else Any
    return annotation


def number_types(key: str) -> frozenset[type]:
    """`int` and `float`, as far as a dotted key of an experiment takes them; both for an unknown key."""
    return frozenset(_number_types(_annotation_at(Config, key.split("."))))


def _number_types(annotation: Any) -> Iterator[type]:
    if annotation is Any or annotation is JsonValue:
        yield from (int, float)
    elif annotation in (int, float):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _number_types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for part in get_args(annotation):
            yield from _number_types(part)


def _expected_phrase(annotation: Any) -> str:
    """The values that a type accepts, as a phrase."""
    *first, last = dict.fromkeys(_accepted_phrases(annotation))
    return f"{', '.join(first)} or {last}" if first else last


def _accepted_phrases(annotation: Any) -> list[str]:
    """The values that a type accepts, one phrase per choice."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _accepted_phrases(args[0])
    if origin in (Union, UnionType):
        return [phrase for part in args for phrase in _accepted_phrases(part)]
    if origin is Literal:
        return [str(choice) for choice in args]
    phrases = {
        bool: ["true", "false"],
        int: ["a whole number"],
        float: ["a number"],
        str: ["text"],
        list: ["a list"],
        tuple: ["a list of two numbers or nulls"],
        NoneType: ["null"],
    }
    return phrases.get(origin or annotation, ["a mapping of keys to values"])
