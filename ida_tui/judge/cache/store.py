"""On-disk cache of verdicts and of endpoint capabilities.

All runs of a user share one SQLite file (WAL), so that the same request is paid for only once. A
row holds the judge's reply and scores under a hash of everything they depend on. Prompts,
completions, API keys and failed verdicts are not stored. A second table holds the request options
that each endpoint accepted. A problem with the cache causes a warning, never an error.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ida_tui.config.scoring.axes import JUDGED_RANGE
from ida_tui.judge.backends.openai.capabilities import Capabilities, OutputFormat
from ida_tui.judge.backends.openai.request import VerdictRecord
from ida_tui.judge.verdict import Verdict
from ida_tui.util.text import parse_json

FILE_NAME = "judge.sqlite3"
CACHE_SIZE_VARIABLE = "IDA_TUI_CACHE_MB"
MAX_BYTES = 512 * 10**6
"""Default maximum file size, without `IDA_TUI_CACHE_MB`: about 600,000 verdicts."""
BUSY_TIMEOUT_S = 30.0
"""How long a statement waits for the writes of other processes."""
SIZE_CHECK_INTERVAL = 500
"""Number of verdicts written between two checks of the file size."""
CAPABILITIES_MAX_AGE_DAYS = 7
"""Age at which the stored capabilities of an endpoint expire, because servers get updated."""

_CREATE_VERDICTS = """
CREATE TABLE IF NOT EXISTS verdicts_v3 (
    key TEXT PRIMARY KEY,
    judge TEXT NOT NULL,
    scores TEXT NOT NULL,
    reason TEXT NOT NULL,
    raw TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    served_model TEXT,
    fingerprint TEXT,
    created TEXT NOT NULL
) WITHOUT ROWID
"""
_UPGRADE_VERDICTS = (
    """
    INSERT OR IGNORE INTO verdicts_v3
    SELECT key, judge, json_object('align', align, 'risk', risk, 'detail', detail), reason, raw,
           input_tokens, output_tokens, served_model, fingerprint, created
    FROM verdicts_v2
    """,
    "DROP TABLE verdicts_v2",
)
"""Statements that move the verdicts of the previous version, which had a column for each axis of R_IDA."""
_CREATE_ENDPOINTS = """
CREATE TABLE IF NOT EXISTS endpoints_v1 (
    endpoint TEXT PRIMARY KEY,
    rung INTEGER NOT NULL,
    token_limit TEXT,
    dropped TEXT NOT NULL,
    served_model TEXT,
    updated TEXT NOT NULL
) WITHOUT ROWID
"""
_EXPORT_COLUMNS = (
    "key", "judge", "scores", "reason", "raw", "input_tokens", "output_tokens",
    "served_model", "fingerprint", "created",
)  # fmt: skip
_SqlValue = str | int | float | None
_CORRUPT_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def max_cache_bytes() -> int:
    """The maximum size of the verdicts in bytes: `IDA_TUI_CACHE_MB`, or `MAX_BYTES`."""
    try:
        return max(1, round(float(os.environ[CACHE_SIZE_VARIABLE]) * 10**6))
    except (KeyError, ValueError, OverflowError):
        return MAX_BYTES


class VerdictCache:
    """The cache file. Open it on the thread that uses it.

    Several processes may share the file. A corrupt file is renamed to `….corrupt-<time>` and
    replaced by a new one; if the folder is not writable, the cache is off (`enabled` is False).

    Args:
        folder: created if it is missing.
        warn: receives one sentence for the user per problem.
        judge: the judge's name and host, stored with each verdict for display.
        max_bytes: above this size, the oldest fifth of the verdicts is deleted.
    """

    def __init__(
        self,
        folder: Path,
        warn: Callable[[str], None],
        *,
        judge: str = "",
        max_bytes: int | None = None,
    ) -> None:
        self.path = folder / FILE_NAME
        self._warn = warn
        self._judge = judge
        self._max_bytes = max_cache_bytes() if max_bytes is None else max_bytes
        self._write_count = 0
        self._connection: sqlite3.Connection | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self._disable(error.strerror or str(error))
            return
        self._open()
        self._evict_oldest()

    @property
    def enabled(self) -> bool:
        """Whether verdicts are stored."""
        return self._connection is not None

    def count(self) -> int:
        """The number of verdicts on disk; 0 when the cache is off."""
        rows = self._execute("SELECT count(*) FROM verdicts_v3")
        return int(rows[0][0] or 0) if rows else 0

    def get(self, key: str, judge: str, served_model: str | None = None) -> Verdict | None:
        """The stored verdict, labeled `judge`, with cost 0 and `cached` set; None if there is none.

        A verdict by a different model than `served_model`, the one that the server uses now, does
        not match. None means that the current model is unknown.
        """
        rows = self._execute(
            "SELECT scores, reason, served_model FROM verdicts_v3 WHERE key = ?", [key]
        )
        if not rows:
            return None
        scores, reason, stored_model = rows[0]
        if served_model is not None and stored_model is not None and stored_model != served_model:
            return None
        try:
            return Verdict.scored(
                _parse_scores(scores),
                str(reason),
                judge,
                cached=True,
                calls=0,
                served_model=None if stored_model is None else str(stored_model),
            )
        except ValueError:
            return None  # not written by this program

    def put(self, key: str, record: VerdictRecord) -> None:
        """Store a verdict; a failed verdict is not stored."""
        verdict = record.verdict
        if verdict.failure is not None:
            return
        self._execute(
            "INSERT OR REPLACE INTO verdicts_v3 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                self._judge,
                json.dumps(verdict.scores),
                verdict.reason,
                record.raw.encode("utf-8", "replace").decode(),  # SQLite rejects lone surrogates
                verdict.input_tokens,
                verdict.output_tokens,
                verdict.served_model,
                record.fingerprint,
                datetime.now(UTC).isoformat(timespec="seconds"),
            ),
        )
        self._write_count += 1
        if self._write_count % SIZE_CHECK_INTERVAL == 0:
            self._evict_oldest()

    # -- endpoint capabilities (`CapabilityStore`) ----------------------------------------------

    def load_capabilities(self, endpoint: str) -> Capabilities | None:
        """The capabilities of an endpoint, if they were stored within the last week."""
        since = (datetime.now(UTC) - timedelta(days=CAPABILITIES_MAX_AGE_DAYS)).isoformat()
        rows = self._execute(
            "SELECT rung, token_limit, dropped FROM endpoints_v1 WHERE endpoint = ? AND updated > ?",
            [endpoint, since],
        )
        if not rows:
            return None
        rung, token_limit, dropped = rows[0]
        try:
            return Capabilities(
                OutputFormat(int(rung or 0)),
                None if token_limit is None else str(token_limit),
                frozenset(str(dropped).split()),
            )
        except ValueError:
            return None  # not written by this program

    def save_capabilities(self, endpoint: str, capabilities: Capabilities) -> None:
        """Store the capabilities of an endpoint."""
        self._execute(
            "INSERT INTO endpoints_v1 VALUES (?, ?, ?, ?, NULL, ?) ON CONFLICT(endpoint) DO UPDATE SET"
            " rung = excluded.rung, token_limit = excluded.token_limit, dropped = excluded.dropped,"
            " updated = excluded.updated",
            [
                endpoint,
                int(capabilities.output_format),
                capabilities.token_limit_parameter,
                " ".join(sorted(capabilities.refused)),
                datetime.now(UTC).isoformat(),
            ],
        )

    def load_served_model(self, endpoint: str) -> str | None:
        """The model that an endpoint reported in its last reply."""
        rows = self._execute("SELECT served_model FROM endpoints_v1 WHERE endpoint = ?", [endpoint])
        return str(rows[0][0]) if rows and rows[0][0] is not None else None

    def save_served_model(self, endpoint: str, model: str) -> None:
        """Store the model that an endpoint reports; does nothing for an endpoint not stored yet."""
        self._execute(
            "UPDATE endpoints_v1 SET served_model = ? WHERE endpoint = ?", [model, endpoint]
        )

    # -- the `cache` command -------------------------------------------------------------------

    def size(self) -> int:
        """Bytes of the file in use; 0 when the cache is off."""
        rows = self._execute(
            "SELECT (page_count - freelist_count) * page_size"
            " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        )
        return int(rows[0][0] or 0) if rows else 0

    def summarize_by_judge(self) -> list[tuple[str, int, str, str]]:
        """Each judge with its number of verdicts and the dates of the oldest and the newest."""
        rows = self._execute(
            "SELECT judge, count(*), min(created), max(created) FROM verdicts_v3"
            " GROUP BY judge ORDER BY 2 DESC, 1"
        )
        return [
            (str(judge), int(count or 0), str(first)[:10], str(last)[:10])
            for judge, count, first, last in rows
        ]

    def export(self) -> Iterator[dict[str, object]]:
        """All verdicts, oldest first; the scores by axis."""
        if self._connection is None:
            return
        columns = ", ".join(_EXPORT_COLUMNS)
        for row in self._connection.execute(
            f"SELECT {columns} FROM verdicts_v3 ORDER BY created, key"
        ):
            cells = (
                _decode_text(cell) if isinstance(cell, bytes) else _finite_or_none(cell)
                for cell in row
            )
            verdict: dict[str, object] = dict(zip(_EXPORT_COLUMNS, cells, strict=True))
            with suppress(ValueError):  # not written by this program
                verdict["scores"] = _parse_scores(verdict["scores"])
            yield verdict

    def clear(self) -> int:
        """Delete all verdicts and endpoints; returns the number of verdicts deleted."""
        count = self.count()
        self._execute("DELETE FROM verdicts_v3")
        self._execute("DELETE FROM endpoints_v1")
        self._execute("VACUUM")
        return count

    def _evict_oldest(self) -> None:
        """Delete the oldest verdicts until the file is within its maximum size."""
        if self.size() <= self._max_bytes:
            return
        oldest = "SELECT key FROM verdicts_v3 ORDER BY created, key LIMIT ?"
        while self.size() > self._max_bytes and (count := self.count()):
            self._execute(f"DELETE FROM verdicts_v3 WHERE key IN ({oldest})", [max(1, count // 5)])

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _execute(
        self, statement: str, parameters: Sequence[str | float | None] = ()
    ) -> list[tuple[_SqlValue, ...]]:
        """Run one statement; an error is reported once and disables or recreates the cache."""
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            self._recover(error)
            return []

    def _open(self, *, recreating: bool = False) -> None:
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._connection = _connect(self.path)
                return
            except sqlite3.Error as error:
                # Switching a new file to WAL fails immediately while another connection does the same.
                if (
                    _primary_error_code(error) == sqlite3.SQLITE_BUSY
                    and time.monotonic() < deadline
                ):
                    time.sleep(0.01)
                elif recreating:
                    self._disable(str(error))
                    return
                else:
                    self._recover(error)
                    return

    def _recover(self, error: sqlite3.Error) -> None:
        self.close()
        if _primary_error_code(error) not in _CORRUPT_CODES:
            self._disable(str(error))
            return
        timestamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        renamed = self.path.with_name(f"{FILE_NAME}.corrupt-{timestamp}")
        try:
            with suppress(FileNotFoundError):  # another process renamed it first
                self.path.rename(renamed)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        except OSError as rename_error:
            self._disable(rename_error.strerror or str(rename_error))
            return
        self._warn(f"the judge cache was corrupt: renamed it to {renamed} and created a new one")
        self._open(recreating=True)

    def _disable(self, reason: str) -> None:
        self.close()
        self._warn(f"the judge cache is off: could not use {self.path.parent} ({reason})")


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file for writing and create its tables.

    Raises:
        sqlite3.Error: the file cannot be opened, written or read; no connection is left open.
    """
    with contextlib.suppress(OSError):  # SQLite says what is wrong
        path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    connection.text_factory = (
        _decode_text  # a cell that is not UTF-8 was not written by this program
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")  # fails here if the file is not writable
        connection.execute(_CREATE_VERDICTS)
        connection.execute(_CREATE_ENDPOINTS)
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'verdicts_v2'")
        for statement in _UPGRADE_VERDICTS if tables.fetchone() else ():
            connection.execute(statement)
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _finite_or_none(cell: _SqlValue) -> _SqlValue:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _decode_text(cell: bytes) -> str:
    return cell.decode("utf-8", "replace")


def _primary_error_code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None for errors that do not come from SQLite."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _parse_scores(cell: object) -> dict[str, float]:
    """The scores of a stored verdict.

    Raises:
        ValueError: this program did not write them.
    """
    scores = parse_json(str(cell))
    if not isinstance(scores, dict) or not scores:
        raise ValueError("no scores")
    for score in scores.values():
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise ValueError("a score is not a number")
        if not JUDGED_RANGE[0] <= score <= JUDGED_RANGE[1]:  # NaN fails every comparison
            raise ValueError("a score is outside the scale")
    return scores
