"""Printed summary of the judge cache."""

from __future__ import annotations

from collections.abc import Iterator

from ida_tui.judge.cache.store import VerdictCache


def cache_lines(cache: VerdictCache, max_bytes: int) -> Iterator[str]:
    """The cache file, its size, and the number of verdicts of each judge."""
    yield f"file      {cache.path}"
    yield f"verdicts  {cache.count():,}"
    yield (
        f"size      {cache.size() / 1e6:.1f} MB (limit {max_bytes / 1e6:,.0f} MB,"
        " set by IDA_TUI_CACHE_MB)"
    )
    for judge, count, first, last in cache.summarize_by_judge():
        yield f"  {count:>8,}  {judge}   {first} to {last}"
