"""Batches of rows of similar lengths, which limit padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MAX_PADDING = 0.25
"""Largest share of padding in a batch before a new one is started."""


def similar_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Batches of the rows with these lengths, the longest first."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    rows: list[int] = []
    tokens = 0
    for row in order:
        longest = lengths[rows[0]] if rows else lengths[row]
        padded_tokens = longest * (len(rows) + 1)
        if rows and padded_tokens - tokens - lengths[row] > MAX_PADDING * padded_tokens:
            yield rows
            rows, tokens = [], 0
        rows.append(row)
        tokens += lengths[row]
    if rows:
        yield rows
