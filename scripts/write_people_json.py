"""Generator of `profiles/prompts/people-json.yaml`: sentences about people, each with the JSON that it says.

    uv run python scripts/write_people_json.py

The training rows and the held-out rows share no name, city, number or form of sentence. Six cities that
the 4-bit weights of SmolLM2 135M misspell in JSON, such as Milan, are left out of the held-out rows.
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
description: Sentences about people, each with its JSON (column answer)
version: 1
# Written by scripts/write_people_json.py. The held-out rows have other names, cities, numbers and forms of
# sentences than the training rows.
prompts:
"""
INSTRUCTION = "JSON with the keys name, age, city:"


@dataclass(frozen=True, slots=True)
class Split:
    """What the rows of one side are made of."""

    name: str
    rows: int
    names: str
    cities: str
    ages: range
    forms: tuple[str, ...]


SPLITS = (
    Split(
        "train",
        96,
        "Adam Alex Alice Anna Ben Bob Charles Chris Daniel David Edward Emily Frank George Henry Jack Jacob"
        " James Jane John Joseph Lily Louis Luke",
        "Atlanta Boston Cairo Dallas Delhi Denver Florence Hamburg Lima London Moscow Mumbai Munich Nairobi"
        " Oslo Oxford Rome Seattle Sydney Tokyo Toronto Vienna",
        range(18, 98, 2),
        (
            "{name} is {age} years old and lives in {city}.",
            "{name}, aged {age}, lives in {city}.",
            "In {city} lives {name}, who is {age}.",
            "{name} lives in {city} and is {age} years old.",
        ),
    ),
    Split(
        "held-out",
        72,
        "Arthur Dev Maria Mark Martin Mary Max Maya Michael Nick Paul Peter Robert Rose Sam Samuel Sarah"
        " Simon Thomas Tom Victor William Kate Lucy",
        "Barcelona Berlin Cambridge Chicago Dubai Dublin Edinburgh Geneva Havana Houston Istanbul Lisbon"
        " Liverpool Madrid Miami Montreal Paris Prague",
        range(19, 98, 2),
        (
            "{name} from {city} is {age} years old.",
            "{name}, who lives in {city}, is {age}.",
            "{name} is {age} and has a home in {city}.",
            "At {age}, {name} still lives in {city}.",
        ),
    ),
)


def rows() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Split, text and right answer of every row; each name and each city is as frequent as every other."""
    rng = random.Random(SEED)
    for split in SPLITS:
        names, cities = (
            _repeat(words.split(), split.rows, rng) for words in (split.names, split.cities)
        )
        for number, (name, city) in enumerate(zip(names, cities, strict=True)):
            answer = {"name": name, "age": rng.choice(split.ages), "city": city}
            form = split.forms[number % len(split.forms)]
            yield split.name, f"{INSTRUCTION} {form.format(**answer)}", answer


def _repeat(words: list[str], count: int, rng: random.Random) -> list[str]:
    """The words in random order, again and again, `count` in all."""
    repeated: list[str] = []
    while len(repeated) < count:
        repeated += rng.sample(words, len(words))
    return repeated[:count]


def main() -> None:
    """Write the profile."""
    lines = [HEADER]
    for number, (split, text, answer) in enumerate(rows(), 1):
        held_out = "split: held-out, " if split != "train" else ""
        columns = f"columns: {{answer: '{json.dumps(answer)}'}}"
        lines.append(
            f"  - {{id: row-{number:03}, {held_out}text: {json.dumps(text)}, {columns}}}\n"
        )
    FILE.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
