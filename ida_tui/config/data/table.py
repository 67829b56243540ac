"""Table of the rows of a data set, held as text in a few buffers: 100,000 rows without an object for each."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ida_tui.config.data.columns import SPLIT_WORDS, ColumnRoles, kind_of_word
from ida_tui.config.data.conversation_rows import read_conversation, read_history
from ida_tui.config.data.encoding import shown_path
from ida_tui.config.data.records import Record, RecordFile
from ida_tui.config.prompt_text import normalize_prompt
from ida_tui.errors import UsageError
from ida_tui.util.text import one_line, quoted, short_key

KINDS = (None, "harmless", "unsafe")
SPLITS = ("train", "held-out")
_MAX_WORDS = 200
"""Distinct words of a column that can be a kind or a split."""
_CONVERSATION_ROLES = ("prompt", "messages", "system", "history")


class TextColumn:
    """Texts in one buffer; an item is decoded when it is asked for."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> str:
        start = self._ends[position - 1] if position else 0
        return self._bytes[start : self._ends[position]].decode()

    def append(self, text: str) -> None:
        """Add a text; half of a surrogate pair, which UTF-8 lacks, becomes `?`."""
        self._bytes += text.encode("utf-8", "replace")
        self._ends.append(len(self._bytes))

    def extend(self, other: TextColumn) -> None:
        """Add the texts of another column."""
        offset = len(self._bytes)
        self._bytes += other._bytes
        self._ends.extend(end + offset for end in other._ends)


@dataclass(frozen=True, slots=True)
class RowTable:
    """The rows of a data set; a row is made when it is asked for."""

    ids: TextColumn = field(default_factory=TextColumn)
    texts: TextColumn = field(default_factory=TextColumn)
    systems: TextColumn = field(default_factory=TextColumn)
    """System prompts; empty where a row has none."""
    rest: TextColumn = field(default_factory=TextColumn)
    """JSON text of history, tags and further columns; empty where a row has none of them."""
    kinds: bytearray = field(default_factory=bytearray)
    """Index into `KINDS` of each row."""
    splits: bytearray = field(default_factory=bytearray)
    """Index into `SPLITS` of each row."""
    identities: array[int] = field(default_factory=lambda: array("q"))
    """64-bit digest of text, system prompt and earlier turns; equal for rows that repeat each other."""

    def __len__(self) -> int:
        return len(self.texts)

    def row(self, position: int) -> dict[str, Any]:
        """One row, as the fields of a `Prompt`."""
        rest = self.rest[position]
        more = json.loads(rest) if rest else {}
        return {
            "id": self.ids[position],
            "kind": KINDS[self.kinds[position]],
            "split": SPLITS[self.splits[position]],
            "text": self.texts[position],
            "system": self.systems[position] or None,
            "history": more.get("history", []),
            "tags": more.get("tags", []),
            "columns": more.get("columns", {}),
        }

    def characters(self, position: int, default_system: str) -> int:
        """Characters of a row's text, system prompt and earlier turns."""
        count = len(self.texts[position]) + len(self.systems[position] or default_system)
        rest = self.rest[position]
        if rest.startswith('{"history"'):
            count += sum(len(turn["content"]) for turn in json.loads(rest)["history"])
        return count

    def extend(self, other: RowTable) -> None:
        """Add the rows of another table."""
        self.ids.extend(other.ids)
        self.texts.extend(other.texts)
        self.systems.extend(other.systems)
        self.rest.extend(other.rest)
        self.kinds.extend(other.kinds)
        self.splits.extend(other.splits)
        self.identities.extend(other.identities)


