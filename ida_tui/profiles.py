"""Profiles: find them by name, read them as safe YAML, and merge them; every value knows its line.

A profile is one YAML mapping of one kind (models, experiments, judges, rubrics, prompts). `load`
returns it as a tree of `Node`s, each with the `Origin` it was written at. A profile may start from
another of its kind with ``extends: NAME``: mappings are merged deeply, everything else is replaced.

A name is looked up in this order: a path ending in .yaml; the user's own folder (`user_root`); the
profiles that ship (`shipped_root`). Everything wrong with a file is a `UsageError` with its place.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import platformdirs
import yaml

from ida_tui.errors import UsageError

Kind = Literal["models", "experiments", "judges", "rubrics", "prompts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SECTIONS: Mapping[str, Kind] = {
    "model": "models",
    "judge": "judges",
    "rubric": "rubrics",
    "prompts": "prompts",
}
"""The sections of an experiment that may name a profile, and the kind each one names."""

Scalar: TypeAlias = "bool | int | float | str | None"
Value: TypeAlias = "Scalar | list[Value] | dict[str, Value]"

MAX_BYTES = 4_000_000
MAX_NODES = 200_000
"""Values in one file once its aliases are written out: a bound on alias bombs."""
MAX_DEPTH = 40
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a line of a file, the command line, or nowhere (a default)."""

    file: Path | None = None
    line: int | None = None
    """Counted from 1; None where a file gives the value without a line, such as its own name."""
    label: str = "default"
    """What is printed where there is no file."""

    def __str__(self) -> str:
        if self.file is None:
            return self.label
        return shown_path(self.file) + ("" if self.line is None else f":{self.line}")


DEFAULT = Origin()
COMMAND_LINE = Origin(label="command line")


@dataclass(frozen=True)
class Node:
    """A value and its origin; the items of a list and the values of a mapping are nodes too."""

    value: Scalar | list[Node] | dict[str, Node]
    origin: Origin


def shown_path(path: Path) -> str:
    """A path as printed: relative to the working directory where that is shorter."""
    try:
        relative = os.path.relpath(path)
    except (ValueError, OSError):
        return str(path)
    return relative if len(relative) < len(str(path)) else str(path)


def quoted(value: object) -> str:
    """A value as an error shows it: short, on one line, text in quotes, printable anywhere."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()[:60]
    short = value if len(value) <= 60 else f"{value[:59]}…"
    return json.dumps(short.encode("utf-8", "replace").decode(), ensure_ascii=False)


def without_login(address: str) -> str:
    """A web address as printed: a user name or password in it is left out."""
    return re.sub(r"//[^/?#]*@", "//", address)


def plain(node: Node) -> Value:
    """The tree without its origins."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def origins(node: Node, prefix: str = "") -> Iterator[tuple[str, Origin]]:
    """Dotted key and origin of every node below this one, sections and list items included."""
    children: Iterable[tuple[object, Node]] = ()
    if isinstance(node.value, dict):
        children = node.value.items()
    elif isinstance(node.value, list):
        children = enumerate(node.value)
    for key, child in children:
        dotted = f"{prefix}.{key}" if prefix else str(key)
        yield dotted, child.origin
        yield from origins(child, dotted)


def merge(base: Node, top: Node) -> Node:
    """`top` laid over `base`: mappings merge deeply, anything else replaces.

    A mapping over a bare name in one of an experiment's sections extends that name, and a mapping
    that itself says ``extends`` starts afresh from the profile it names.
    """
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        below = merged.get(key)
        section = child.value if key in SECTIONS and isinstance(child.value, dict) else None
        if below is None or (section is not None and "extends" in section):
            merged[key] = child
        elif section is not None and isinstance(below.value, str):
            merged[key] = Node({"extends": below, **section}, child.origin)
        else:
            merged[key] = merge(below, child)
    return Node(merged, top.origin)


# --- where profiles are -------------------------------------------------------------------------


def user_root() -> Path:
    """The folder of the user's own profiles; ``IDA_TUI_PROFILES`` names another."""
    override = os.environ.get("IDA_TUI_PROFILES")
    if override:
        return Path(override).expanduser()
    return Path(platformdirs.user_config_dir("ida-tui")) / "profiles"


