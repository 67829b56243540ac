"""Resolve an experiment: profiles and overrides become one checked `Config`, with origins.

    resolved = resolve("dev-mps", ["model=embedded", "device=cpu", "training.learning_rate=1e-5"])

Profiles are named first (``experiment= model= judge= rubric= prompts=``), then dotted keys change
single values. Whatever is wrong, in a file or on the command line, is one `UsageError` that names
the place and the fix. `to_yaml` writes the result so that it runs again as it is.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ida_tui import profiles
from ida_tui.checks import Finding, check
from ida_tui.config import AXES, Config, JudgeConfig, ModelConfig, PromptSet, RubricConfig
from ida_tui.errors import UsageError
from ida_tui.profiles import (
    COMMAND_LINE,
    DEFAULT,
    SECTIONS,
    Kind,
    Node,
    Origin,
    Value,
    quoted,
)

CONFIG_OF: Mapping[Kind, type[BaseModel]] = {
    "models": ModelConfig,
    "experiments": Config,
    "judges": JudgeConfig,
    "rubrics": RubricConfig,
    "prompts": PromptSet,
}

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

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Resolved:
    """An experiment that can run."""

    config: Config
    origins: Mapping[str, Origin]
    """Dotted key → where its value was written; every leaf, defaults included."""
    raw: Mapping[str, Value]
    """The values that were written, before defaults were filled in."""
    file: Path
    """The experiment's own file."""
    notes: tuple[Finding, ...] = ()
    """What is worth knowing and does not stop the run."""


@dataclass(frozen=True, slots=True)
class ResolvedProfile:
    """One profile on its own, of any kind but experiments."""

    kind: Kind
    config: BaseModel
    origins: Mapping[str, Origin]
    file: Path


def resolve(
    experiment: str | None, overrides: Sequence[str] = (), *, verify: bool = True
) -> Resolved:
    """The experiment that a command line means.

    Args:
        experiment: a profile's name or a path ending in .yaml; None if an override names it.
        overrides: ``key=value`` each. Later ones win.
        verify: also run the cross-checks of `ida_tui.checks`, and refuse what they refuse.

    Raises:
        UsageError: no such profile, a wrong value, or values that do not fit together.
    """
    pairs = [_split(item) for item in overrides]
    named = [value for key, value in pairs if key == "experiment"]
    if named and experiment is not None and named[-1] != experiment:
        raise UsageError(
            f"two experiments are named: {quoted(experiment)} and {quoted(named[-1])}",
            "name one of them",
            where="command line: experiment",
        )
    experiment = named[-1] if named else experiment
    if not experiment:
        raise UsageError(
            "no experiment is named",
            "name one, such as dev-mps; ida-tui --list experiments shows them",
            where="command line: experiment",
        )
    file = profiles.find("experiments", experiment, COMMAND_LINE, "experiment")
    root = profiles.load("experiments", experiment, COMMAND_LINE, "experiment")
    root = _with_sections(root, {key: value for key, value in pairs if key in SECTIONS})
    dotted = {key: value for key, value in pairs if key not in SECTIONS and key != "experiment"}
    root = _without_stale_facts(root, dotted)
    for key, text in dotted.items():
        root = _set(root, key.split("."), _parse_value(key, text), key)
    config, raw, origins = _validate(Config, root)
    assert isinstance(config, Config)
    findings = check(config) if verify else []
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        first = errors[0]
        # Of the values that do not fit together, the one just typed is the one to look at.
        typed = [k for k in (first.key, *first.involved) if origins.get(k) == COMMAND_LINE]
        key = typed[0] if typed else first.key
        raise UsageError(
            first.title,
            first.hint + _also([f.key for f in errors[1:]]),
            where=f"{_origin(origins, key)}: {key}",
        )
    return Resolved(config, origins, raw, file, tuple(findings))


def resolve_profile(kind: Kind, name: str) -> ResolvedProfile:
    """One model, judge, rubric or prompts profile, checked on its own.

    Raises:
        UsageError: no such profile, or a wrong value in it.
    """
    file = profiles.find(kind, name)
    config, _, origins = _validate(CONFIG_OF[kind], profiles.load(kind, name))
    return ResolvedProfile(kind, config, origins, file)


