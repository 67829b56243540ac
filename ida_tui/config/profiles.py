"""Lookup and loading of profiles, with `extends` resolved.

A profile is a YAML mapping of one kind (models, experiments, judges, rubrics, prompts). A profile can
extend another profile of its kind with `extends: NAME`: mappings are merged recursively, all other
values are replaced.

A name that ends in .yaml is a path. Any other name is searched first in the user's folder
(`user_root`), then among the shipped profiles (`shipped_root`). All errors in a file raise a
`UsageError` with file and line.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import platformdirs

from ida_tui.errors import UsageError
from ida_tui.util.paths import display_path, expand_home, is_file
from ida_tui.util.text import quoted

if TYPE_CHECKING:
    # The app lists the names of the profiles in its first paint; the YAML library takes longer to import.
    from ida_tui.config.yaml_tree import Node, Origin

ProfileKind = Literal["models", "experiments", "judges", "rubrics", "prompts"]
PROFILE_KINDS: tuple[ProfileKind, ...] = get_args(ProfileKind)
SECTIONS: Mapping[str, ProfileKind] = {
    "model": "models",
    "judge": "judges",
    "rubric": "rubrics",
    "prompts": "prompts",
}
"""Sections of an experiment that can be given as a profile name, with the kind of that profile."""

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def user_root() -> Path:
    """The folder of the user's profiles; `IDA_TUI_PROFILES` overrides it."""
    override = os.environ.get("IDA_TUI_PROFILES")
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_config_dir("ida-tui")) / "profiles"


def shipped_root() -> Path:
    """The folder of the shipped profiles: inside the package, or next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "shipped_profiles"
    return packaged if packaged.is_dir() else package.parent / "profiles"


def list_profiles(kind: ProfileKind) -> dict[str, Path]:
    """The profiles of a kind, name → file, sorted by name; a user's profile overrides a shipped one."""
    files_by_name: dict[str, Path] = {}
    for root in (shipped_root(), user_root()):
        try:
            files = sorted((root / kind).glob("*.yaml"))
        except OSError:
            continue
        files_by_name.update(
            (file.stem, file) for file in files if _NAME_PATTERN.fullmatch(file.stem)
        )
    return dict(sorted(files_by_name.items()))


def find_profile(kind: ProfileKind, name: str, origin: Origin | None = None, key: str = "") -> Path:
    """The file of a profile.

    Args:
        kind: the kind of the profile.
        name: a profile's name, or a path ending in .yaml. A relative path is resolved against the
            folder of the file that contains it, then against the working directory.
        origin: the origin of the name; None is the command line.
        key: the dotted key that holds the name, for the error message.

    Raises:
        UsageError: the profile does not exist; the hint suggests similar names.
    """
    from ida_tui.config.yaml_tree import COMMAND_LINE_ORIGIN

    origin = origin or COMMAND_LINE_ORIGIN
    for candidate in _candidate_files(kind, name, origin):
        if is_file(candidate) and not _is_same_file(candidate, origin.file):
            return candidate
    where = f"{origin}: {key}" if key else ""
    if _is_path(name):
        raise UsageError(
            f"the file {quoted(name)} does not exist",
            "check the path; a relative path starts at the file that contains it, or the working directory",
            where=where,
        )
    singular = kind.removesuffix("s")
    known = list(list_profiles(kind))
    raise UsageError(
        f"there is no {singular} profile named {quoted(name)}",
        f"{suggest_names(name, known)}\nlist all of these profiles with: ida-tui --list {kind}",
        where=where,
    )


def suggest_names(name: str, known_names: Iterable[str]) -> str:
    """A hint for a mistyped name: up to three similar names, otherwise the first known names."""
    known_names = list(known_names)
    close = difflib.get_close_matches(name.lower(), known_names, n=3, cutoff=0.5)
    close += [
        candidate
        for candidate in known_names
        if candidate.startswith(name) and candidate not in close and name
    ]
    if close:
        return f"did you mean {' or '.join(close[:3])}?"
    return f"known names: {', '.join(known_names[:8])}{', …' if len(known_names) > 8 else ''}"


def _candidate_files(kind: ProfileKind, name: str, origin: Origin) -> Iterator[Path]:
    if _is_path(name):
        path = expand_home(name)
        if origin.file is not None:
            yield origin.file.parent / path
        yield Path.cwd() / path
    elif _NAME_PATTERN.fullmatch(name) and len(name) < 200:
        yield user_root() / kind / f"{name}.yaml"
        yield shipped_root() / kind / f"{name}.yaml"


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _is_same_file(a: Path, b: Path | None) -> bool:
    return b is not None and a.resolve() == b.resolve()


