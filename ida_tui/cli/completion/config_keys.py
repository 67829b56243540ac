"""The keys of a profile as `ida_tui/config/schema.py` spells them, without importing it.

pydantic takes longer to load than a person waits for a completion, so the file is read as text;
`tests/cli/test_completion.py` compares what is found here with the real thing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CONFIG = Path(__file__).resolve().parents[2] / "config" / "schema.py"
ROOT = "Config"


@dataclass(frozen=True, slots=True)
class Key:
    """One field."""

    name: str
    about: str
    """Its docstring's first line."""
    values: tuple[str, ...]
    """What it can be, where that is a list of words."""
    section: str
    """The class of its own keys; empty for a plain value."""


@cache
def sections() -> Mapping[str, tuple[Key, ...]]:
    """Every class of the file with its fields, in order."""
    body = ast.parse(CONFIG.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    names = {node.name for node in classes}
    aliases = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {node.name: tuple(_keys(node, names, aliases)) for node in classes}


def below(path: list[str]) -> tuple[Key, ...]:
    """The keys of a section by its dotted path, such as ``["judge", "price"]``; none where it has none."""
    found = sections()[ROOT]
    for part in path:
        section = next((key.section for key in found if key.name == part), "")
        found = sections().get(section, ())
    return found


def _keys(node: ast.ClassDef, classes: set[str], aliases: Mapping[str, ast.expr]) -> Iterator[Key]:
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        said = after.value if isinstance(after, ast.Expr) else None
        text = said.value if isinstance(said, ast.Constant) else ""
        about = str(text).partition("\n")[0]
        kinds = {part.id for part in ast.walk(field.annotation) if isinstance(part, ast.Name)}
        plain = isinstance(field.annotation, ast.Name | ast.BinOp)
        section = next(iter(sorted(kinds & classes)), "") if plain else ""
        values = tuple(dict.fromkeys(_values(field.annotation, aliases)))
        yield Key(field.target.id, about, values, section)


def _values(node: ast.AST, aliases: Mapping[str, ast.expr]) -> Iterator[str]:
    match node:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            yield from (str(item.value) for item in items if isinstance(item, ast.Constant))
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *_])):
            yield from _values(inner, aliases)
        case ast.BinOp(left=left, right=right):
            yield from _values(left, aliases)
            yield from _values(right, aliases)
        case ast.Name(id="bool"):
            yield from ("true", "false")
        case ast.Constant(value=None):
            yield "null"
        case ast.Name(id=name) if name in aliases:
            yield from _values(aliases[name], aliases)