class TableBuilder:
    """Reads records into a table, and checks each of them.

    Args:
        file: the open data file.
        roles: the meaning of its columns.
        made_ids: what the ids begin with that are made where there are none.
        kind: the kind of all rows; None takes it from a column.
        chosen: roles whose column is written in the profile: its values must be understood.
        skip_empty: leave rows without a prompt out, instead of refusing them.
    """

    def __init__(
        self,
        file: RecordFile,
        roles: ColumnRoles,
        *,
        made_ids: str,
        kind: str | None = None,
        chosen: Mapping[str, str],
        skip_empty: bool = False,
    ) -> None:
        self._file = file
        self.roles = roles
        """The roles; once the table is read, without those whose column holds something else."""
        self._made_ids = made_ids
        self._kind = kind
        self._chosen = {role for role, name in chosen.items() if name}
        self._skip_empty = skip_empty
        self._context = {roles.get(role) for role in _CONVERSATION_ROLES}
        self._table = RowTable()
        self._numbers = array("q")
        self._words: dict[str, _Words] = {
            role: _Words() for role in ("kind", "split") if roles.get(role)
        }
        self._replies = 0
        self._empty = 0
        self.notes: list[str] = []
        self.shared_columns: tuple[str, ...] = ()
        """Names of the columns that every row has, without those of the conversation."""

    def read(self, records: Iterable[Record]) -> RowTable:
        """The table of these records.

        Raises:
            UsageError: a row has no prompt, or a value in a chosen column is not understood.
        """
        for record in records:
            self._add(record)
        table = self._table
        if self.roles.get("id") is None or not self._has_usable_ids():
            ids = TextColumn()
            # Several rows of a YAML file may be on one line.
            unique = len(set(self._numbers)) == len(self._numbers)
            for number in self._numbers if unique else range(1, len(self._numbers) + 1):
                ids.append(f"{self._made_ids}:{number}")
            table = replace(table, ids=ids)
        table.kinds.extend(self._kind_codes())
        table.splits.extend(self._split_codes())
        self._note_counts()
        return table

    def _add(self, record: Record) -> None:
        fields = record.fields
        text, system, history = self._conversation(record)
        if not text.strip():
            if self._skip_empty:
                self._empty += 1
                return
            raise self._error(
                record, "the prompt of this row is empty", "write its text, or remove the row"
            )
        rest: dict[str, Any] = {}
        if history:
            rest["history"] = history
        if tags := _tags(self._cell(fields, "tags"), self.roles.get("tags")):
            rest["tags"] = tags
        if columns := {k: v for k, v in fields.items() if k not in self._context}:
            rest["columns"] = columns
        if not self._numbers:
            self.shared_columns = tuple(columns)
        elif not columns.keys() >= set(self.shared_columns):
            self.shared_columns = tuple(name for name in self.shared_columns if name in columns)
        row_id = self._cell(fields, "id")
        table = self._table
        table.ids.append("" if row_id is None else str(row_id))
        table.texts.append(text)
        table.systems.append(system or "")
        table.rest.append(json.dumps(rest) if rest else "")
        table.identities.append(identity_of(text, system, history))
        for role, words in self._words.items():
            words.add(self._cell(fields, role), record.number)
        self._numbers.append(record.number)

    def _cell(self, fields: Mapping[str, Any], role: str) -> Any:
        column = self.roles.get(role)
        return None if column is None else fields.get(column)

    def _conversation(self, record: Record) -> tuple[str, str | None, list[dict[str, str]]]:
        """The last message of the user, the system prompt and the turns between them."""
        fields, roles = record.fields, self.roles
        role = "messages" if roles.get("messages") else "prompt"
        column = roles.get(role)
        assert column is not None
        value = fields.get(column)
        if column not in fields and not self._skip_empty:
            raise self._error(
                record,
                f"this row has no {quoted(column)}",
                f"add it, or remove the row; its columns: {_names(fields)}",
            )
        system = self._cell(fields, "system")
        if system is not None and not isinstance(system, str):
            raise self._error(record, "the system prompt is not text", "write a text, or nothing")
        system = system or None
        try:
            if role == "messages" or isinstance(value, list):
                if not value:
                    return "", system, []
                conversation = read_conversation(value)
                self._replies += conversation.has_reply
                return conversation.text, conversation.system or system, conversation.history
            first, history = read_history(self._cell(fields, "history"))
        except ValueError as error:
            raise self._error(
                record,
                f"{short_key(column)} is not a conversation: {error}",
                "write a list of messages that begins with a user's or system message",
            ) from None
        if value is None:
            return "", system, []
        if not isinstance(value, str):
            raise self._error(
                record,
                f"{short_key(column)} is not text: {quoted(value)}",
                "write the text of the prompt in quotes",
            )
        return value, first or system, history

    # --- ids, kinds and splits ------------------------------------------------------------------

    def _has_usable_ids(self) -> bool:
        """Whether every row has an id of its own; ids that only have the name of ids may not."""
        problem = self._id_problem()
        if not problem:
            return True
        column = short_key(self.roles.get("id") or "")
        if "id" in self._chosen:
            raise UsageError(
                f"the ids in {column} cannot be used: {problem}",
                'make them unique, or write prompts.columns.id="": ids are made from the rows then',
                where=self._file.where(self._numbers[0]),
            )
        self.notes.append(f"ids are made from the rows, because in {column} {problem}")
        self.roles = self.roles.without("id")
        return False

    def _id_problem(self) -> str:
        seen: dict[str, int] = {}
        ids = self._table.ids
        for position, number in enumerate(self._numbers):
            row_id = ids[position]
            if not row_id:
                return f"a row has none ({self._file.where(number)})"
            if (first := seen.setdefault(row_id, position)) != position:
                # Rows of a YAML file may begin on the same line.
                where = self._file.where(self._numbers[first])
                return f"two rows have {quoted(row_id)} ({where} and {number})"
        return ""

    def _kind_codes(self) -> bytes:
        codes = self._codes_of_words()
        if self._kind is None:
            return codes or bytes(len(self._numbers))
        if codes is not None and any(codes):
            raise UsageError(
                f"{shown_path(self._file.path)} already has a kind for each prompt",
                "remove --kind, which is only for files without kinds",
            )
        return bytes([KINDS.index(self._kind)]) * len(self._numbers)

    def _codes_of_words(self) -> bytes | None:
        """The kinds that the cells of a column name; None if there is no column that names kinds."""
        words, column = self._words.get("kind"), self.roles.get("kind")
        if words is None or column is None:
            return None
        kinds = {word: kind_of_word(word, column) for word in words.first}
        if column.lower() == "type" and any(word.startswith("contrast_") for word in kinds):
            # In the older layout of XSTest, all other types are harmless.
            kinds = {word: kind or "harmless" for word, kind in kinds.items()}
        unknown = next((word for word, kind in kinds.items() if kind is None), None)
        if unknown is None and not words.too_many:
            codes = {word: KINDS.index(kind) for word, kind in kinds.items()}
            return bytes(codes.get(word, 0) for word in words.of_rows())
        if "kind" in self._chosen or column.lower() == "kind":
            raise UsageError(
                f"{short_key(column)} must be harmless or unsafe, not {quoted(unknown)}",
                "write harmless, safe or benign for a harmless prompt, and unsafe, harmful or toxic for an"
                " unsafe one, or leave it empty",
                where=self._file.where(words.first.get(unknown or "", self._numbers[0])),
            )
        self.notes.append(
            f"{short_key(column)} is a further column, not the kind: {quoted(unknown)} is neither"
            " harmless nor unsafe"
        )
        self.roles = self.roles.without("kind")
        return None

    def _split_codes(self) -> bytes:
        words, column = self._words.get("split"), self.roles.get("split")
        if words is None or column is None:
            return bytes(len(self._numbers))
        unknown = next((word for word in words.first if word not in SPLIT_WORDS), None)
        if unknown is None and not words.too_many:
            codes = {word: SPLITS.index(SPLIT_WORDS[word]) for word in words.first}
            return bytes(codes.get(word, 0) for word in words.of_rows())
        if "split" in self._chosen:
            raise UsageError(
                f"{short_key(column)} must be train or held-out, not {quoted(unknown)}",
                "write train, or held-out, test, validation, dev or eval, or leave it empty",
                where=self._file.where(words.first.get(unknown or "", self._numbers[0])),
            )
        self.notes.append(
            f"{short_key(column)} is a further column, not the split: {quoted(unknown)} is neither"
            " train nor held-out"
        )
        self.roles = self.roles.without("split")
        return bytes(len(self._numbers))

    def _note_counts(self) -> None:
        if self._replies:
            count = self._replies
            self.notes.append(
                f"{count:,} conversation{'s end' if count != 1 else ' ends'} with a reply, which is left"
                " out: the model answers the last message of the user"
            )
        if self._empty:
            self.notes.append(f"rows without a prompt, which are left out: {self._empty:,}")

    def _error(self, record: Record, title: str, hint: str) -> UsageError:
        return UsageError(title, hint, where=self._file.where(record.number))