def load_profile(kind: ProfileKind, name: str, origin: Origin | None = None, key: str = "") -> Node:
    """A profile merged with the profiles it extends; `name` defaults to the file name.

    A description is not inherited. A user's profile can extend the shipped profile of the same name.

    Raises:
        UsageError: the name is unknown, a file cannot be read or is not valid YAML, or profiles extend
            each other in a cycle.
    """
    from ida_tui.config.yaml_tree import COMMAND_LINE_ORIGIN, Node, Origin, read_yaml

    origin = origin or COMMAND_LINE_ORIGIN
    chain: list[Node] = []
    seen: list[Path] = []
    while True:
        path = find_profile(kind, name, origin, key)
        if any(_is_same_file(path, other) for other in seen):
            cycle = " → ".join(display_path(p) for p in [*seen, path])
            raise UsageError(
                "profiles extend each other in a cycle",
                f"remove one of these extends: {cycle}",
                where=f"{origin}: extends",
            )
        seen.append(path)
        node = read_yaml(path)
        assert isinstance(node.value, dict)
        entries = {"name": Node(path.stem, Origin(path)), **node.value}
        parent = entries.pop("extends", None)
        if chain:
            entries.pop("description", None)
        chain.append(Node(entries, node.origin))
        if parent is None or parent.value is None:
            break
        if not isinstance(parent.value, str):
            raise UsageError(
                "extends must be the name of one profile",
                "write extends: NAME",
                where=f"{parent.origin}: extends",
            )
        name, origin, key = parent.value, parent.origin, "extends"
    merged = chain.pop()
    while chain:
        merged = extend(kind, merged, chain.pop())
    return load_panel(merged) if kind == "judges" else merged


def extend(kind: ProfileKind, base: Node, top: Node) -> Node:
    """A profile overridden by `top`.

    A judge with another model or server has no price and no date of the old one. A free one stays free with
    another model on the same server.
    """
    from ida_tui.config.yaml_tree import Node, merge, to_plain

    old, new = to_plain(base), to_plain(top)
    if kind == "judges" and isinstance(old, dict) and isinstance(new, dict):
        changed = {key for key in ("model", "base_url") if key in new and new[key] != old.get(key)}
        price = old.get("price")
        is_free = isinstance(price, dict) and not any(price.values())
        stale = {"shutdown_date", *(() if is_free and changed == {"model"} else ("price",))}
        if changed and isinstance(base.value, dict):
            kept = {key: child for key, child in base.value.items() if key not in stale}
            base = Node(kept, base.origin)
    return merge(base, top, SECTIONS)


def load_panel(judge: Node, key: str = "panel") -> Node:
    """A judge profile whose panel lists profiles as values, not as names.

    Args:
        judge: the judge profile.
        key: the dotted key of its panel, for error messages.

    Raises:
        UsageError: a profile of the panel cannot be read, or is a panel itself.
    """
    from ida_tui.config.yaml_tree import Node

    panel = judge.value.get("panel") if isinstance(judge.value, dict) else None
    if panel is None or not isinstance(panel.value, list) or not panel.value:
        return judge
    assert isinstance(judge.value, dict)
    members = []
    for number, member in enumerate(panel.value):
        place = f"{key}.{number}"
        values = dict(member.value) if isinstance(member.value, dict) else {}
        name = values.pop("extends", None) if isinstance(member.value, dict) else member
        if name is not None and isinstance(name.value, str):
            _refuse_nested_panel(name, place)
            base = load_profile("judges", name.value, name.origin, place)
            member = extend("judges", base, Node(values, member.origin)) if values else base
        members.append(member)
    entries = {"kind": Node("panel", panel.origin), **judge.value}
    return Node({**entries, "panel": Node(members, panel.origin)}, judge.origin)


def _refuse_nested_panel(name: Node, place: str) -> None:
    """Raise if a profile in a panel, or one that it extends, is a panel itself."""
    from ida_tui.config.yaml_tree import read_yaml

    path = find_profile("judges", str(name.value), name.origin, place)
    seen: list[Path] = []
    while not any(_is_same_file(path, other) for other in seen):
        seen.append(path)
        node = read_yaml(path)
        assert isinstance(node.value, dict)
        if "panel" in node.value:
            raise UsageError(
                f"the panel contains {quoted(name.value)}, which is a panel itself",
                "list the judges of that panel instead",
                where=f"{name.origin}: {place}",
            )
        parent = node.value.get("extends")
        if parent is None or not isinstance(parent.value, str):
            return
        path = find_profile("judges", parent.value, parent.origin, "extends")
