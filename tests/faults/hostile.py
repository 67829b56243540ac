"""Hostile input generated from a seed: texts, numbers, trees, and mutations of well-formed data.

Every generator takes a `random.Random` and returns the same values for the same seed.

    python -m tests.faults.hostile --count 2000 --seed 0   # commands on hostile folders; prints a summary
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
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


def text(rng: Random) -> str:
    """A hostile text."""
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(TEXTS)
    if kind < 0.8:
        return "".join(rng.choice(TEXTS) for _ in range(rng.randint(1, 4)))
    if kind < 0.98:
        return "".join(chr(rng.choice((rng.randrange(32), rng.randrange(128, 160),
                       rng.randrange(0x110000)))) for _ in range(rng.randint(1, 30)))  # fmt: skip
    return rng.choice("x\x1b\n ") * rng.choice((1_000, 100_000))


def value(rng: Random, depth: int = 0) -> Any:
    """A value of any type."""
    kind = rng.random()
    if kind < 0.35 or depth > 4:
        return text(rng)
    if kind < 0.65:
        return rng.choice(NUMBERS)
    if kind < 0.8:
        return rng.choice((None, True, False, [], {}, ""))
    if kind < 0.81:
        deep: Any = text(rng)
        for _ in range(rng.choice((30, 45, 200))):
            deep = [deep] if rng.random() < 0.5 else {"a": deep}
        return deep
    if kind < 0.9:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    return {text(rng): value(rng, depth + 1) for _ in range(rng.randint(0, 4))}


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """The data with a few bytes or lines changed."""
    for _ in range(rng.randint(1, 4)):
        if not data:
            return text(rng).encode("utf-8", "surrogatepass")
        start = rng.randrange(len(data))
        kind = rng.randrange(8)
        if kind == 0:
            data = data[:start] + bytes([rng.randrange(256)]) + data[start + 1 :]
        elif kind == 1:
            data = data[:start] + data[start + rng.randint(1, 40) :]
        elif kind == 2:
            data = data[:start] + text(rng).encode("utf-8", "surrogatepass") + data[start:]
        elif kind == 3:
            data = data[:start]
        elif kind == 4:
            end = start + rng.randint(1, 60)
            data = data[:end] + data[start:end] * rng.randint(1, 3) + data[end:]
        elif kind == 5:
            number = str(rng.choice(NUMBERS)).encode()
            digits = [n for n in range(len(data)) if data[n : n + 1].isdigit()][:2000]
            if digits:
                start = rng.choice(digits)
                data = data[:start] + number + data[start + 1 :]
        elif kind == 6:
            lines = data.split(b"\n")
            rng.shuffle(lines) if rng.random() < 0.2 else lines.reverse()
            data = b"\n".join(lines)
        else:
            data = data.replace(b'"', rng.choice((b"", b"'", b'\\"')), rng.randint(1, 3))
    return data


def mutate_tree(tree: Any, rng: Random) -> Any:
    """A copy of a tree in which one value or key is replaced or removed."""
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        key = rng.choice(list(tree))
        if rng.random() < 0.1:
            return {(text(rng) if k == key else k): v for k, v in tree.items()}
        if rng.random() < 0.05:
            return {k: v for k, v in tree.items() if k != key}
        return {k: mutate_tree(v, rng) if k == key else v for k, v in tree.items()}
    if isinstance(tree, list) and tree and rng.random() < 0.7:
        index = rng.randrange(len(tree))
        return [mutate_tree(v, rng) if n == index else v for n, v in enumerate(tree)]
    return value(rng)


@cache
def profiles() -> tuple[tuple[str, bytes], ...]:
    """Kind and content of every shipped profile."""
    files = sorted((REPOSITORY / "profiles").glob("*/*.yaml"))
    return tuple((file.parent.name, file.read_bytes()) for file in files)


@cache
def events() -> tuple[bytes, ...]:
    """The event lines of a real run, at most 40 of each type."""
    counts: dict[str, int] = {}
    lines = []
    with gzip.open(REPOSITORY / "screenshots" / "quickstart.events.jsonl.gz") as file:
        for raw in file:
            name = json.loads(raw)["type"]
            counts[name] = counts.get(name, 0) + 1
            if counts[name] <= 40:
                lines.append(raw.rstrip(b"\n"))
    return tuple(lines)


@cache
def sample_events_as_json() -> tuple[dict[str, Any], ...]:
    """Well-formed events of every type, as JSON objects, including types that the real run lacks."""
    from ida_tui.events import codec
    from ida_tui.events import types as ev
    from tests.faults import sample_events

    recorded = [json.loads(raw) for raw in events()]
    samples = [
        json.loads(codec.encode(ev.Record(n, ev.current_timestamp(), e)))
        for n, e in enumerate(sample_events.ALL)
    ]
    return (*recorded, *samples * 10)


def event_line(rng: Random) -> bytes:
    """A line of an ``events.jsonl``, well formed or not."""
    kind = rng.random()
    if kind < 0.1:
        return rng.choice(events())
    if kind < 0.4:
        return mutate_bytes(rng.choice(events()), rng)
    body = dict(rng.choice(sample_events_as_json()))
    fields = [name for name in body if name not in ("v", "seq", "time", "type")]
    for _ in range(rng.randint(1, 3)):
        in_header = rng.random() < 0.1 or not fields
        name = rng.choice(("v", "seq", "time", "type")) if in_header else rng.choice(fields)
        body[name] = similar_value(body.get(name), rng)
    return json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def similar_value(old: Any, rng: Random) -> Any:
    """A value that usually has the same type, so that it passes the first checks."""
    if isinstance(old, str) and rng.random() < 0.8:
        return text(rng)
    if isinstance(old, int | float) and rng.random() < 0.8:
        return rng.choice(NUMBERS)
    if isinstance(old, list) and old and rng.random() < 0.6:
        return [similar_value(item, rng) for item in old] * rng.choice((0, 1, 1, 2))
    if isinstance(old, dict) and rng.random() < 0.6:
        return {text(rng): rng.choice(NUMBERS) for _ in range(3)}
    return value(rng)


def main() -> int:
    """Run commands on hostile folders and print a summary; returns 1 if a case failed."""
    from tests.faults import hostile_commands

    parser = argparse.ArgumentParser(description=hostile_commands.__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run only this case")
    parser.add_argument("--model-share", type=float, default=0.12, help="share that loads a model")
    options = parser.parse_args()
    numbers = range(options.count)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    with tempfile.TemporaryDirectory() as folder:
        finished = hostile_commands.make_finished_run(Path(folder))
        started = time.monotonic()
        tally = hostile_commands.run_cases(
            numbers, options.seed, finished, model_share=options.model_share
        )
    return hostile_commands.report(tally, time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
