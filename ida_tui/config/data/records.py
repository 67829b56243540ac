"""Records of a data file: CSV, TSV, JSON Lines, JSON, YAML and Parquet.

    for record in open_records(Path("train.jsonl")):
        record.number, record.fields

Nothing in a file is executed, and no type is guessed: a cell of a CSV file is a text.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ida_tui.config.data.encoding import (
    ENCODING_NAMES,
    FileContents,
    inspect_contents,
    iterate_text_lines,
    open_data,
    read_text,
    shown_path,
)
from ida_tui.config.yaml_tree import Node, Origin, parse_yaml, to_plain
from ida_tui.errors import UsageError
from ida_tui.util.safe_files import MAX_LINE_BYTES, MAX_TEXT_BYTES
from ida_tui.util.text import one_line, parse_json, quoted, short_key

TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
LINES_SUFFIXES = (".jsonl", ".ndjson")
YAML_SUFFIXES = (".yaml", ".yml")
DATA_SUFFIXES = (*TABLE_SUFFIXES, *LINES_SUFFIXES, ".json", ".parquet")
"""File names that are data, not profiles."""
COMPRESSED_SUFFIXES = (".gz", ".zip", ".bz2", ".xz", ".zst")
SUPPORTED_FORMATS = (
    "use a .jsonl, .json, .csv, .tsv, .parquet or .yaml file, such as JSON lines:"
    ' {"prompt": "How do I whisk an egg?", "answer": "…"}'
)
MAX_DEPTH = 50
"""Maximum nesting of the values of a row."""
MAX_ROWS = 5_000_000
"""Maximum rows of a file."""
MAX_YAML_BYTES = 4_000_000
_DELIMITER_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
_NO_DELIMITER = "\x1f"
_SAMPLE_LINES = 200
_PARQUET_BATCH = 256


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a data file."""

    number: int
    """1-based line of the file; row of a JSON or Parquet file."""
    fields: dict[str, Any]
    """Column name → plain JSON value."""


@dataclass(slots=True)
class RecordFile:
    """An open data file; iterate it once."""

    path: Path
    sha256: str
    """Digest of the bytes: 64 hexadecimal digits."""
    size: int
    """Bytes."""
    records: Iterator[Record] = field(default_factory=lambda: iter(()))
    has_lines: bool = True
    """Whether a record's number is a line of the file."""
    notes: list[str] = field(default_factory=list)
    """What the reader of the file should know, such as its encoding."""

    def where(self, number: int) -> str:
        """The location of a record, for a message."""
        return f"{shown_path(self.path)}{':' if self.has_lines else ', row '}{number}"

    def __iter__(self) -> Iterator[Record]:
        for count, record in enumerate(self.records):
            if count >= MAX_ROWS:
                raise UsageError(
                    f"{shown_path(self.path)} has more than {MAX_ROWS:,} rows",
                    "set a limit, such as prompts.limit=100000",
                    where=shown_path(self.path),
                )
            yield record


def open_records(path: Path) -> RecordFile:
    """The records of a data file, by the suffix of its name.

    Raises:
        UsageError: the file cannot be read or has an unsupported format. Iteration raises it for the first
            record that is not valid, with its line or row.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        contents = inspect_contents(path, is_text=False)
        file = RecordFile(path, contents.sha256, contents.size, has_lines=False)
        file.records = _parquet_records(file)
        return file
    if suffix in COMPRESSED_SUFFIXES:
        raise UsageError(f"{shown_path(path)} is compressed", "unpack it, and use the file inside")
    if suffix not in (*DATA_SUFFIXES, *YAML_SUFFIXES):
        kind = one_line(path.suffix) or "no suffix"
        raise UsageError(
            f"{shown_path(path)} has an unsupported file type ({kind})", SUPPORTED_FORMATS
        )
    contents = inspect_contents(path)
    file = RecordFile(path, contents.sha256, contents.size)
    if not contents.encoding.startswith("utf-8"):
        name = ENCODING_NAMES.get(contents.encoding, "UTF-16")
        file.notes.append(f"{shown_path(path)} is read as {name} text")
    if suffix in TABLE_SUFFIXES:
        file.records = _table_records(file, contents)
    elif suffix in LINES_SUFFIXES:
        file.records = _json_lines(file, contents)
    elif suffix == ".json":
        file.records = _json_records(file, contents)
    else:
        file.records = _yaml_records(file, contents)
    return file


def plain_value(value: Any, depth: int = 0) -> Any:
    """A value as JSON can hold it: dates are text, numbers that are not finite are null.

    Raises:
        ValueError: the value has no JSON form, such as bytes, or is nested too deeply.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {str(key): plain_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, depth + 1) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return plain_value(float(value))
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    raise ValueError(f"it is not text, a number, a list or a mapping ({type(value).__name__})")