def to_yaml(config: Config) -> str:
    """The whole experiment as YAML, every value written out; it runs again as it is."""
    head = (
        f"# {config.name}: every value, as resolved. Run it again as it is:\n"
        "#   ida-tui --run PATH/TO/THIS/config.yaml\n"
    )
    return head + profiles.dump(config.model_dump(mode="python"))


def leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of every leaf; an empty list or mapping is one too."""
    children: list[tuple[object, object]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    if not children:
        yield prefix, value
    for key, child in children:
        yield from leaves(child, f"{prefix}.{key}" if prefix else str(key))


# --- overrides and sections ---------------------------------------------------------------------


def _split(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    key = key.strip().removeprefix("--")
    if not equals or not all(key.split(".")):
        raise UsageError(
            f"{quoted(item)} is not key=value",
            "write overrides as model=NAME or training.learning_rate=1e-5",
            where="command line",
        )
    if (key in SECTIONS or key == "experiment") and not value.strip():
        raise UsageError(f"{key}= needs a name", f"write {key}=NAME", where=f"command line: {key}")
    return key, value.strip() if key in SECTIONS or key == "experiment" else value


def _parse_value(key: str, text: str) -> Node:
    try:
        return profiles.parse(text, COMMAND_LINE)
    except UsageError as error:
        raise UsageError(
            f"{quoted(text)} cannot be read as a value: {error.title}",
            f"put it in quotes for YAML and for the shell: {_safe(key)}='\"…\"'",
            where=f"command line: {_safe(key)}",
        ) from error


def _with_sections(root: Node, named: Mapping[str, str]) -> Node:
    assert isinstance(root.value, dict)
    entries = dict(root.value)
    for section, kind in SECTIONS.items():
        if section in named:
            entries[section] = Node(named[section], COMMAND_LINE)
        node = entries.get(section)
        if node is None or node.value is None:
            entries.pop(section, None)
        elif isinstance(node.value, str):
            entries[section] = _named(section, kind, node.value, node.origin)
        elif isinstance(node.value, dict) and "extends" in node.value:
            rest = dict(node.value)
            parent = rest.pop("extends")
            if not isinstance(parent.value, str):
                raise UsageError(
                    "extends takes the name of one profile",
                    f"write extends: NAME; ida-tui --list {kind} shows the names",
                    where=f"{parent.origin}: {section}.extends",
                )
            base = _named(section, kind, parent.value, parent.origin)
            entries[section] = profiles.merge(base, Node(rest, node.origin))
    return Node(entries, root.origin)


def _named(section: str, kind: Kind, name: str, origin: Origin) -> Node:
    """A section given by name; a model may also be a folder or a Hugging Face id."""
    if kind != "models" or name.endswith((".yaml", ".yml")) or name in profiles.names(kind):
        return profiles.load(kind, name, origin, section)
    if profiles.is_folder(profiles.expanded(name)) or _HUB_ID.fullmatch(name):
        path = str(profiles.expanded(name))
        entries = {"name": Node(_last_part(path), origin), "path": Node(path, origin)}
        return Node(entries, origin)
    if name.startswith((".", "~")) or "/" in name:
        raise UsageError(
            f"there is no folder {quoted(name)}",
            "check the path; a Hugging Face id looks like org/name, such as Qwen/Qwen3-0.6B",
            where=f"{origin}: {section}",
        )
    try:
        return profiles.load(kind, name, origin, section)
    except UsageError as error:
        error.hint += "\na folder, or a Hugging Face id such as Qwen/Qwen3-0.6B, works too"
        raise


def _last_part(path: str) -> str:
    return Path(path).resolve().name if path.startswith(".") else Path(path).name


def _without_stale_facts(root: Node, dotted: Mapping[str, str]) -> Node:
    """Drop what a profile states about a model or judge that an override replaces.

    A parameter count, a download size or a price belongs to the thing it was written for.
    """
    stale: dict[str, list[str]] = {}
    if "model.path" in dotted:
        stale["model"] = [
            "description", "revision", "parameters", "context_length", "download_gb", "licence",
        ]  # fmt: skip
    if "judge.model" in dotted or "judge.base_url" in dotted:
        stale["judge"] = ["description", "price", "shutdown_date"]
    assert isinstance(root.value, dict)
    entries = dict(root.value)
    for section, keys in stale.items():
        node = entries.get(section)
        if node is None or not isinstance(node.value, dict):
            continue
        kept = {key: child for key, child in node.value.items() if key not in keys}
        label = dotted.get("model.path") if section == "model" else dotted.get("judge.model")
        if label:
            kept["name"] = Node(_last_part(label) if section == "model" else label, COMMAND_LINE)
        entries[section] = Node(kept, node.origin)
    return Node(entries, root.origin)


def _set(node: Node, parts: Sequence[str], value: Node, key: str) -> Node:
    """`value` put where `parts` lead below `node`; mappings merge, the rest replaces."""
    if not parts:
        return profiles.merge(node, value)
    head, rest = parts[0], parts[1:]
    if isinstance(node.value, list) and head.isdecimal() and int(head) < len(node.value):
        items = list(node.value)
        items[int(head)] = _set(items[int(head)], rest, value, key)
        return Node(items, node.origin)
    if isinstance(node.value, dict) or node.value is None:
        entries = dict(node.value or {})
        entries[head] = _set(entries.get(head, Node(None, COMMAND_LINE)), rest, value, key)
        return Node(entries, node.origin)
    done = key.split(".")[: -len(parts)]
    raise UsageError(
        f"{_safe('.'.join(done))} has no {quoted(head)} in it",
        f"set the whole value: {_safe('.'.join(done))}=…",
        where=f"command line: {_safe(key)}",
    )


# --- validation, in plain words -----------------------------------------------------------------


def _validate(
    model: type[BaseModel], root: Node
) -> tuple[BaseModel, dict[str, Value], dict[str, Origin]]:
    raw = profiles.plain(root)
    assert isinstance(raw, dict)
    origins = {"": root.origin, **dict(profiles.origins(root))}
    try:
        config = model.model_validate(raw, strict=True)
    except ValidationError as error:
        raise _explained(error, model, raw, origins) from None
    for key, _ in leaves(config.model_dump()):
        origins.setdefault(key, DEFAULT)
    return config, raw, origins


def _explained(
    error: ValidationError,
    model: type[BaseModel],
    raw: Mapping[str, Value],
    origins: Mapping[str, Origin],
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
    origin = _origin(origins, key)
    if problem["type"] == "extra_forbidden":
        title, hint = _unknown_key(model, parts, origin)
    elif problem["type"] == "missing":
        title, hint = _missing_key(model, parts)
    else:
        title, hint = _wrong_value(model, parts, problem)
    return UsageError(title, hint + _also(ordered[1:]), where=f"{origin}: {_safe(key)}")


def _also(keys: Sequence[str]) -> str:
    if not keys:
        return ""
    more = ", ".join(_safe(k) for k in keys[:3]) + (", …" if len(keys) > 3 else "")
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


def _origin(origins: Mapping[str, Origin], key: str) -> Origin:
    """Where a key was written; of one that was not, its section, where that was; else a default."""
    if key in origins:
        return origins[key]
    while key:
        key = key.rpartition(".")[0]
        if key in origins:
            return origins[key]
    return DEFAULT


def _unknown_key(model: type[BaseModel], parts: list[str], origin: Origin) -> tuple[str, str]:
    *inside, name = parts
    section = ".".join(inside)
    title = f"there is no key {quoted(name)}" + (f" in {_safe(section)}" if section else "")
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
    section = _safe(".".join(inside)) or "this profile"
    return f"{section} lacks {name}", f"add {name}: {_noun(_annotation(model, parts))}"


def _wrong_value(
    model: type[BaseModel], parts: list[str], problem: ErrorDetails
) -> tuple[str, str]:
    annotation, key, value = _annotation(model, parts), _safe(".".join(parts)), problem["input"]
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
        hint = f"write it as a list: {key}: [{_safe(value)}]"
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


def _safe(key: str) -> str:
    """A key as printed: on one line, and not endless."""
    return "".join(c if c.isprintable() else "?" for c in key)[:100]
