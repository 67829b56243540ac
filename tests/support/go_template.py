"""An interpreter of the part of Go's text/template that Modelfiles use, filled as Ollama fills it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

TAG = re.compile(
    r"\{\{(?P<left>- )?\s*(?P<body>(?:\"(?:[^\"\\]|\\.)*\"|[^\"])*?)\s*(?P<right> -)?\}\}"
)
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+')

FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "eq": lambda a, b: a == b,
    "not": lambda a: not a,
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "len": len,
    "slice": lambda values, start: values[start:],
}


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt that Ollama makes of these messages.

    Raises:
        ValueError: the template uses something that is not known here.
    """
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    fields = [{"Role": message["role"], "Content": message["content"]} for message in messages]
    root = {"System": system, "Messages": fields}
    nodes, rest = _parse(_tokens(template))
    if rest:
        raise ValueError(f"{rest[0]} has no beginning")
    return "".join(_run(nodes, root, {"$": root}))


def _tokens(template: str) -> list[tuple[str, str]]:
    """Texts and actions in order, as ("text", …) and ("action", …), with white space trimmed."""
    tokens, position, trim = [], 0, False
    for match in TAG.finditer(template):
        text = template[position : match.start()]
        text = text.lstrip() if trim else text
        tokens += [("text", text.rstrip() if match["left"] else text), ("action", match["body"])]
        position, trim = match.end(), bool(match["right"])
    tail = template[position:]
    return [*tokens, ("text", tail.lstrip() if trim else tail)]


def _parse(tokens: list[tuple[str, str]]) -> tuple[list[Any], list[tuple[str, str]]]:
    """Nodes up to an `else` or `end` without a beginning here, and the tokens from there on."""
    nodes: list[Any] = []
    while tokens:
        (kind, body), tokens = tokens[0], tokens[1:]
        word = body.split(maxsplit=1)[0] if kind == "action" else ""
        if word in ("else", "end"):
            return nodes, [(kind, body), *tokens]
        if word in ("if", "range"):
            inner, tokens = _parse(tokens)
            other: list[Any] = []
            if tokens[0][1].startswith("else if"):
                other, tokens = _parse(
                    [("action", tokens[0][1].removeprefix("else ")), *tokens[1:]]
                )
            elif tokens[0][1] == "else":
                other, tokens = _parse(tokens[1:])
                tokens = tokens[1:]
            else:
                tokens = tokens[1:]
            nodes.append((word, body.removeprefix(word).strip(), inner, other))
        else:
            nodes.append((kind, body))
    return nodes, tokens


def _run(nodes: Sequence[Any], dot: Any, variables: dict[str, Any]) -> list[str]:
    out: list[str] = []
    for kind, body, *branches in nodes:
        if kind == "text":
            out.append(body)
        elif kind == "if":
            out += _run(branches[not _value(body, dot, variables)], dot, variables)
        elif kind == "range":
            names, _, expression = body.partition(":=")
            index, element = (name.strip() for name in names.split(","))
            for number, item in enumerate(_value(expression, dot, variables)):
                out += _run(branches[0], item, variables | {index: number, element: item})
        elif ":=" in body:
            name, _, expression = body.partition(":=")
            variables = variables | {name.strip(): _value(expression, dot, variables)}
        else:
            out.append(str(_value(body, dot, variables)))
    return out


def _value(expression: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    value, rest = _call(WORD.findall(expression), dot, variables)
    if rest:
        raise ValueError(f"cannot read {expression}")
    return value


def _call(words: list[str], dot: Any, variables: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """A value, or a function with its arguments, up to a closing parenthesis."""
    values: list[Any] = []
    while words and words[0] != ")":
        word, words = words[0], words[1:]
        if word == "(":
            value, words = _call(words, dot, variables)
            words = words[1:]
        else:
            value = _operand(word, dot, variables)
        values.append(value)
    first, *arguments = values
    return (first(*arguments) if callable(first) else first), words


def _operand(word: str, dot: Any, variables: Mapping[str, Any]) -> Any:
    if word.startswith('"'):
        return json.loads(word)
    if word in FUNCTIONS:
        return FUNCTIONS[word]
    if word.isdigit():
        return int(word)
    name, *fields = word.split(".")
    value = variables[name] if name else dot
    for field in fields:
        value = value[field]
    return value
