"""The profiles as text: `ida-tui --list [KIND]` and `ida-tui --show NAME [key=value ...]`.

A profile of the user's own that cannot be read is listed with what is wrong with it; everything
else here raises `UsageError` for a name or a value that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ida_tui.config import profiles
from ida_tui.config.profiles import KINDS, Kind
from ida_tui.config.resolve import Resolved, ResolvedProfile, resolve, resolve_profile
from ida_tui.config.schema import Config, PromptSet
from ida_tui.config.yaml_tree import Origin, Value, plain
from ida_tui.errors import UsageError
from ida_tui.util.paths import is_file, shown_path
from ida_tui.util.text import quoted, without_login

_WIDTH = 56
"""A value longer than this is cut in `--show`."""
_FEW = 3
"""Prompts that are shown in full."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One profile in a list."""

    kind: Kind
    name: str
    description: str
    file: Path
    own: bool
    """It is the user's, not a shipped one."""
    hides_shipped: bool = False
    error: str = ""
    """What is wrong with it, and where; empty if it can be used."""


def entries(kind: Kind) -> list[Entry]:
    """Every profile of a kind, by name."""
    return [_entry(kind, name, file) for name, file in profiles.names(kind).items()]


def render_list(kind: str | None = None) -> str:
    """The profiles of one kind, or of all, with a line for each.

    Raises:
        UsageError: there is no such kind.
    """
    kinds = KINDS if kind is None else (_kind(kind),)
    every = {k: entries(k) for k in kinds}
    width = max((len(e.name) for found in every.values() for e in found), default=0)
    lines: list[str] = []
    for k, found in every.items():
        lines.append(k)
        lines += [f"  {e.name:<{width}}  {_about(e)}" for e in found] or ["  (none)"]
        lines.append("")
    lines.append(f"Your own profiles: {profiles.user_root()}/<kind>/NAME.yaml")
    lines.append(
        "A profile there hides a shipped one of its name, and may start with extends: NAME."
    )
    return "\n".join(lines)


def show(name: str, overrides: Sequence[str] = ()) -> str:
    """Every value of a profile with its origin.

    Args:
        name: an experiment, or any other profile; ``models/NAME`` where two kinds share the name.
        overrides: ``key=value`` changes; only an experiment takes them.

    Raises:
        UsageError: no such profile, or a wrong value in it.
    """
    if name.startswith("experiment="):
        return render_show(resolve(None, [name, *overrides], verify=False))
    kinds, name = _kinds_of(name)
    if "experiments" in kinds:
        return render_show(resolve(name, overrides, verify=False))
    if overrides:
        raise UsageError(
            f"overrides change an experiment, and {name} is none",
            f"name an experiment: ida-tui --show dev-mps {kinds[0].removesuffix('s')}={name}",
            where="command line",
        )
    shown = [resolve_profile(kind, name) for kind in kinds]
    return "\n\n".join(_heading(p.kind, p.file) + "\n\n" + render_show(p) for p in shown)


def rows(resolved: Resolved | ResolvedProfile) -> list[tuple[str, str, str]]:
    """Every value as its dotted key, itself (cut where it is long) and its origin."""
    return list(_rows(resolved.config.model_dump(), resolved.origins))


def render_show(resolved: Resolved | ResolvedProfile) -> str:
    """One line for each value: ``key = value    # origin``, sections apart."""
    found = rows(resolved)
    key_width = max(len(key) for key, _, _ in found)
    value_width = max(len(value) for _, value, _ in found)
    lines: list[str] = []
    section = ""
    for key, value, origin in found:
        here = key.rpartition(".")[0].split(".")[0] if isinstance(resolved.config, Config) else ""
        if here != section:
            lines.append("")
            section = here
        lines.append(f"{key:<{key_width}} = {value:<{value_width}}  # {origin}")
    return "\n".join(lines)


# --- lists --------------------------------------------------------------------------------------


