"""Profiles: found by name and loaded, with all that they extend merged in.

A profile is one YAML mapping of one kind (models, experiments, judges, rubrics, prompts). A profile
may start from another of its kind with ``extends: NAME``: mappings are merged deeply, everything
else is replaced.

A name is looked up in this order: a path ending in .yaml; the user's own folder (`user_root`); the
profiles that ship (`shipped_root`). Everything wrong with a file is a `UsageError` with its place.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

import platformdirs

from ida_tui.config.yaml_tree import COMMAND_LINE, Node, Origin, merge, read
from ida_tui.errors import UsageError
from ida_tui.util.paths import expanded, is_file, shown_path
from ida_tui.util.text import quoted

Kind = Literal["models", "experiments", "judges", "rubrics", "prompts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SECTIONS: Mapping[str, Kind] = {
    "model": "models",
    "judge": "judges",
    "rubric": "rubrics",
    "prompts": "prompts",
}
"""The sections of an experiment that may name a profile, and the kind each one names."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def user_root() -> Path:
    """The folder of the user's own profiles; ``IDA_TUI_PROFILES`` names another."""
    override = os.environ.get("IDA_TUI_PROFILES")
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_config_dir("ida-tui")) / "profiles"


def shipped_root() -> Path:
    """The folder of the profiles that ship: inside the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "shipped_profiles"
    return packaged if packaged.is_dir() else package.parent / "profiles"


def names(kind: Kind) -> dict[str, Path]:
    """Every profile of a kind, sorted by name; the user's own hides a shipped one."""
    found: dict[str, Path] = {}
    for root in (shipped_root(), user_root()):
        try:
            files = sorted((root / kind).glob("*.yaml"))
        except OSError:
            continue
        found.update((file.stem, file) for file in files if _NAME.fullmatch(file.stem))
    return dict(sorted(found.items()))


def find(kind: Kind, name: str, named_at: Origin = COMMAND_LINE, key: str = "") -> Path:
    """The file of a profile.

    Args:
        kind: one of `KINDS`.
        name: a profile's name, or a path ending in .yaml. A path is taken from the folder of the
            file that names it, then from the working directory.
        named_at: where the name was written.
        key: the dotted key that was given the name, for the error.

    Raises:
        UsageError: there is no such profile; the fix gives the nearest names.
    """
    for candidate in _candidates(kind, name, named_at):
        if is_file(candidate) and not _same(candidate, named_at.file):
            return candidate
    where = f"{named_at}: {key}" if key else ""
    if _is_path(name):
        raise UsageError(
            f"there is no file {quoted(name)}",
            "check the path; it is taken from the working directory or from the file that names it",
            where=where,
        )
    singular = kind.removesuffix("s")
    known = list(names(kind))
    raise UsageError(
        f"there is no {singular} profile named {quoted(name)}",
        f"{near(name, known)}\nida-tui --list {kind} shows them all",
        where=where,
    )


def near(name: str, known: Iterable[str]) -> str:
    """A fix for a mistyped name: the nearest known ones, or all of them where there are few."""
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    close += [k for k in known if k.startswith(name) and k not in close and name]
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"known names: {', '.join(known[:8])}{', …' if len(known) > 8 else ''}"


def _candidates(kind: Kind, name: str, named_at: Origin) -> Iterator[Path]:
    if _is_path(name):
        path = expanded(name)
        if named_at.file is not None:
            yield named_at.file.parent / path
        yield Path.cwd() / path
    elif _NAME.fullmatch(name) and len(name) < 200:
        yield user_root() / kind / f"{name}.yaml"
        yield shipped_root() / kind / f"{name}.yaml"


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _same(a: Path, b: Path | None) -> bool:
    return b is not None and a.resolve() == b.resolve()


def load(kind: Kind, name: str, named_at: Origin = COMMAND_LINE, key: str = "") -> Node:
    """A profile with all that it extends merged in; without a `name` it gets its file's.

    A user's profile may extend the shipped one of its own name.

    Raises:
        UsageError: unknown name, unreadable file, wrong YAML, or profiles that extend in a circle.
    """
    chain: list[Node] = []
    seen: list[Path] = []
    while True:
        path = find(kind, name, named_at, key)
        if any(_same(path, other) for other in seen):
            circle = " → ".join(shown_path(p) for p in [*seen, path])
            raise UsageError(
                "profiles extend each other in a circle",
                f"remove one extends: {circle}",
                where=f"{named_at}: extends",
            )
        seen.append(path)
        node = read(path)
        assert isinstance(node.value, dict)
        entries = {"name": Node(path.stem, Origin(path)), **node.value}
        parent = entries.pop("extends", None)
        chain.append(Node(entries, node.origin))
        if parent is None or parent.value is None:
            break
        if not isinstance(parent.value, str):
            raise UsageError(
                "extends takes the name of one profile",
                "write extends: NAME",
                where=f"{parent.origin}: extends",
            )
        name, named_at, key = parent.value, parent.origin, "extends"
    merged = chain.pop()
    while chain:
        merged = merge(merged, chain.pop(), SECTIONS)
    return merged
