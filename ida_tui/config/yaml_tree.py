"""Safe YAML as a tree in which every value knows its line: read, merged and written.

`read` and `parse` return `Node`s, each with the `Origin` it was written at; `plain` and `origins`
take them apart again, and `dump` writes a plain tree. Only plain types are read, within bounds.
Everything wrong with a text or a file is a `UsageError` with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from ida_tui.errors import UsageError
from ida_tui.util.paths import shown_path
from ida_tui.util.text import quoted, safe

Scalar: TypeAlias = "bool | int | float | str | None"
Value: TypeAlias = "Scalar | list[Value] | dict[str, Value]"

MAX_BYTES = 4_000_000
MAX_NODES = 60_000
"""Values in one file once its aliases are written out: a bound on alias bombs."""
MAX_WRITTEN = 30_000
"""Keys and values that one file may have: a bound on the seconds that reading it takes."""
MAX_DEPTH = 40


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


def merge(base: Node, top: Node, sections: Collection[str]) -> Node:
    """`top` laid over `base`: mappings merge deeply, anything else replaces.

    Args:
        base: the tree below.
        top: the tree that wins.
        sections: keys whose value may be a bare name. A mapping over a bare name there extends that
            name, and a mapping that itself says ``extends`` starts afresh from what it names.
    """
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        below = merged.get(key)
        section = child.value if key in sections and isinstance(child.value, dict) else None
        if below is None or (section is not None and "extends" in section):
            merged[key] = child
        elif section is not None and isinstance(below.value, str):
            merged[key] = Node({"extends": below, **section}, child.origin)
        else:
            merged[key] = merge(below, child, sections)
    return Node(merged, top.origin)


# --- reading and writing ------------------------------------------------------------------------


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
        if isinstance(node, yaml.ScalarNode):
            _refuse_half_characters(node, origin)
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
            f"the YAML tag {safe(node.tag.replace('tag:yaml.org,2002:', '!!'))} is not allowed",
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
            _refuse_half_characters(key, at)
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


def _refuse_half_characters(node: yaml.ScalarNode, origin: Origin) -> None:
    if re.search("[\ud800-\udfff]", node.value):
        raise UsageError(
            f"{quoted(node.value)} holds half a character",
            "write the character itself, not one of the two halves of its \\u escape",
            where=str(origin),
        )


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
    """Gives up while it reads, not after: a text can take minutes to compose."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - typed so by yaml itself
    _depth = 0
    _composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._composed += 1
        self._depth += 1
        if self._composed > MAX_WRITTEN or self._depth > 2 * MAX_DEPTH:
            raise yaml.YAMLError("it is nested too deep, or holds too many values")
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


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
