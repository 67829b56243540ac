"""Safe YAML reader and writer that records the file and line of every value.

Reading a file or a text gives a tree of `Node`s, each with its `Origin`. A tree converts to plain values
and to origins by dotted key, and plain values convert to YAML text. Only plain types are accepted, and
size, depth and number of values are limited. All errors raise a `UsageError` with file and line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from ida_tui.errors import UsageError
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import read_bytes
from ida_tui.util.text import quoted, short_key

Scalar: TypeAlias = "bool | int | float | str | None"
Value: TypeAlias = "Scalar | list[Value] | dict[str, Value]"

MAX_BYTES = 4_000_000
MAX_EXPANDED_NODES = 60_000
"""Maximum values in one file after alias expansion; protects against alias bombs."""
MAX_PARSED_NODES = 30_000
"""Maximum keys and values in one file before alias expansion; limits the parsing time."""
MAX_DEPTH = 40


@dataclass(frozen=True)
class Origin:
    """The source of a value: a line of a file, the command line, or a default."""

    file: Path | None = None
    line: int | None = None
    """1-based line number; None if the value is not on a line, such as the name of a file."""
    label: str = "default"
    """Text to print if there is no file."""

    def __str__(self) -> str:
        if self.file is None:
            return self.label
        return display_path(self.file) + ("" if self.line is None else f":{self.line}")


DEFAULT_ORIGIN = Origin()
COMMAND_LINE_ORIGIN = Origin(label="command line")


@dataclass(frozen=True)
class Node:
    """A value and its origin; list items and mapping values are nodes too."""

    value: Scalar | list[Node] | dict[str, Node]
    origin: Origin


def to_plain(node: Node) -> Value:
    """The tree as plain values, without origins."""
    if isinstance(node.value, dict):
        return {key: to_plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [to_plain(child) for child in node.value]
    return node.value


def iter_origins(node: Node, prefix: str = "") -> Iterator[tuple[str, Origin]]:
    """Dotted key and origin of every node below this one, including sections and list items."""
    children: Iterable[tuple[object, Node]] = ()
    if isinstance(node.value, dict):
        children = node.value.items()
    elif isinstance(node.value, list):
        children = enumerate(node.value)
    for key, child in children:
        dotted = f"{prefix}.{key}" if prefix else str(key)
        yield dotted, child.origin
        yield from iter_origins(child, dotted)


def iter_leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of every leaf; an empty list or mapping counts as a leaf."""
    children: list[tuple[object, object]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    if not children:
        yield prefix, value
    for key, child in children:
        yield from iter_leaves(child, f"{prefix}.{key}" if prefix else str(key))


def merge(base: Node, top: Node, section_keys: Collection[str]) -> Node:
    """`base` overridden by `top`: mappings are merged recursively, other values are replaced.

    Args:
        base: the tree with lower priority.
        top: the tree with higher priority.
        section_keys: keys whose value may be a profile name. There, a mapping on top of a name extends
            that profile, and a mapping with its own `extends` replaces the value in `base`.
    """
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = dict(base.value)
    for key, child in top.value.items():
        below = merged.get(key)
        section = child.value if key in section_keys and isinstance(child.value, dict) else None
        if below is None or (section is not None and "extends" in section):
            merged[key] = child
        elif section is not None and isinstance(below.value, str):
            merged[key] = Node({"extends": below, **section}, child.origin)
        else:
            merged[key] = merge(below, child, section_keys)
    return Node(merged, top.origin)


# --- reading and writing ------------------------------------------------------------------------


def read_yaml(path: Path) -> Node:
    """One file as a mapping node; `extends` is not resolved.

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
                where=display_path(path),
            )
        return _read_cached(path, status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UsageError(
            f"could not read the file: {error.strerror or error}",
            "check that it exists and that you have permission to read it",
            where=display_path(path),
        ) from error


@lru_cache(maxsize=128)
def _read_cached(path: Path, _mtime: int, _size: int) -> Node:
    try:
        text = read_bytes(Path(os.path.realpath(path)), MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the file is not UTF-8 text (byte {error.start})",
            "save it as UTF-8",
            where=display_path(path),
        ) from error
    node = parse_yaml(text, Origin(path, 1))
    if node.value is None:
        node = Node({}, node.origin)
    if not isinstance(node.value, dict):
        raise UsageError(
            "a profile must be a mapping of keys to values",
            "write it as key: value lines, such as  description: a short summary",
            where=str(node.origin),
        )
    return node


def parse_yaml(text: str, origin: Origin) -> Node:
    """YAML text as a node; line numbers are recorded if `origin` has a file.

    Raises:
        UsageError: the text is not a single plain YAML document.
    """
    try:
        top = _Loader(text).get_single_node()
        return Node(None, origin) if top is None else _NodeBuilder(origin).build(top, origin)
    except yaml.MarkedYAMLError as error:
        # Report an unclosed bracket or quote at its opening, not where parsing failed.
        opened = any(word in (error.context or "") for word in ("flow", "quoted"))
        mark = error.problem_mark or error.context_mark
        if opened and error.context_mark is not None:
            mark = error.context_mark
        position = Origin(origin.file, mark.line + 1) if mark and origin.file else origin
        problem = (error.problem or error.context or "it cannot be parsed").replace("\n", " ")
        raise UsageError(
            f"this is not valid YAML: {problem}",
            "close the bracket or quote that opens here"
            if opened
            else "check indentation, colons and quotes; text with special characters needs quotes",
            where=str(position),
        ) from error
    except TooManyValues:
        raise UsageError(
            f"the file has more than {MAX_PARSED_NODES:,} keys and values, the maximum of YAML",
            "write the prompts as JSON lines, which have no such maximum, and use prompts=FILE.jsonl:\n"
            '{"id": "a", "prompt": "How do I whisk an egg?"}',
            where=str(origin),
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        deep = isinstance(error, RecursionError)
        problem = "too deeply nested" if deep else (str(error) or "unreadable").splitlines()[0]
        raise UsageError(
            f"this is not valid YAML: {problem}",
            "remove control characters, or reduce the nesting",
            where=str(origin),
        ) from error


def dump_yaml(value: Value) -> str:
    """Plain values as YAML text that reads back unchanged."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, indent=2
    )


