"""Recorded quickstart runs without problems, stored as their events without texts.

    python -m tests.support.clean_runs      # trains five seeds (three minutes)

`tests/events/test_alerts.py` replays the alerts over these runs.
"""

from __future__ import annotations

import gzip
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ida_tui.events import codec
from ida_tui.events import types as ev

FILE = Path(__file__).with_name("clean_runs.jsonl.gz")
SEEDS = range(5)
STORED_EVENTS = (ev.RunStarted, ev.StepFinished, ev.MemorySampled, ev.RunEnded)


def clean_runs() -> list[list[ev.Record]]:
    """The records of each run, ordered by seed."""
    runs: list[list[ev.Record]] = []
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        for line in lines:
            record = codec.decode(line)
            if isinstance(record.event, ev.RunStarted):
                runs.append([])
            runs[-1].append(record)
    return runs


def train(seed: int, folder: str) -> Iterator[ev.Record]:
    """Train one quickstart and yield its records, without the texts."""
    overrides = [f"seed={seed}", "evaluation.enabled=false", f"output_dir={folder}"]
    command = [sys.executable, "-m", "ida_tui", "--run", "quickstart", *overrides, "--json"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records = [codec.decode(line) for line in out.splitlines()]
    started = next(n for n, record in enumerate(records) if isinstance(record.event, ev.RunStarted))
    for record in records[started:]:
        event = record.event
        if isinstance(event, ev.RunStarted):
            record = replace(record, event=replace(event, directory="outputs/quickstart/clean"))
        if isinstance(event, STORED_EVENTS):
            yield record


def main() -> None:
    """Train every seed and write the file."""
    lines: list[str] = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            lines += [codec.encode(record) for record in train(seed, folder)]
        print(f"seed {seed}: {len(lines)} lines")
    # Without a timestamp in the file, the same lines give the same bytes.
    with open(FILE, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
        packed.write("".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    main()