class _Words:
    """The words of one column, in lower case: each distinct one once, and a number per row."""

    def __init__(self) -> None:
        self.first: dict[str, int] = {}
        """Word → number of its first record."""
        self.too_many = False
        self._index: dict[str, int] = {}
        self._codes = array("h")

    def add(self, value: Any, number: int) -> None:
        word = "" if value is None else str(value).strip().lower()
        if self.too_many:
            return
        if word and word not in self.first:
            if len(self.first) >= _MAX_WORDS:
                self.too_many = True
                return
            self.first[word] = number
            self._index[word] = len(self._index)
        self._codes.append(self._index.get(word, -1))

    def of_rows(self) -> Iterator[str]:
        """The word of each row; an empty text where the cell is empty."""
        words = [*self.first, ""]
        return (words[code] for code in self._codes)


def identity_of(text: str, system: str | None, history: Sequence[object]) -> int:
    """A signed 64-bit digest that is equal for prompts with the same text and context."""
    words = normalize_prompt(text)
    if system or history:
        words = json.dumps([words, system, history])
    digest = hashlib.blake2b(words.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _tags(value: Any, column: str | None) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, list):
        return [one_line(str(tag)) for tag in value if tag not in (None, "")]
    text = str(value)
    if column is not None and column.lower() == "tags":
        return [one_line(tag.strip()) for tag in text.split(",") if tag.strip()]
    return [one_line(text.strip())]


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(short_key(name) for name in list(fields)[:8]) or "none"
