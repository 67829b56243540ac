"""Hostile input, made from a seed: texts, numbers, trees, and mutations of what is well formed.

Everything takes a `random.Random` and is the same for the same seed.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

REPOSITORY = Path(__file__).parents[2]

TEXTS = (
    "", " ", "\0", "\x1b[2J\x1b[31m", "\x1b]0;title\x07", "\x1b]52;c;aGk=\x07", "\x1bP+q544e\x1b\\",
    "\x9b31m", "\x90q\x9c", "\u202egnp.exe", "\u2066x\u2069", "\u200b", "\ufeff", "\u2028x\u2029",
    "\ud800", "\udfffx", "\x7f\x08\x08\x08", "\r\nforged: line", "a\rb", "\t", "[red]", "[/]",
    "[@click=app.quit]x[/]", "[b", "\\[", "{x}", "%s%n", "../../etc/passwd", "/etc/passwd", "..", ".",
    "~", "~root/x", "a/../../b", "latest", "x" * 300, "é" * 2000, "🏳️‍🌈" * 50, "\U0010ffff", "nul\0nul",
    "quickstart", "mine", "mine.yaml", "../mine.yaml", "/dev/zero", "/dev/stdin", "file:///etc/passwd",
    "http://user:secret@host/v1", "http://[::1", "http://\x1b[31m", "true", "null", "NaN", "1e999",
    "0x" + "f" * 500, "12:30", "2026-13-45", "<<", "*a", "&a", "!!python/name:os.system", "- ", "? ", ": ",
    "<think>", "</think>", "```json", "align: 3", '{"align": 3}',
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, -0.0, 1, -1, 2, 3, 10, 10.000001, -0.0000001, 0.5, 5e-324, 1e308, -1e308, 1e16, 2**31, 2**32,
    2**53 + 1, 2**63, 2**64, -(2**63), 10**18, 10**30, 10**400, float("nan"), float("inf"),
    float("-inf"), 999_999_999_999,
)  # fmt: skip

BOMBS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
    ),
    "a: &a [*a, *a]\n",
    "a: &a {b: *a}\n",
    "a: &a {k: v}\n" + "".join(f"m{n}: &m{n} {{<<: [*a, *a]}}\n" for n in range(200)),
    "[" * 50_000,
    "{a: " * 3_000,
    "- " * 5_000 + "x",
    "".join(" " * n + f"k{n}:\n" for n in range(300)),
    "a: " + "x" * 1_000_000,
    "x" * 100_000 + ": 1\n",
    "extends: quickstart\n" + "y" * 200_000 + ": 1\n",
    "a: " + "9" * 5_000 + "\n",
    "a: 0x" + "f" * 10_000 + "\n",
    "a: !!python/object/apply:os.system ['true']\n",
    "a: !!binary AAAA\n",
    "!!set {a, b}\n",
    "a: !!timestamp 2026-01-01\n",
    "? [a, b]\n: c\n",
    "? {a: b}\n: c\n",
    "--- a\n--- b\n",
    "%YAML 9.9\n---\na: b\n",
    "%TAG ! x\n---\na: b\n",
    "a: |\n" + "  x\n" * 20_000,
    "a: >-\n" + "  " * 500 + "x\n",
    "a:\tb\n\tc: d\n",
    "\ufeffextends: quickstart\n",
    "a: '" + "''" * 50_000,
    "a: \"\\ud800\\x1b[31m\"\n",
    "- a\n" * 30_000,
    "".join(f"k{n}: {n}\n" for n in range(20_000)),
)  # fmt: skip


def text(chance: Random) -> str:
    """A text that nobody meant well."""
    kind = chance.random()
    if kind < 0.6:
        return chance.choice(TEXTS)
    if kind < 0.8:
        return "".join(chance.choice(TEXTS) for _ in range(chance.randint(1, 4)))
    if kind < 0.98:
        return "".join(chr(chance.choice((chance.randrange(32), chance.randrange(128, 160),
                       chance.randrange(0x110000)))) for _ in range(chance.randint(1, 30)))  # fmt: skip
    return chance.choice("x\x1b\n ") * chance.choice((1_000, 100_000))


def value(chance: Random, depth: int = 0) -> Any:
    """A value of any type."""
    kind = chance.random()
    if kind < 0.35 or depth > 4:
        return text(chance)
    if kind < 0.65:
        return chance.choice(NUMBERS)
    if kind < 0.8:
        return chance.choice((None, True, False, [], {}, ""))
    if kind < 0.81:
        deep: Any = text(chance)
        for _ in range(chance.choice((30, 45, 200))):
            deep = [deep] if chance.random() < 0.5 else {"a": deep}
        return deep
    if kind < 0.9:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 4))]
    return {text(chance): value(chance, depth + 1) for _ in range(chance.randint(0, 4))}


def mutated(data: bytes, chance: Random) -> bytes:
    """The data with a few bytes or lines changed."""
    for _ in range(chance.randint(1, 4)):
        if not data:
            return text(chance).encode("utf-8", "surrogatepass")
        at = chance.randrange(len(data))
        kind = chance.randrange(8)
        if kind == 0:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + chance.randint(1, 40) :]
        elif kind == 2:
            data = data[:at] + text(chance).encode("utf-8", "surrogatepass") + data[at:]
        elif kind == 3:
            data = data[:at]
        elif kind == 4:
            end = at + chance.randint(1, 60)
            data = data[:end] + data[at:end] * chance.randint(1, 3) + data[end:]
        elif kind == 5:
            number = str(chance.choice(NUMBERS)).encode()
            digits = [n for n in range(len(data)) if data[n : n + 1].isdigit()][:2000]
            if digits:
                at = chance.choice(digits)
                data = data[:at] + number + data[at + 1 :]
        elif kind == 6:
            lines = data.split(b"\n")
            chance.shuffle(lines) if chance.random() < 0.2 else lines.reverse()
            data = b"\n".join(lines)
        else:
            data = data.replace(b'"', chance.choice((b"", b"'", b'\\"')), chance.randint(1, 3))
    return data


def in_a_tree(tree: Any, chance: Random) -> Any:
    """A tree like this one, with one of its values, or a key, put in place of another."""
    if isinstance(tree, dict) and tree and chance.random() < 0.8:
        key = chance.choice(list(tree))
        if chance.random() < 0.1:
            return {(text(chance) if k == key else k): v for k, v in tree.items()}
        if chance.random() < 0.05:
            return {k: v for k, v in tree.items() if k != key}
        return {k: in_a_tree(v, chance) if k == key else v for k, v in tree.items()}
    if isinstance(tree, list) and tree and chance.random() < 0.7:
        at = chance.randrange(len(tree))
        return [in_a_tree(v, chance) if n == at else v for n, v in enumerate(tree)]
    return value(chance)


@cache
def profiles() -> tuple[tuple[str, bytes], ...]:
    """Kind and text of every profile that ships."""
    files = sorted((REPOSITORY / "profiles").glob("*/*.yaml"))
    return tuple((file.parent.name, file.read_bytes()) for file in files)


@cache
def events() -> tuple[bytes, ...]:
    """The lines of a real run; of the most frequent kinds, some."""
    seen: dict[str, int] = {}
    kept = []
    with gzip.open(REPOSITORY / "screenshots" / "quickstart.events.jsonl.gz") as file:
        for raw in file:
            name = json.loads(raw)["type"]
            seen[name] = seen.get(name, 0) + 1
            if seen[name] <= 40:
                kept.append(raw.rstrip(b"\n"))
    return tuple(kept)


@cache
def some_of_each() -> tuple[dict[str, Any], ...]:
    """Well-formed events of every type, as JSON objects, those that the real run has not included."""
    from ida_tui.events import codec
    from ida_tui.events import types as ev
    from tests.faults import sample_events

    found = [json.loads(raw) for raw in events()]
    made = [
        json.loads(codec.encode(ev.Record(n, ev.current_timestamp(), e)))
        for n, e in enumerate(sample_events.ALL)
    ]
    return (*found, *made * 10)


def event_line(chance: Random) -> bytes:
    """A line of an ``events.jsonl``, well formed or not."""
    kind = chance.random()
    if kind < 0.1:
        return chance.choice(events())
    if kind < 0.4:
        return mutated(chance.choice(events()), chance)
    body = dict(chance.choice(some_of_each()))
    fields = [name for name in body if name not in ("v", "seq", "time", "type")]
    for _ in range(chance.randint(1, 3)):
        head = chance.random() < 0.1 or not fields
        name = chance.choice(("v", "seq", "time", "type")) if head else chance.choice(fields)
        body[name] = _near(body.get(name), chance)
    return json.dumps(body, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")


def _near(old: Any, chance: Random) -> Any:
    """Of the same type more often than not: what passes the first check is what gets further."""
    if isinstance(old, str) and chance.random() < 0.8:
        return text(chance)
    if isinstance(old, int | float) and chance.random() < 0.8:
        return chance.choice(NUMBERS)
    if isinstance(old, list) and old and chance.random() < 0.6:
        return [_near(item, chance) for item in old] * chance.choice((0, 1, 1, 2))
    if isinstance(old, dict) and chance.random() < 0.6:
        return {text(chance): chance.choice(NUMBERS) for _ in range(3)}
    return value(chance)
