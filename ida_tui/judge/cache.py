"""Verdicts kept on disk, so that the same question is paid for once.

One SQLite file (WAL) for all runs of a user. A row holds the judge's reply and scores under a hash
of all that they depend on; the prompt and the completion themselves are not kept, nor is any key,
nor a failure. The cache is a convenience: whatever is wrong with it becomes a warning, never
an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeGuard

from platformdirs import user_cache_dir

from ida_tui.config import JudgeConfig, RubricConfig
from ida_tui.judge import prompting
from ida_tui.judge.client import Answer
from ida_tui.judge.keys import OPENAI_BASE_URL
from ida_tui.judge.verdict import Question, Verdict

FILE_NAME = "judge.sqlite3"
FOLDER_VARIABLE = "IDA_TUI_CACHE_DIR"
BUSY_TIMEOUT_S = 5.0
"""How long a statement waits for another process's write."""

_CREATE = """
CREATE TABLE IF NOT EXISTS verdicts_v1 (
    key TEXT PRIMARY KEY,
    align REAL NOT NULL,
    risk REAL NOT NULL,
    detail REAL NOT NULL,
    reason TEXT NOT NULL,
    raw TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    served_model TEXT,
    fingerprint TEXT,
    created TEXT NOT NULL
) WITHOUT ROWID
"""
_Cell = str | int | float | None
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def cache_folder() -> Path:
    """The folder of the cache: `IDA_TUI_CACHE_DIR`, or the user's own cache folder."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named).expanduser() if named else Path(user_cache_dir("ida-tui"))


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Makes the key of a question: sha256 over everything that its verdict depends on."""

    prefix: str

    @classmethod
    def of(cls, config: JudgeConfig, rubric: RubricConfig) -> CacheKeys:
        """The part of the key that a run shares: endpoint, model, rubric, wording and sampling."""
        shared = {
            "base_url": (config.base_url or OPENAI_BASE_URL).rstrip("/"),
            "model": config.model,
            "rubric": rubric.model_dump(exclude={"name", "description"}),
            "prompting": prompting.VERSION,
            "sampling": {
                "temperature": config.temperature,
                "max_tokens": config.max_tokens,
                "reasoning_effort": config.reasoning_effort,
                "max_judged_chars": config.max_judged_chars,
            },
        }
        return cls(json.dumps(shared, sort_keys=True))

    def key(self, question: Question) -> str:
        """64 hexadecimal digits."""
        own = [self.prefix, question.prompt, question.completion, question.sample_index]
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()


class VerdictCache:
    """The cache file, opened by the thread that will use it.

    Several processes may share the file. A corrupt file is set aside as ``….corrupt-<time>`` and a
    new one begun; a folder that cannot be written leaves the cache off (`enabled` is False).

    Args:
        folder: made if it is missing.
        warn: receives one sentence for the user per fault.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.path = folder / FILE_NAME
        self._warn = warn
        self._connection: sqlite3.Connection | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._off(error.strerror or str(error))
            return
        self._open()

    @property
    def enabled(self) -> bool:
        """Whether verdicts are kept."""
        return self._connection is not None

    def count(self) -> int:
        """Verdicts on disk; 0 when the cache is off."""
        rows = self._execute("SELECT count(*) FROM verdicts_v1")
        return int(rows[0][0] or 0) if rows else 0

    def get(self, key: str, judge: str) -> Verdict | None:
        """The kept verdict, labelled `judge`, cost 0 and `cached`; null where there is none."""
        rows = self._execute(
            "SELECT align, risk, detail, reason, served_model FROM verdicts_v1 WHERE key = ?", [key]
        )
        if not rows:
            return None
        align, risk, detail, reason, served_model = rows[0]
        if not (_is_number(align) and _is_number(risk) and _is_number(detail)):
            return None  # not written by this program
        try:
            return Verdict.scored(
                align,
                risk,
                detail,
                str(reason),
                judge,
                cached=True,
                called=False,
                served_model=None if served_model is None else str(served_model),
            )
        except ValueError:
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep a verdict; a failure is not kept."""
        verdict = answer.verdict
        if verdict.failure is not None:
            return
        self._execute(
            "INSERT OR REPLACE INTO verdicts_v1 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key,
                verdict.align,
                verdict.risk,
                verdict.detail,
                verdict.reason,
                answer.raw.encode("utf-8", "replace").decode(),  # SQLite takes no lone surrogate
                verdict.input_tokens,
                verdict.output_tokens,
                verdict.served_model,
                answer.fingerprint,
                datetime.now(UTC).isoformat(timespec="seconds"),
            ),
        )

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _execute(
        self, statement: str, parameters: Sequence[str | float | None] = ()
    ) -> list[tuple[_Cell, ...]]:
        """Run one statement; a fault is reported once and turns the cache off or starts it anew."""
        if self._connection is None:
            return []
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            self._recover(error)
            return []

    def _open(self, *, anew: bool = False) -> None:
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._connection = _connect(self.path)
                return
            except sqlite3.Error as error:
                # Making a new file WAL fails at once while another connection does the same.
                if _code(error) == sqlite3.SQLITE_BUSY and time.monotonic() < deadline:
                    time.sleep(0.01)
                elif anew:
                    self._off(str(error))
                    return
                else:
                    self._recover(error)
                    return

    def _recover(self, error: sqlite3.Error) -> None:
        self.close()
        if _code(error) not in _CORRUPT:
            self._off(str(error))
            return
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
        aside = self.path.with_name(f"{FILE_NAME}.corrupt-{moment}")
        try:
            with suppress(FileNotFoundError):  # another process was faster
                self.path.rename(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)
        except OSError as fault:
            self._off(fault.strerror or str(fault))
            return
        self._warn(f"the judge cache was damaged; it is set aside as {aside}, a new one is begun")
        self._open(anew=True)

    def _off(self, why: str) -> None:
        self.close()
        self._warn(f"the judge cache is off: {self.path.parent} cannot be used ({why})")


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file for writing and make its table.

    Raises:
        sqlite3.Error: it cannot be opened, written or read; nothing is left open.
    """
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("BEGIN IMMEDIATE")  # finds out now whether it can be written
        connection.execute(_CREATE)
        connection.execute("COMMIT")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _code(error: sqlite3.Error) -> int | None:
    """The primary result code; null for faults that are not SQLite's own."""
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _is_number(cell: _Cell) -> TypeGuard[int | float]:
    return isinstance(cell, int | float)