# --- CSV and TSV --------------------------------------------------------------------------------


def _table_records(file: RecordFile, contents: FileContents) -> Iterator[Record]:
    lines = iterate_text_lines(contents)
    sample = list(itertools.islice(lines, _SAMPLE_LINES))
    delimiter = _find_delimiter(sample, file.path)
    if delimiter not in (",", _NO_DELIMITER):
        file.notes.append(
            f"{shown_path(file.path)} is separated by {_DELIMITER_NAMES[delimiter]}, not by a comma"
        )
    # The bound of the csv module is for the whole process; a line has a bound of its own.
    csv.field_size_limit(2 * MAX_LINE_BYTES)
    reader = csv.reader(itertools.chain(sample, lines), delimiter=delimiter, strict=True)
    separator = _DELIMITER_NAMES.get(delimiter, "a separator")
    names: list[str] | None = None
    before = 0
    try:
        for cells in reader:
            line, before = before + 1, reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = _header(file, cells, line)
                continue
            if len(cells) != len(names):
                raise UsageError(
                    f"this line has {len(cells)} columns, but the header has {len(names)}",
                    f"put text that contains {separator} in double quotes",
                    where=file.where(line),
                )
            yield Record(
                line, {name: cell for name, cell in zip(names, cells, strict=True) if name}
            )
    except csv.Error as error:
        raise UsageError(
            f"invalid CSV: {error}",
            f"put text that contains {separator}, a quote or a line break in double quotes, and double"
            ' each quote inside it: "a ""quoted"" word"',
            where=file.where(reader.line_num),
        ) from None


