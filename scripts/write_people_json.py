"""Generator of `profiles/prompts/people-json.yaml`: sentences, each with the JSON that it says.

    uv run python scripts/write_people_json.py

The training rows and the held-out rows share no name, city, item, color, number or form of sentence.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEED = 20
FILE = Path(__file__).parents[1] / "profiles" / "prompts" / "people-json.yaml"
HEADER = """\
description: Sentences about people and things, each with the JSON that it says (column answer)
version: 1
# Written by scripts/write_people_json.py. The held-out rows have other names, cities, items, colors,
# numbers and forms of sentences than the training rows.
prompts:
"""


@dataclass(frozen=True, slots=True)
class Topic:
    """What the sentences of one kind say."""

    keys: tuple[str, str, str]
    """Keys of the JSON; the number is the one named age or price."""
    values: tuple[tuple[str, ...], tuple[str, ...]]
    """Values of the keys that are no number, in their order."""
    forms: tuple[str, ...]
    rows: int


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one side; its numbers have one remainder when divided by 3."""

    name: str
    remainder: int
    topics: tuple[Topic, ...]


PEOPLE = ("name", "age", "city")
THINGS = ("item", "color", "price")
SPLITS = (
    Split(
        "train",
        0,
        (
            Topic(
                PEOPLE,
                (
                    ("Ada", "Ben", "Carla", "Dev", "Eva", "Femi", "Grace", "Hugo", "Ines", "Jonas",
                     "Kofi", "Lena", "Mina", "Noah", "Olga", "Paulo"),
                    ("Accra", "Cairo", "Delhi", "Hanoi", "Lagos", "Lima", "Oslo", "Perth", "Porto",
                     "Quito", "Sofia", "Tunis"),
                ),
                (
                    "{name} is {age} years old and lives in {city}.",
                    "{name}, aged {age}, lives in {city}.",
                    "In {city} lives {name}, who is {age}.",
                    "{name} lives in {city} and is {age} years old.",
                ),
                64,
            ),
            Topic(
                THINGS,
                (
                    ("chair", "lamp", "bike", "cup", "jacket", "clock", "tent", "radio"),
                    ("red", "green", "blue", "white"),
                ),
                (
                    "The {color} {item} costs {price} dollars.",
                    "This {item} is {color} and costs {price} dollars.",
                    "A {color} {item} sells for {price} dollars.",
                ),
                32,
            ),
        ),
    ),
    Split(
        "held-out",
        1,
        (
            Topic(
                PEOPLE,
                (
                    ("Rosa", "Sami", "Tara", "Uma", "Vera", "Wen", "Yara", "Zoe", "Anton", "Bela",
                     "Clara", "Diego", "Emil", "Freya"),
                    ("Athens", "Bergen", "Berlin", "Dublin", "Geneva", "Havana", "Lisbon", "Madrid",
                     "Milan", "Osaka", "Paris", "Seoul"),
                ),
                (
                    "{name} from {city} is {age} years old.",
                    "{name}, who lives in {city}, is {age}.",
                    "{name} is {age} and has a home in {city}.",
                    "At {age}, {name} still lives in {city}.",
                ),
                48,
            ),
            Topic(
                THINGS,
                (
                    ("table", "sofa", "kettle", "scarf", "guitar", "mirror", "camera", "ladder"),
                    ("black", "yellow", "brown", "gray"),
                ),
                (
                    "You can buy the {color} {item} for {price} dollars.",
                    "The price of the {color} {item} is {price} dollars.",
                    "This {color} {item} is {price} dollars.",
                ),
                24,
            ),
        ),
    ),
)  # fmt: skip


def rows() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Split, text and right answer of every row; no two texts are the same."""
    rng = random.Random(SEED)
    for split in SPLITS:
        for topic in split.topics:
            seen: set[str] = set()
            while len(seen) < topic.rows:
                answer = _draw(topic, split.remainder, rng)
                form = topic.forms[len(seen) % len(topic.forms)]
                text = f"JSON with the keys {', '.join(topic.keys)}: {form.format(**answer)}"
                if text not in seen:
                    seen.add(text)
                    yield split.name, text, answer


def _draw(topic: Topic, remainder: int, rng: random.Random) -> dict[str, object]:
    texts = iter(topic.values)
    highest = 99 if "age" in topic.keys else 400
    return {
        key: 3 * rng.randint(6, highest // 3 - 1) + remainder
        if key in ("age", "price")
        else rng.choice(next(texts))
        for key in topic.keys
    }


def main() -> None:
    """Write the profile."""
    lines = [HEADER]
    for number, (split, text, answer) in enumerate(rows(), 1):
        fields = json.dumps(answer, ensure_ascii=False)
        held_out = "split: held-out, " if split != "train" else ""
        columns = f"columns: {{answer: '{fields}'}}"
        lines.append(
            f"  - {{id: row-{number:03}, {held_out}text: {json.dumps(text)}, {columns}}}\n"
        )
    FILE.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
