"""Rows of a prompt set's source: read, shuffled, limited and divided into training and held-out ones."""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ida_tui.config.data import hub
from ida_tui.config.data.columns import ColumnRoles, find_roles, kind_of_file_name
from ida_tui.config.data.encoding import shown_path
from ida_tui.config.data.records import (
    COMPRESSED_SUFFIXES,
    DATA_SUFFIXES,
    YAML_SUFFIXES,
    Record,
    open_records,
)
from ida_tui.config.data.table import SPLITS, RowTable, TableBuilder, TextColumn
from ida_tui.errors import UsageError
from ida_tui.util.format import format_count
from ida_tui.util.paths import expand_home, is_file
from ida_tui.util.text import one_line, short_key

HUB_ID_PATTERN = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
HELD_OUT = SPLITS.index("held-out")
_SAMPLED_RECORDS = 100
"""Records whose columns are looked at."""
_DEFAULT_HELD_OUT_SPLIT = "test"


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """Everything that the rows of a prompt set depend on, besides the contents of its files."""

    source: str
    """A file, or the id of a Hugging Face dataset."""
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    """Role and column, as written in the profile."""
    limit: int | None = None
    shuffle: int | None = None
    """Seed of the order; None keeps the order of the source."""
    held_out_split: str | None = None
    held_out_source: str | None = None
    held_out_fraction: float | None = None
    held_out_seed: int = 0
    kind: str | None = None
    """Kind of all rows; None takes it from a column."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file that was read."""

    name: str
    """Its path, or the id of a dataset with subset, split and commit."""
    sha256: str
    """Digest of its bytes: 64 hexadecimal digits."""
    size: int
    """Bytes."""
    rows: int
    commit: str | None = None
    """Commit of a dataset."""


@dataclass(frozen=True, slots=True)
class LoadedSource:
    """The rows of a prompt set."""

    table: RowTable
    rows: array[int]
    """Positions of all rows, in order."""
    train: array[int]
    """Positions of the training rows, in order."""
    held_out: array[int]
    """Positions of the held-out rows without those whose text is trained on or repeated."""
    repeated_train: tuple[tuple[int, int], ...]
    """Training rows that repeat an earlier one, each with that one."""
    repeated_held_out: tuple[tuple[int, int], ...]
    """Held-out rows that are left out, each with the row that they repeat."""
    files: tuple[SourceFile, ...]
    columns: tuple[str, ...]
    """Names of the columns that every row of the first file has, without those of the conversation."""
    notes: tuple[str, ...]
    """What a person should know about how the data was read."""

    def digest(self) -> str:
        """Digest of the files, as `sha256:` and 64 hexadecimal digits."""
        if len(self.files) == 1:
            return f"sha256:{self.files[0].sha256}"
        parts = "".join(file.sha256 for file in self.files)
        return f"sha256:{hashlib.sha256(parts.encode()).hexdigest()}"


def is_hub_id(source: str) -> bool:
    """Whether a source names a Hugging Face dataset, not a file."""
    if source.lower().endswith((*DATA_SUFFIXES, *YAML_SUFFIXES, *COMPRESSED_SUFFIXES)):
        return False
    return HUB_ID_PATTERN.fullmatch(source) is not None and not is_file(expand_home(source))


def load_source(options: SourceOptions, *, download: bool) -> LoadedSource:
    """The rows of a prompt set; a source that has not changed is read once.

    Args:
        options: the source, and how it is read.
        download: whether a Hugging Face dataset may be downloaded; otherwise only a copy on this machine
            is read.

    Raises:
        UsageError: a source cannot be read, or a row cannot be used.
    """
    places = [_find(options.source, options.split, options, download)]
    second = options.held_out_source
    if second is not None:
        split = options.held_out_split or _DEFAULT_HELD_OUT_SPLIT
        places.append(_find(second, split, options, download))
    elif options.held_out_split is not None:
        if not is_hub_id(options.source):
            raise UsageError(
                "held_out_split selects a split of a Hugging Face dataset, but the source is a file",
                "name the other file with prompts.held_out_source, or a column with"
                " prompts.columns.split",
                where="prompts.held_out_split",
            )
        places.append(_find(options.source, options.held_out_split, options, download))
    state = tuple(_file_state(place.file) for place in places)
    return _load_cached(options, tuple(places), state)


@dataclass(frozen=True, slots=True)
class _Place:
    """One file of a prompt set."""

    file: Path
    label: str
    """Name for the reader."""
    made_ids: str
    """What the ids begin with that are made."""
    is_hub: bool
    commit: str | None = None
    note: str = ""


def _find(source: str, split: str | None, options: SourceOptions, download: bool) -> _Place:
    if not is_hub_id(source):
        if source == options.source and split is not None:
            raise UsageError(
                "split selects a split of a Hugging Face dataset, but the source is a file",
                "remove prompts.split, or name the column with prompts.columns.split",
                where="prompts.split",
            )
        path = expand_home(source)
        return _Place(path, shown_path(path), path.stem, False)
    is_main = source == options.source
    subset, revision = (options.subset, options.revision) if is_main else (None, None)
    copy = hub.find_copy(source, subset, split, revision, download=download)
    name = copy.label.partition("/")[2].replace(", ", "-")
    return _Place(copy.file, copy.label, name, True, copy.revision, copy.note)