def _header(file: RecordFile, cells: Sequence[str], line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    repeated = next((name for name in names if name and names.count(name) > 1), None)
    if repeated:
        raise UsageError(
            f"two columns are named {quoted(repeated)}",
            "rename one of them in the first line",
            where=file.where(line),
        )
    return names


def _find_delimiter(lines: Sequence[str], path: Path) -> str:
    """The character that splits the header and most of the first records into the same columns."""
    order = "\t,;|" if path.suffix.lower() in (".tsv", ".tab") else ",;\t|"
    best, best_score = _NO_DELIMITER, (0.0, 0)
    for delimiter in order:
        widths = _widths(lines, delimiter)
        if widths and widths[0] > 1:
            share = sum(width == widths[0] for width in widths) / len(widths)
            score = (share, widths[0])
            if score > best_score:
                best, best_score = delimiter, score
    return best


def _widths(lines: Sequence[str], delimiter: str) -> list[int]:
    widths: list[int] = []
    try:
        for cells in csv.reader(lines, delimiter=delimiter):
            if any(cell.strip() for cell in cells):
                widths.append(len(cells))
    except csv.Error:
        pass
    # The last record of the sample may be cut.
    return widths[:-1] if len(widths) > 2 and len(lines) == _SAMPLE_LINES else widths


# --- JSON ---------------------------------------------------------------------------------------


def _json_lines(file: RecordFile, contents: FileContents) -> Iterator[Record]:
    for number, line in enumerate(iterate_text_lines(contents), start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except ValueError as error:
            raise UsageError(
                f"this line is not JSON: {_first_words(error)}",
                _lines_hint(number, line),
                where=file.where(number),
            ) from None
        if not isinstance(value, dict):
            raise UsageError(
                "this line is not a JSON object",
                _lines_hint(number, line),
                where=file.where(number),
            )
        yield Record(number, _plain_fields(file, number, value))


def _lines_hint(number: int, line: str) -> str:
    hint = 'write one object per line, such as {"prompt": "…"}'
    if number == 1 and line.lstrip().startswith("["):
        hint += "\nif the whole file is one JSON array, rename it to .json"
    return hint


def _json_records(file: RecordFile, contents: FileContents) -> Iterator[Record]:
    """An array of objects, an object of columns, or one object per line."""
    if contents.size > MAX_TEXT_BYTES:
        yield from _json_lines(file, contents)
        return
    text = read_text(contents)
    try:
        value = parse_json(text)
    except ValueError as error:
        if _is_json_object(text.lstrip().partition("\n")[0]):
            yield from _json_lines(file, contents)
            return
        raise UsageError(
            f"the file is not JSON: {_first_words(error)}",
            'write an array of objects: [{"prompt": "…"}, …]',
            where=shown_path(file.path),
        ) from None
    del text
    file.has_lines = False
    for number, fields in enumerate(_rows_of_json(file, value), start=1):
        yield Record(number, _plain_fields(file, number, fields))


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _rows_of_json(file: RecordFile, value: Any) -> Iterator[dict[str, Any]]:
    where = shown_path(file.path)
    hint = 'write an array of objects: [{"prompt": "…"}, …]'
    if isinstance(value, dict):
        arrays = {key: item for key, item in value.items() if isinstance(item, list)}
        if len(arrays) == 1 and all(isinstance(item, dict) for item in next(iter(arrays.values()))):
            # {"data": [{…}, …]}
            (value,) = arrays.values()
        elif arrays and len(arrays) == len(value):
            lengths = {key: len(item) for key, item in arrays.items()}
            if len(set(lengths.values())) > 1:
                shown = ", ".join(f"{short_key(k)} {n}" for k, n in list(lengths.items())[:5])
                raise UsageError(f"the columns have different lengths: {shown}", hint, where=where)
            for row in zip(*arrays.values(), strict=True):
                yield dict(zip(arrays, row, strict=True))
            return
        elif not arrays:
            value = [value]
    if not isinstance(value, list):
        raise UsageError("the file is neither an array of objects nor columns", hint, where=where)
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise UsageError("this row is not an object", hint, where=file.where(number))
        yield row


def _plain_fields(file: RecordFile, number: int, fields: dict[str, Any]) -> dict[str, Any]:
    try:
        return {key: plain_value(item, 1) for key, item in fields.items()}
    except ValueError as error:
        raise UsageError(
            f"a value of this row cannot be used: {error}",
            "write text, numbers, lists or mappings",
            where=file.where(number),
        ) from None


def _first_words(error: Exception) -> str:
    return one_line(str(error))[:100]


# --- YAML ---------------------------------------------------------------------------------------


def _yaml_records(file: RecordFile, contents: FileContents) -> Iterator[Record]:
    """A list of mappings, or a prompts profile."""
    if contents.size > MAX_YAML_BYTES:
        raise UsageError(
            f"{shown_path(file.path)} is larger than {MAX_YAML_BYTES // 1_000_000} MB, the maximum of YAML",
            'write the rows as JSON lines (.jsonl), one {"prompt": "…"} per line, which has no such maximum',
            where=shown_path(file.path),
        )
    node = parse_yaml(read_text(contents), Origin(file.path, 1))
    if isinstance(node.value, dict):
        node = node.value.get("prompts", Node(None, node.origin))
    if not isinstance(node.value, list):
        raise UsageError(
            "the file has no list of prompts",
            "write - {prompt: the user's message} lines, or a mapping with the key prompts",
            where=str(node.origin),
        )
    for row in node.value:
        fields = to_plain(row)
        number = row.origin.line or 1
        if not isinstance(fields, dict):
            raise UsageError(
                "this row is not a mapping",
                "write - {prompt: the user's message}",
                where=file.where(number),
            )
        yield Record(number, _plain_fields(file, number, fields))


# --- Parquet ------------------------------------------------------------------------------------


def _parquet_records(file: RecordFile) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            f"a Parquet file needs the package {error.name}, which is not installed",
            "install ida-tui in place of ida-tui-viewer, or use another format",
            where=shown_path(file.path),
        ) from None

    def checked(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise UsageError(
                f"{shown_path(file.path)} is not a readable Parquet file: {_first_words(error)}",
                "write the file again, or use another format",
                where=shown_path(file.path),
            ) from None

    with open_data(file.path) as stream:
        table = checked(lambda: pyarrow.parquet.ParquetFile(stream))
        names = _json_columns(file, table.schema_arrow)
        batches = table.iter_batches(batch_size=_PARQUET_BATCH, columns=names, use_threads=False)
        number = 0
        while (batch := checked(lambda: next(batches, None))) is not None:
            for fields in checked(batch.to_pylist):
                number += 1
                yield Record(number, _plain_fields(file, number, fields))


def _json_columns(file: RecordFile, schema: Any) -> list[str]:
    """The columns whose values JSON can hold; the others, such as pictures, are named in a note."""
    kept: list[str] = []
    others: list[str] = []
    for column in schema:
        (others if _has_binary(column.type) else kept).append(column.name)
    if others:
        names = one_line(", ".join(others[:5]))
        file.notes.append(
            f"{shown_path(file.path)}: columns left out, because they hold bytes: {names}"
        )
    return kept


def _has_binary(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):
        return _has_binary(kind.value_type)
    if types.is_nested(kind):
        return any(_has_binary(kind.field(i).type) for i in range(kind.num_fields))
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )
