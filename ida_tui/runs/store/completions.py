"""Random access to the completions of a run, read from `completions.jsonl` one step at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ida_tui.errors import UsageError
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.events.state import Completion
from ida_tui.runs.directory import RunDirectory
from ida_tui.util.paths import display_path
from ida_tui.util.safe_files import iterate_lines, open_regular, replaced_file
from ida_tui.util.text import parse_json

_STEP_PREFIX = re.compile(rb'\{"step": (\d{1,18}),')


class CompletionStore:
    """An index of a growing `completions.jsonl`; only byte offsets are held in memory.

    Args:
        path: the file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._ranges: dict[int, tuple[int, int]] = {}
        self._last_step = -1
        self.problem = ""
        """Why the file or the rest of it cannot be read; empty if it can."""

    def refresh(self) -> None:
        """Index the lines appended since the last call; an incomplete last line is left for the next call.

        Never raises; see `problem`.
        """
        try:
            self._index_new_lines()
        except FileNotFoundError:
            return
        except OSError as error:
            self.problem = str(error.strerror or error)

    def _index_new_lines(self) -> None:
        file = open_regular(self._path)
        with file:
            file.seek(self._offset)
            for raw in iterate_lines(file):
                if not raw.endswith(b"\n"):
                    return
                start, self._offset = self._offset, self._offset + len(raw)
                match = _STEP_PREFIX.match(raw)
                if match is None:
                    continue
                step = int(match[1])
                # A resumed run may write a step again; the last occurrence counts.
                if step == self._last_step:
                    start = self._ranges[step][0]
                self._ranges[step] = (start, self._offset)
                self._last_step = step

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have scored completions, in order."""
        return tuple(sorted(self._ranges))

    def load(self, step: int) -> tuple[Completion, ...]:
        """The completions of one step with their verdicts, in the order in which they were written.

        An unreadable line is replaced by a placeholder completion whose text explains the problem.
        """
        return tuple(_parse_completion(raw, step, n) for n, raw in enumerate(self._raw_lines(step)))

    def search(self, words: Sequence[str], start: int, direction: int) -> int | None:
        """The nearest step with a completion that contains all the words.

        Args:
            words: words to find in prompt, text and reason; case is ignored.
            start: the step before the first one to search.
            direction: 1 searches later steps, -1 earlier steps.
        """
        steps = [step for step in self.steps if (step - start) * direction > 0]
        for step in sorted(steps, reverse=direction < 0):
            if any(contains_words(completion, words) for completion in self.load(step)):
                return step
        return None

    def _raw_lines(self, step: int) -> Iterator[bytes]:
        block = self._ranges.get(step)
        if block is None:
            return
        try:
            with open_regular(self._path) as file:
                file.seek(block[0])
                text = file.read(block[1] - block[0])
        except OSError:
            return
        yield from text.splitlines()


def read_completions(directory: RunDirectory) -> Iterator[tuple[int, tuple[Completion, ...]]]:
    """The judged completions of a run by step, sorted by group and index.

    Raises:
        UsageError: the completions cannot be read.
    """
    store = CompletionStore(directory.completions)
    store.refresh()
    if store.problem:
        shown = display_path(directory.completions)
        raise UsageError(f"{shown} cannot be read: {store.problem}")
    for step in store.steps:
        try:
            completions = store.load(step)
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{display_path(directory.completions)} cannot be read: "
                f"a line of step {step} is not a completion"
            ) from None
        latest = {(c.finished.group, c.finished.index): c for c in completions}
        yield step, tuple(latest[key] for key in sorted(latest))


def remove_completions_after(path: Path, step: int) -> None:
    """Remove the completions of all later steps; the file is replaced atomically or left unchanged.

    No data is lost: `events.jsonl` contains all completions.

    Raises:
        OSError: the write failed.
    """
    try:
        old = open_regular(path)
    except FileNotFoundError:
        return
    with old, replaced_file(path) as new:
        for raw in iterate_lines(old):
            match = _STEP_PREFIX.match(raw)
            if raw.endswith(b"\n") and match is not None and int(match[1]) <= step:
                new.write(raw)
        new.flush()
        os.fsync(new.fileno())


def contains_words(completion: Completion, words: Sequence[str]) -> bool:
    """Whether prompt, text and reason together contain all the words; case is ignored."""
    finished, scored = completion.finished, completion.scored
    text = f"{finished.prompt}\n{finished.text}\n{scored.reason if scored else ''}".casefold()
    return all(word.casefold() in text for word in words)


def _parse_completion(raw: bytes, step: int, number: int) -> Completion:
    try:
        return _current_completion(raw)
    except codec.EventError:
        pass  # an older version wrote the line, or it is damaged
    try:
        row = parse_json(raw)
        if not isinstance(row, dict):
            raise codec.EventError("not a JSON object")
        if "scores" not in row:  # an older version wrote the line
            row = codec.upgrade_scores(row)
        finished = codec.build_event("CompletionFinished", row)
        scored = codec.build_event("CompletionScored", row)
    except ValueError as error:
        text = f"(line {number + 1} of this step cannot be read: {error})"
        return Completion(ev.CompletionFinished(step, -1, number, "", "", text, 0, True))
    assert isinstance(finished, ev.CompletionFinished)
    assert isinstance(scored, ev.CompletionScored)
    return Completion(finished, scored)


def _current_completion(raw: bytes) -> Completion:
    """The completion in a line as this version writes it.

    Raises:
        EventError: it is another line.
    """
    finished = codec.build_event_from_json("CompletionFinished", raw)
    scored = codec.build_event_from_json("CompletionScored", raw)
    assert isinstance(finished, ev.CompletionFinished)
    assert isinstance(scored, ev.CompletionScored)
    return Completion(finished, scored)
