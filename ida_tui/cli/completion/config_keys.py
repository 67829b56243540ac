"""Config keys for shell completion, parsed from `ida_tui/config/schema.py` without importing it.

Importing pydantic would make completion slow, so the source file is parsed instead. A test
(`tests/cli/test_completion.py`) compares the result with the real config classes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CONFIG_SOURCE = Path(__file__).resolve().parents[2] / "config" / "schema.py"
ROOT_CLASS = "Config"


@dataclass(frozen=True, slots=True)
class ConfigKey:
    """A field of a config class."""

    name: str
    description: str
    """First line of the field's docstring."""
    values: tuple[str, ...]
    """Allowed values, if they can be listed."""
    section: str
    """Name of the class that holds its nested keys; empty for a plain value."""


@cache
def config_sections() -> Mapping[str, tuple[ConfigKey, ...]]:
    """Each config class name with its fields, in order."""
    body = ast.parse(CONFIG_SOURCE.read_text(encoding="utf-8")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    names = {node.name for node in classes}
    aliases = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {node.name: tuple(_class_keys(node, names, aliases)) for node in classes}


def keys_below(path: list[str]) -> tuple[ConfigKey, ...]:
    """The keys of a section such as `["judge", "price"]`; empty if it has none."""
    current_keys = config_sections()[ROOT_CLASS]
    for part in path:
        section = next((key.section for key in current_keys if key.name == part), "")
        current_keys = config_sections().get(section, ())
    return current_keys


def _class_keys(
    node: ast.ClassDef, classes: set[str], aliases: Mapping[str, ast.expr]
) -> Iterator[ConfigKey]:
    for field, next_node in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        docstring_node = next_node.value if isinstance(next_node, ast.Expr) else None
        text = docstring_node.value if isinstance(docstring_node, ast.Constant) else ""
        summary = str(text).partition("\n")[0]
        annotation_names = {
            part.id for part in ast.walk(field.annotation) if isinstance(part, ast.Name)
        }
        plain = isinstance(field.annotation, ast.Name | ast.BinOp)
        section = next(iter(sorted(annotation_names & classes)), "") if plain else ""
        values = tuple(dict.fromkeys(_allowed_values(field.annotation, aliases)))
        yield ConfigKey(field.target.id, summary, values, section)


def _allowed_values(node: ast.AST, aliases: Mapping[str, ast.expr]) -> Iterator[str]:
    match node:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            yield from (str(item.value) for item in items if isinstance(item, ast.Constant))
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *_])):
            yield from _allowed_values(inner, aliases)
        case ast.BinOp(left=left, right=right):
            yield from _allowed_values(left, aliases)
            yield from _allowed_values(right, aliases)
        case ast.Name(id="bool"):
            yield from ("true", "false")
        case ast.Constant(value=None):
            yield "null"
        case ast.Name(id=name) if name in aliases:
            yield from _allowed_values(aliases[name], aliases)
