"""Text output of `ida-tui --list [KIND]` and `ida-tui --show NAME [key=value ...]`.

A user's profile that cannot be read is listed with its error. All other invalid names and values
raise a `UsageError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ida_tui.config import profiles
from ida_tui.config.profiles import PROFILE_KINDS, ProfileKind
from ida_tui.config.resolve import ResolvedExperiment, ResolvedProfile, resolve, resolve_profile
from ida_tui.config.schema import Config, PromptSet
from ida_tui.config.trust.headers import header_problem
from ida_tui.config.yaml_tree import Origin, Value, to_plain
from ida_tui.errors import UsageError
from ida_tui.util.format import format_count
from ida_tui.util.paths import display_path, is_file
from ida_tui.util.secrets import is_variable_name
from ida_tui.util.text import cell_length, pad_right, quoted, strip_credentials

_MAX_VALUE_WIDTH = 56
"""Maximum width of a value in `--show`; longer values are truncated."""
_SHOWN_PROMPTS = 3
"""Number of prompts that `--show` prints."""


@dataclass(frozen=True, slots=True)
class ProfileEntry:
    """One profile in `--list`."""

    kind: ProfileKind
    name: str
    description: str
    file: Path
    is_user_profile: bool
    """Whether it is a user's profile, not a shipped one."""
    overrides_shipped: bool = False
    error: str = ""
    """Location and description of the error; empty if the profile is usable."""


def list_entries(kind: ProfileKind) -> list[ProfileEntry]:
    """The profiles of a kind, sorted by name."""
    return [_load_entry(kind, name, file) for name, file in profiles.list_profiles(kind).items()]


def render_list(kind: str | None = None) -> str:
    """The profiles of one kind or of all kinds, one per line.

    Raises:
        UsageError: the kind does not exist.
    """
    kinds = PROFILE_KINDS if kind is None else (_parse_kind(kind),)
    entries_by_kind = {k: list_entries(k) for k in kinds}
    width = max(
        (len(e.name) for kind_entries in entries_by_kind.values() for e in kind_entries), default=0
    )
    lines: list[str] = []
    for k, kind_entries in entries_by_kind.items():
        lines.append(k)
        lines += [f"  {e.name:<{width}}  {_describe_entry(e)}" for e in kind_entries] or [
            "  (none)"
        ]
        lines.append("")
    lines.append(f"Your profiles: {profiles.user_root()}/<kind>/NAME.yaml")
    lines.append(
        "A profile there overrides the shipped profile of the same name, and can use extends: NAME."
    )
    return "\n".join(lines)


def render_profile(name: str, overrides: Sequence[str] = ()) -> str:
    """All values of a profile with their origins.

    Args:
        name: a profile of any kind; `models/NAME` if several kinds have a profile of that name.
        overrides: `key=value` items; only for an experiment.

    Raises:
        UsageError: the profile does not exist or contains an invalid value.
    """
    if name.startswith("experiment="):
        return render_values(resolve(None, [name, *overrides], verify=False))
    kinds, name = _find_kinds(name)
    if "experiments" in kinds:
        return render_values(resolve(name, overrides, verify=False))
    if overrides:
        raise UsageError(
            f"overrides apply only to an experiment, but {name} is not an experiment",
            f"use an experiment: ida-tui --show dev-mps {kinds[0].removesuffix('s')}={name}",
            where="command line",
        )
    shown = [resolve_profile(kind, name) for kind in kinds]
    return "\n\n".join(_profile_heading(p.kind, p.file) + "\n\n" + render_values(p) for p in shown)


def value_rows(resolved: ResolvedExperiment | ResolvedProfile) -> list[tuple[str, str, str]]:
    """Dotted key, value (truncated if long) and origin of every value."""
    return list(_iter_value_rows(resolved.config.model_dump(), resolved.origins))


def render_values(resolved: ResolvedExperiment | ResolvedProfile) -> str:
    """One line per value, `key = value    # origin`, with a blank line between sections."""
    shown_rows = value_rows(resolved)
    key_width = max(len(key) for key, _, _ in shown_rows)
    value_width = max(cell_length(value) for _, value, _ in shown_rows)
    lines: list[str] = []
    section = ""
    for key, value, origin in shown_rows:
        row_section = (
            key.rpartition(".")[0].split(".")[0] if isinstance(resolved.config, Config) else ""
        )
        if row_section != section:
            lines.append("")
            section = row_section
        lines.append(f"{key:<{key_width}} = {pad_right(value, value_width)}  # {origin}")
    return "\n".join(lines)


# --- lists --------------------------------------------------------------------------------------


def _load_entry(kind: ProfileKind, name: str, file: Path) -> ProfileEntry:
    shipped = profiles.shipped_root() / kind / file.name
    is_users = shipped.parent != file.parent
    hides = is_users and is_file(shipped)
    summary = ""
    try:
        node = profiles.load_profile(kind, name)
        if is_users and kind == "experiments":
            summary = _summarize(resolve(name, verify=False).config)
        elif is_users:
            resolve_profile(kind, name)
    except UsageError as error:
        location = f"{error.where}: " if error.where else ""
        return ProfileEntry(kind, name, "", file, is_users, hides, f"{location}{error.title}")
    values = to_plain(node)
    description = values.get("description") if isinstance(values, dict) else None
    text = description if isinstance(description, str) and description.strip() else summary
    return ProfileEntry(kind, name, text, file, is_users, hides)


def _summarize(config: Config) -> str:
    """An experiment without a description in a few words: its model, what scores it, and its prompts."""
    scorer = f"judge {config.judge.name or config.judge.model}"
    if not config.rubric.judged_axes:
        scorer = f"reward functions {config.rubric.name}".rstrip()
    model = config.model.name or config.model.path
    return f"Model {model}, {scorer}, prompts {config.prompts.name or 'of its own'}."


def _describe_entry(entry: ProfileEntry) -> str:
    if entry.error:
        return f"cannot be used: {entry.error}"
    text = " ".join(entry.description.split()) or "(no description)"
    if entry.is_user_profile:
        text += "  [yours, overrides the shipped one]" if entry.overrides_shipped else "  [yours]"
    return text


def _parse_kind(kind_name: str) -> ProfileKind:
    for kind in PROFILE_KINDS:
        if kind_name.lower().removesuffix("s") == kind.removesuffix("s"):
            return kind
    raise UsageError(
        f"unknown profile kind {quoted(kind_name)}",
        f"choose one of these kinds: {', '.join(PROFILE_KINDS)}",
        where="command line: --list",
    )


# --- one profile --------------------------------------------------------------------------------


def _find_kinds(name: str) -> tuple[list[ProfileKind], str]:
    """The kinds that have a profile of this name, and the name without a `kind/` prefix."""
    head, slash, tail = name.partition("/")
    if slash and head in PROFILE_KINDS and not name.endswith((".yaml", ".yml")):
        return [_parse_kind(head)], tail
    if name.endswith((".yaml", ".yml")):
        folder = Path(name).resolve().parent.name
        return [_parse_kind(folder) if folder in PROFILE_KINDS else "experiments"], name
    kinds: list[ProfileKind] = [
        kind for kind in PROFILE_KINDS if name in profiles.list_profiles(kind)
    ]
    if kinds:
        return kinds, name
    known = sorted({n for kind in PROFILE_KINDS for n in profiles.list_profiles(kind)})
    raise UsageError(
        f"there is no profile named {quoted(name)}",
        f"{profiles.suggest_names(name, known)}\nlist all profiles with: ida-tui --list",
        where="command line",
    )


def _profile_heading(kind: ProfileKind, file: Path) -> str:
    return f"# {kind}: {display_path(file)}"


def _iter_value_rows(
    values: Mapping[str, Value], origins: Mapping[str, Origin]
) -> Iterator[tuple[str, str, str]]:
    for key, value in _iter_values(values):
        parent_origin = origins.get(key) or origins.get(f"{key}.0") or Origin()
        name = key.rpartition(".")[2]
        if name == "prompts" and isinstance(value, list) and value:
            yield key, _prompts_summary(value), str(parent_origin)
            for position, prompt in enumerate(value[:_SHOWN_PROMPTS]):
                if isinstance(prompt, dict):
                    origin = origins.get(f"{key}.{position}", parent_origin)
                    text = f"{prompt['id']}: {prompt['text']}"
                    yield f"{key}.{position}", _truncate(text), str(origin)
            if len(value) > _SHOWN_PROMPTS:
                yield f"{key}.…", f"and {len(value) - _SHOWN_PROMPTS} more", str(parent_origin)
        elif name == "api_key_env" and isinstance(value, str) and not is_variable_name(value):
            # The value may be the key itself, so it is not printed.
            yield key, "(hidden: not a variable name)", str(parent_origin)
        elif ".extra_headers." in f".{key}" and header_problem(name, str(value)):
            yield key, "(hidden: it cannot be sent)", str(parent_origin)
        elif name == "base_url" and isinstance(value, str):
            yield key, _format_value(strip_credentials(value)), str(parent_origin)
        else:
            yield key, _format_value(value), str(parent_origin)


def _iter_values(values: Mapping[str, Value], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Leaves and lists by dotted key; within each mapping, plain values before sections."""
    for key, value in sorted(values.items(), key=lambda item: isinstance(item[1], dict)):
        dotted = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict) and value:
            yield from _iter_values(value, dotted)
        elif key == "panel" and isinstance(value, list) and value:
            members = {str(n): member for n, member in enumerate(value)}
            yield from _iter_values(members, dotted)
        else:
            yield dotted, value


def _prompts_summary(prompts: list[Value]) -> str:
    prompt_set = PromptSet.model_validate({"prompts": prompts})
    train, held_out = prompt_set.train(), prompt_set.held_out()
    kinds = Counter(p.kind for p in prompt_set.prompts)
    shown = f"{kinds['harmless']} harmless, {kinds['unsafe']} unsafe"
    if kinds[None]:
        shown += f", {kinds[None]} without a kind"
    total = format_count(len(prompts), "prompt")
    return f"{total}: {len(train)} for training, {len(held_out)} held out; {shown}"


def _format_value(value: object) -> str:
    if isinstance(value, list):
        items = ", ".join(_format_value(item) for item in value)
        if len(items) + 2 <= _MAX_VALUE_WIDTH:
            return f"[{items}]"
        return f"{len(value)} entries"
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, str):
        return _truncate(value) if value.strip() else '""'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def _truncate(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_VALUE_WIDTH else f"{line[: _MAX_VALUE_WIDTH - 1]}…"