def shipped_root() -> Path:
    """The folder of the profiles that ship: inside the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
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


def expanded(path: str) -> Path:
    """A path with ~ written out, where ~ can be."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_file(path: Path) -> bool:
    """Whether this is a file; a path that cannot be looked at is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether this is a folder; a path that cannot be looked at is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _same(a: Path, b: Path | None) -> bool:
    return b is not None and a.resolve() == b.resolve()


# --- reading ------------------------------------------------------------------------------------


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
        merged = merge(merged, chain.pop())
    return merged


def read(path: Path) -> Node:
    """One file as a mapping node, without what it extends.

    Raises:
        UsageError: the file cannot be read, is not UTF-8 or not YAML, has a duplicate key, or is
            not a mapping.
    """
    try:
        status = path.stat()
        if status.st_size > MAX_BYTES:
            raise UsageError(
                f"the file is larger than {MAX_BYTES // 1_000_000} MB",
                "a profile is a short YAML file; check the path",
                where=shown_path(path),
            )
        return _read(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UsageError(
            f"the file cannot be read: {error.strerror or error}",
            "check that it exists and that you may read it",
            where=shown_path(path),
        ) from error


@lru_cache(maxsize=128)
def _read(path: Path, _mtime: int, _size: int) -> Node:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the file is not UTF-8 text (byte {error.start})",
            "save it as UTF-8",
            where=shown_path(path),
        ) from error
    node = parse(text, Origin(path, 1))
    if node.value is None:
        node = Node({}, node.origin)
    if not isinstance(node.value, dict):
        raise UsageError(
            "a profile is a mapping of keys to values",
            "start it with lines such as  description: what it is for",
            where=str(node.origin),
        )
    return node


def parse(text: str, origin: Origin) -> Node:
    """YAML text as a node. Lines are counted where `origin` names a file.

    Raises:
        UsageError: the text is not one plain YAML document.
    """
    try:
        top = _Loader(text).get_single_node()
        return Node(None, origin) if top is None else _Reader(origin).read(top, origin)
    except yaml.MarkedYAMLError as error:
        # An open bracket or quote is mended where it opens, not where the reader gave up.
        opened = any(word in (error.context or "") for word in ("flow", "quoted"))
        mark = error.problem_mark or error.context_mark
        if opened and error.context_mark is not None:
            mark = error.context_mark
        place = Origin(origin.file, mark.line + 1) if mark and origin.file else origin
        what = (error.problem or error.context or "it cannot be parsed").replace("\n", " ")
        raise UsageError(
            f"this is not valid YAML: {what}",
            "close the bracket or quote that opens here"
            if opened
            else "check indentation, colons and quotes; text with special characters needs quotes",
            where=str(place),
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        deep = isinstance(error, RecursionError)
        what = "it is nested too deep" if deep else (str(error) or "unreadable").splitlines()[0]
        raise UsageError(
            f"this is not valid YAML: {what}",
            "remove characters that do not belong in text, and write it with less nesting",
            where=str(origin),
        ) from error


def dump(value: Value) -> str:
    """A plain tree as YAML that `parse` reads back to the same tree."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, indent=2
    )


class _Reader:
    """Turns composed YAML into nodes, within bounds; only plain types and no duplicate keys."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.count = 0

    def read(self, node: yaml.Node, origin: Origin, depth: int = 0) -> Node:
        self.count += 1
        if self.count > MAX_NODES or depth > MAX_DEPTH:
            raise UsageError(
                "the file is nested too deep, or its aliases unfold to too much",
                "write it out with fewer aliases and levels",
                where=str(origin),
            )
        if isinstance(node, yaml.MappingNode) and node.tag == _tag("map"):
            return Node(self._mapping(node, depth), origin)
        if isinstance(node, yaml.SequenceNode) and node.tag == _tag("seq"):
            return Node([self.read(n, self._at(n), depth + 1) for n in node.value], origin)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                return Node(_SCALARS[node.tag](node.value), origin)
            except (ValueError, KeyError) as error:
                raise UsageError(
                    f"{quoted(node.value)} cannot be read as a value",
                    "put text in quotes; numbers look like 3, 0.5 or 1e-5",
                    where=str(origin),
                ) from error
        raise UsageError(
            f"the YAML tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed",
            "use plain text, numbers, true, false, null, lists and mappings",
            where=str(origin),
        )

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        shared: dict[str, Node] = {}
        for key, value in node.value:
            at = self._at(key)
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError("a key must be plain text", "write key: value", where=str(at))
            child = self.read(value, at, depth + 1)
            if key.tag == _tag("merge"):
                for part in child.value if isinstance(child.value, list) else [child]:
                    if not isinstance(part.value, dict):
                        raise UsageError("<< takes a mapping", "write <<: *NAME", where=str(at))
                    shared = {**part.value, **shared}
            elif key.value in own:
                raise UsageError(
                    f"the key {quoted(key.value)} is written twice",
                    f"keep one of them; the first is at {own[key.value].origin}",
                    where=str(at),
                )
            else:
                own[key.value] = child
        return {**shared, **own}

    def _at(self, node: yaml.Node) -> Origin:
        if self.origin.file is None:
            return self.origin
        return Origin(self.origin.file, node.start_mark.line + 1)


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


_BOOLS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SCALARS: Mapping[str, Callable[[str], Scalar]] = {
    _tag("str"): str,
    _tag("null"): lambda text: None,
    _tag("bool"): lambda text: _BOOLS[text.lower()],
    _tag("int"): lambda text: int(text.replace("_", ""), 0),
    _tag("float"): lambda text: float(re.sub(r"\.(?=inf|nan)|_", "", text.lower())),
}
# The scalars of YAML 1.1 with its traps left out: 1e-5 is a number, a date and 12:30 are text.
_RESOLVERS = (
    ("bool", r"(?i:true|yes|on|false|no|off)", "tTyYoOfFnN"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - typed so by yaml itself


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - typed so by yaml itself

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    if re.search("[\r\x85\u2028\u2029]", text):
        # These too are line breaks to YAML, and only escapes keep them as they are.
        style = '"'
    return dumper.represent_scalar(_tag("str"), text, style=style)


_Dumper.add_representer(str, _represent_text)
for _name, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag(_name), re.compile(f"(?:{_pattern})$"), list(_first))