def _file_state(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def empty_source() -> LoadedSource:
    """A source without rows, in place of one that cannot be read."""
    return LoadedSource(RowTable(), array("q"), array("q"), array("q"), (), (), (), (), ())


@lru_cache(maxsize=3)
def _load_cached(
    options: SourceOptions, places: tuple[_Place, ...], _state: tuple[tuple[int, int, int], ...]
) -> LoadedSource:
    notes: list[str] = []
    main, first_file, columns = _read(places[0], options, notes, options.limit)
    files = [first_file]
    rows = list(range(len(main)))
    if options.shuffle is not None:
        random.Random(options.shuffle).shuffle(rows)
        del rows[options.limit or len(rows) :]
    if options.held_out_fraction is not None:
        _hold_out_fraction(main, rows, options.held_out_fraction, options.held_out_seed)
    if len(places) > 1:
        place = places[1]
        if place.made_ids == places[0].made_ids:
            place = replace(place, made_ids=f"held-out-{place.made_ids}")
        held, second_file, _ = _read(place, options, notes, None)
        held.splits[:] = bytes([HELD_OUT]) * len(held)
        rows += range(len(main), len(main) + len(held))
        main.extend(_with_other_ids(main, held, notes))
        files.append(second_file)
    first: dict[int, int] = {}
    is_held_out = main.splits
    train = array("q", (row for row in rows if is_held_out[row] != HELD_OUT))
    _, repeated_train = _separate(main.identities, train, first)
    held_rows = (row for row in rows if is_held_out[row] == HELD_OUT)
    held_out, repeated_held_out = _separate(main.identities, held_rows, first)
    return LoadedSource(
        main,
        array("q", rows),
        train,
        held_out,
        tuple(repeated_train),
        tuple(repeated_held_out),
        tuple(files),
        columns,
        tuple(map(one_line, notes)),
    )


def _separate(
    identities: Sequence[int], rows: Iterator[int] | array[int], first: dict[int, int]
) -> tuple[array[int], list[tuple[int, int]]]:
    """The rows whose identity is new, and the others, each with the earlier row."""
    distinct, repeated = array("q"), []
    for row in rows:
        earlier = first.setdefault(identities[row], row)
        if earlier == row:
            distinct.append(row)
        else:
            repeated.append((row, earlier))
    return distinct, repeated


def _read(
    place: _Place,
    options: SourceOptions,
    notes: list[str],
    limit: int | None,
) -> tuple[RowTable, SourceFile, tuple[str, ...]]:
    file = open_records(place.file)
    chosen = dict(options.columns)
    records = iter(file)
    sample = list(itertools.islice(records, _SAMPLED_RECORDS))
    if not sample:
        raise UsageError(
            f"{place.label} has no rows",
            'add rows such as {"prompt": "How do I whisk an egg?"}, or check the path',
            where=place.label,
        )
    names = list(dict.fromkeys(name for record in sample for name in record.fields))
    roles = find_roles(names, chosen, place.label)
    builder = TableBuilder(
        file,
        roles,
        made_ids=place.made_ids,
        kind=options.kind or _jbb_kind(roles, place),
        chosen=chosen,
        skip_empty=place.is_hub,
    )
    kept: Iterator[Record] = itertools.chain(sample, records)
    if limit is not None and options.shuffle is None:
        kept = itertools.islice(kept, limit)
    table = builder.read(kept)
    if not len(table):
        raise UsageError(
            f"{place.label} has no row with a prompt", "check the column of the prompt",
            where=place.label,
        )  # fmt: skip
    notes.append(_columns_note(place.label, len(table), builder.roles, names))
    notes += [*filter(None, [place.note]), *file.notes, *builder.notes]
    name = place.label if place.is_hub else str(place.file)
    read = SourceFile(name, file.sha256, file.size, len(table), place.commit)
    return table, read, builder.shared_columns


def _jbb_kind(roles: ColumnRoles, place: _Place) -> str | None:
    return kind_of_file_name(place.label) if roles.is_jbb else None


def _columns_note(label: str, rows: int, roles: ColumnRoles, names: Sequence[str]) -> str:
    """Which columns were taken for what, such as `train.jsonl: 7,473 rows; prompt ← question`."""
    parts = [f"{label}: {format_count(rows, 'row')}"]
    if found := roles.describe():
        parts.append(f"{found} (by name)")
    used = set(roles.columns.values())
    if others := [short_key(name) for name in names if name not in used]:
        shown = ", ".join(others[:8]) + (", …" if len(others) > 8 else "")
        parts.append(f"other columns: {shown}")
    return "; ".join(parts)


def _hold_out_fraction(table: RowTable, rows: Sequence[int], fraction: float, seed: int) -> None:
    """Hold out a fraction of the rows, by a digest of their text.

    A text stays on its side when rows are added or moved, and texts that repeat each other are on the same
    side. At least one text is held out, and at least one is not.
    """
    train = [row for row in rows if table.splits[row] != HELD_OUT]
    ranks = {identity: _rank(identity, seed) for identity in {table.identities[i] for i in train}}
    if len(ranks) < 2:
        return
    chosen = {identity for identity, rank in ranks.items() if rank < fraction}
    if not chosen:
        chosen = {min(ranks, key=lambda identity: ranks[identity])}
    elif len(chosen) == len(ranks):
        chosen.remove(max(ranks, key=lambda identity: ranks[identity]))
    for row in train:
        if table.identities[row] in chosen:
            table.splits[row] = HELD_OUT


def _rank(identity: int, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed} {identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _with_other_ids(main: RowTable, held: RowTable, notes: list[str]) -> RowTable:
    """The held-out rows, with ids of their own if some are those of training rows."""
    known = {main.ids[row] for row in range(len(main))}
    if known.isdisjoint(held.ids[row] for row in range(len(held))):
        return held
    notes.append(
        'the ids of the held-out rows begin with "held-out:", because training rows have them too'
    )
    ids = TextColumn()
    for row in range(len(held)):
        ids.append(f"held-out:{held.ids[row]}")
    return replace(held, ids=ids)