def _entry(kind: Kind, name: str, file: Path) -> Entry:
    shipped = profiles.shipped_root() / kind / file.name
    own = shipped.parent != file.parent
    hides = own and is_file(shipped)
    try:
        node = profiles.load(kind, name)
        if own and kind == "experiments":
            resolve(name, verify=False)
        elif own:
            resolve_profile(kind, name)
    except UsageError as error:
        place = f"{error.where}: " if error.where else ""
        return Entry(kind, name, "", file, own, hides, f"{place}{error.title}")
    values = plain(node)
    about = values.get("description") if isinstance(values, dict) else None
    return Entry(kind, name, about if isinstance(about, str) else "", file, own, hides)


def _about(entry: Entry) -> str:
    if entry.error:
        return f"cannot be used: {entry.error}"
    words = " ".join(entry.description.split()) or "(no description)"
    if entry.own:
        words += "  [yours, in place of the shipped one]" if entry.hides_shipped else "  [yours]"
    return words


def _kind(word: str) -> Kind:
    for kind in KINDS:
        if word.lower().removesuffix("s") == kind.removesuffix("s"):
            return kind
    raise UsageError(
        f"there is no kind of profile called {quoted(word)}",
        f"the kinds are {', '.join(KINDS)}",
        where="command line: --list",
    )


# --- one profile --------------------------------------------------------------------------------


def _kinds_of(name: str) -> tuple[list[Kind], str]:
    """The kinds that have a profile of this name, and the name without its kind."""
    head, slash, tail = name.partition("/")
    if slash and head in KINDS and not name.endswith((".yaml", ".yml")):
        return [_kind(head)], tail
    if name.endswith((".yaml", ".yml")):
        folder = Path(name).resolve().parent.name
        return [_kind(folder) if folder in KINDS else "experiments"], name
    found: list[Kind] = [kind for kind in KINDS if name in profiles.names(kind)]
    if found:
        return found, name
    known = sorted({n for kind in KINDS for n in profiles.names(kind)})
    raise UsageError(
        f"there is no profile named {quoted(name)}",
        f"{profiles.near(name, known)}\nida-tui --list shows them all",
        where="command line",
    )


def _heading(kind: Kind, file: Path) -> str:
    return f"# {kind}: {shown_path(file)}"


def _rows(
    values: Mapping[str, Value], origins: Mapping[str, Origin]
) -> Iterator[tuple[str, str, str]]:
    for key, value in _in_order(values):
        at = origins.get(key) or origins.get(f"{key}.0") or Origin()
        name = key.rpartition(".")[2]
        if name == "prompts" and isinstance(value, list) and value:
            yield key, _summary(value), str(at)
            for position, prompt in enumerate(value[:_FEW]):
                if isinstance(prompt, dict):
                    place = origins.get(f"{key}.{position}", at)
                    text = f"{prompt['id']}: {prompt['text']}"
                    yield f"{key}.{position}", _cut(text), str(place)
            if len(value) > _FEW:
                yield f"{key}.…", f"and {len(value) - _FEW} more", str(at)
        elif name == "api_key_env" and isinstance(value, str) and not value.isidentifier():
            # Somebody may have put the key itself here; it is never printed.
            yield key, "(hidden: not the name of a variable)", str(at)
        elif name == "base_url" and isinstance(value, str):
            yield key, _shown(without_login(value)), str(at)
        else:
            yield key, _shown(value), str(at)


def _in_order(values: Mapping[str, Value], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Leaves and whole lists; the values of the top level before its sections."""
    for key, value in sorted(values.items(), key=lambda item: isinstance(item[1], dict)):
        dotted = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict) and value:
            yield from _in_order(value, dotted)
        else:
            yield dotted, value


def _summary(prompts: list[Value]) -> str:
    chosen = PromptSet.model_validate({"prompts": prompts})
    train, held_out = chosen.train(), chosen.held_out()
    unsafe = sum(p.kind == "unsafe" for p in chosen.prompts)
    return (
        f"{len(prompts)} prompts: {len(train)} to train on, {len(held_out)} held out;"
        f" {len(prompts) - unsafe} harmless, {unsafe} unsafe"
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        items = ", ".join(_shown(item) for item in value)
        if len(items) + 2 <= _WIDTH:
            return f"[{items}]"
        return f"{len(value)} entries"
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, str):
        return _cut(value) if value.strip() else '""'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _WIDTH else f"{words[: _WIDTH - 1]}…"