class _NodeBuilder:
    """Converter from composed YAML to nodes; rejects tags, duplicate keys and oversized trees."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.node_count = 0

    def build(self, node: yaml.Node, origin: Origin, depth: int = 0) -> Node:
        self.node_count += 1
        if self.node_count > MAX_EXPANDED_NODES or depth > MAX_DEPTH:
            raise UsageError(
                "the file is too deeply nested, or its aliases expand to too many values",
                "use fewer aliases and levels",
                where=str(origin),
            )
        if isinstance(node, yaml.MappingNode) and node.tag == _tag("map"):
            return Node(self._build_mapping(node, depth), origin)
        if isinstance(node, yaml.SequenceNode) and node.tag == _tag("seq"):
            return Node([self.build(n, self._origin_at(n), depth + 1) for n in node.value], origin)
        if isinstance(node, yaml.ScalarNode):
            _reject_surrogates(node, origin)
        if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
            try:
                return Node(_SCALARS[node.tag](node.value), origin)
            except (ValueError, KeyError) as error:
                raise UsageError(
                    f"{quoted(node.value)} is not a valid value",
                    "put text in quotes; write numbers as 3, 0.5 or 1e-5",
                    where=str(origin),
                ) from error
        raise UsageError(
            f"the YAML tag {short_key(node.tag.replace('tag:yaml.org,2002:', '!!'))} is not allowed",
            "use only plain text, numbers, true, false, null, lists and mappings",
            where=str(origin),
        )

    def _build_mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        own_entries: dict[str, Node] = {}
        inherited: dict[str, Node] = {}
        for key, value in node.value:
            origin = self._origin_at(key)
            if not isinstance(key, yaml.ScalarNode):
                raise UsageError("a key must be plain text", "write key: value", where=str(origin))
            _reject_surrogates(key, origin)
            child = self.build(value, origin, depth + 1)
            if key.tag == _tag("merge"):
                for source in child.value if isinstance(child.value, list) else [child]:
                    if not isinstance(source.value, dict):
                        raise UsageError("<< needs a mapping", "write <<: *NAME", where=str(origin))
                    inherited = {**source.value, **inherited}
            elif key.value in own_entries:
                raise UsageError(
                    f"duplicate key {quoted(key.value)}",
                    f"remove one of the two; the first is at {own_entries[key.value].origin}",
                    where=str(origin),
                )
            else:
                own_entries[key.value] = child
        return {**inherited, **own_entries}

    def _origin_at(self, node: yaml.Node) -> Origin:
        if self.origin.file is None:
            return self.origin
        return Origin(self.origin.file, node.start_mark.line + 1)


def _reject_surrogates(node: yaml.ScalarNode, origin: Origin) -> None:
    if re.search("[\ud800-\udfff]", node.value):
        raise UsageError(
            f"{quoted(node.value)} has a \\u escape that is only half of a surrogate pair",
            "type the character itself instead of the \\u escape",
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
# The scalars of YAML 1.1, except that 1e-5 is a number, and dates and 12:30 are text.
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


class TooManyValues(yaml.YAMLError):
    """A text has more than `MAX_PARSED_NODES` keys and values."""


class _Loader(yaml.SafeLoader):
    """YAML loader that checks the limits while parsing, because composing a large text can take minutes."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - typed so by yaml itself
    _depth = 0
    _composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._composed += 1
        self._depth += 1
        if self._composed > MAX_PARSED_NODES:
            raise TooManyValues
        if self._depth > 2 * MAX_DEPTH:
            raise yaml.YAMLError("too deeply nested")
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
        # YAML treats these as line breaks too; only escapes preserve them.
        style = '"'
    return dumper.represent_scalar(_tag("str"), text, style=style)


_Dumper.add_representer(str, _represent_text)
for _name, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag(_name), re.compile(f"(?:{_pattern})$"), list(_first))
