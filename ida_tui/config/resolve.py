"""Resolve an experiment: profiles and overrides become one checked `Config`, with origins.

    resolved = resolve("dev-mps", ["model=embedded", "device=cpu", "training.learning_rate=1e-5"])

Profiles are named first (``experiment= model= judge= rubric= prompts=``), then dotted keys change
single values. Whatever is wrong, in a file or on the command line, is one `UsageError` that names
the place and the fix. `to_yaml` writes the result so that it runs again as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from ida_tui.config import profiles
from ida_tui.config.checks import Finding, check
from ida_tui.config.profiles import SECTIONS, Kind
from ida_tui.config.schema import Config, JudgeConfig, ModelConfig, PromptSet, RubricConfig
from ida_tui.config.validation import also, origin_of, validate
from ida_tui.config.yaml_tree import COMMAND_LINE, Node, Origin, Value, dump, merge, parse
from ida_tui.errors import UsageError
from ida_tui.util.paths import expanded, is_folder
from ida_tui.util.text import quoted, safe

CONFIG_OF: Mapping[Kind, type[BaseModel]] = {
    "models": ModelConfig,
    "experiments": Config,
    "judges": JudgeConfig,
    "rubrics": RubricConfig,
    "prompts": PromptSet,
}

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
        verify: also run the cross-checks of `ida_tui.config.checks`, and refuse what they refuse.

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
    config, raw, origins = validate(Config, root)
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
            first.hint + also([f.key for f in errors[1:]]),
            where=f"{origin_of(origins, key)}: {key}",
        )
    return Resolved(config, origins, raw, file, tuple(findings))


def resolve_profile(kind: Kind, name: str) -> ResolvedProfile:
    """One model, judge, rubric or prompts profile, checked on its own.

    Raises:
        UsageError: no such profile, or a wrong value in it.
    """
    file = profiles.find(kind, name)
    config, _, origins = validate(CONFIG_OF[kind], profiles.load(kind, name))
    return ResolvedProfile(kind, config, origins, file)


def to_yaml(config: Config) -> str:
    """The whole experiment as YAML, every value written out; it runs again as it is."""
    head = (
        f"# {config.name}: every value, as resolved. Run it again as it is:\n"
        "#   ida-tui --run PATH/TO/THIS/config.yaml\n"
    )
    return head + dump(config.model_dump(mode="python"))


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
        return parse(text, COMMAND_LINE)
    except UsageError as error:
        raise UsageError(
            f"{quoted(text)} cannot be read as a value: {error.title}",
            f"put it in quotes for YAML and for the shell: {safe(key)}='\"…\"'",
            where=f"command line: {safe(key)}",
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
            entries[section] = merge(base, Node(rest, node.origin), SECTIONS)
    return Node(entries, root.origin)


def _named(section: str, kind: Kind, name: str, origin: Origin) -> Node:
    """A section given by name; a model may also be a folder or a Hugging Face id."""
    if kind != "models" or name.endswith((".yaml", ".yml")) or name in profiles.names(kind):
        return profiles.load(kind, name, origin, section)
    if is_folder(expanded(name)) or _HUB_ID.fullmatch(name):
        path = str(expanded(name))
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
            "description", "revision", "trust_remote_code", "parameters", "context_length",
            "download_gb", "licence",
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
        return merge(node, value, SECTIONS)
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
        f"{safe('.'.join(done))} has no {quoted(head)} in it",
        f"set the whole value: {safe('.'.join(done))}=…",
        where=f"command line: {safe(key)}",
    )
