"""Prompt sets: prompts in a profile, or rows of a data file or of a Hugging Face dataset.

The rows of a source are read when they are first asked for, and a `Prompt` is made of a row on access.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal, overload

from pydantic import Field, JsonValue, PrivateAttr, SerializerFunctionWrapHandler, model_serializer

from ida_tui.config.data.source import LoadedSource, SourceOptions, empty_source, load_source
from ida_tui.config.data.table import RowTable
from ida_tui.config.prompt_text import separate_repeated
from ida_tui.config.section import Count, PositiveInt, Section
from ida_tui.errors import UsageError

PromptKind = Literal["harmless", "unsafe"]
Split = Literal["train", "held-out"]


class Message(Section):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Who wrote it."""
    content: str
    """Its text."""


class Prompt(Section):
    """One user request for the model to answer, with the conversation before it."""

    id: Annotated[str, Field(min_length=1)]
    """Unique within the prompt set."""
    kind: PromptKind | None = None
    """The model should answer `harmless` requests, and decline `unsafe` ones with a safe alternative; null
    says nothing about refusals."""
    split: Split = "train"
    """`train` prompts are used for training; `held-out` prompts only for evaluation."""
    text: Annotated[str, Field(min_length=1)]
    """Text of the user's last message, which the model answers."""
    system: str | None = None
    """System prompt; null uses that of the prompt set, and an empty text is none."""
    history: list[Message] = Field(default_factory=list)
    """Earlier messages of the conversation, oldest first."""
    tags: list[str] = Field(default_factory=list)
    """Words that group the figures."""
    columns: dict[str, JsonValue] = Field(default_factory=dict)
    """Further columns of the row, such as `answer`; reward functions and the rubric get them by name."""

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what few prompts have: a set can have thousands of prompts."""
        fields: dict[str, object] = handler(self)
        for name in ("system", "history", "tags", "columns"):
            if not fields[name] and fields[name] != "":
                del fields[name]
        return fields


class PromptColumns(Section):
    """Columns of a source by their meaning; a name that is null is looked for, an empty one is none."""

    prompt: str | None = None
    """The user's message: a text, or a list of messages."""
    messages: str | None = None
    """A conversation: a list of messages up to the one that the model answers."""
    system: str | None = None
    """The system prompt of a row."""
    history: str | None = None
    """The messages before the prompt."""
    id: str | None = None
    """Unique ids; made from the rows where there are none."""
    kind: str | None = None
    """harmless, safe or benign; or unsafe, harmful or toxic."""
    split: str | None = None
    """train; or held-out, test or validation."""
    tags: str | None = None
    """Words that group the figures: a list, or a text with commas."""

    def chosen(self) -> dict[str, str]:
        """Meaning → column, for those that are written."""
        return {name: column for name, column in self if column is not None}


class _Loaded:
    """The rows of a source, once they are read; not a part of the value of a prompt set."""

    def __init__(self) -> None:
        self.options: SourceOptions | None = None
        self.source: LoadedSource | None = None
        self.problem = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Loaded)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: object) -> _Loaded:
        return self

    def __reduce__(self) -> tuple[type[_Loaded], tuple[()]]:
        return _Loaded, ()


class PromptSet(Section):
    """The training and held-out prompts of an experiment: a list, or the rows of a source."""

    name: str = ""
    """The profile's name."""
    description: str = ""
    """One-line summary shown in lists."""
    version: Count = 1
    """Version number; increase it when the texts change."""
    system: str | None = None
    """System prompt of all prompts that have none of their own."""
    only: list[str] | None = None
    """Train only on these prompt ids; null trains on all. Held-out prompts are not affected."""
    prompts: list[Prompt] = Field(default_factory=list)
    """List of prompts; or use `source`."""
    source: str | None = Field(None, exclude_if=lambda value: value is None)
    """A .jsonl, .json, .csv, .tsv, .parquet or .yaml file, or the id of a Hugging Face dataset."""
    subset: str | None = Field(None, exclude_if=lambda value: value is None)
    """Subset of a Hugging Face dataset."""
    split: str | None = Field(None, exclude_if=lambda value: value is None)
    """Split of a Hugging Face dataset to train on; null is `train`."""
    revision: str | None = Field(None, exclude_if=lambda value: value is None)
    """Branch, tag or commit of a Hugging Face dataset."""
    columns: PromptColumns = Field(
        PromptColumns(), exclude_if=lambda value: value == PromptColumns()
    )
    """Columns of the source by their meaning."""
    limit: PositiveInt | None = Field(None, exclude_if=lambda value: value is None)
    """Use only this many rows of the source, the first ones after the shuffle."""
    shuffle: bool | Count = Field(False, exclude_if=lambda value: value is False)
    """Shuffle the rows of the source; a number is the seed."""
    held_out_split: str | None = Field(None, exclude_if=lambda value: value is None)
    """Split of a Hugging Face dataset whose rows are held out."""
    held_out_source: str | None = Field(None, exclude_if=lambda value: value is None)
    """Another file or dataset whose rows are held out."""
    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, exclude_if=lambda value: value is None
    )
    """Fraction of the rows that is held out, chosen by their text."""
    held_out_seed: Count = Field(0, exclude_if=lambda value: value == 0)
    """Seed of that choice."""
    digest: str | None = Field(None, exclude_if=lambda value: value is None)
    """Digest of the source; a run that finds another one says so."""

    _loaded: _Loaded = PrivateAttr(default_factory=_Loaded)

    def load(self, *, download: bool = False, kind: PromptKind | None = None) -> LoadedSource:
        """Read the source, or return it if it has been read.

        Args:
            download: whether a Hugging Face dataset may be downloaded.
            kind: the kind of all rows; None takes it from a column.

        Raises:
            UsageError: the source cannot be read, or a row cannot be used.
        """
        options = self._options(kind)
        loaded = self._loaded
        if loaded.source is None or loaded.options != options:
            loaded.source = load_source(options, download=download)
            loaded.options, loaded.problem = options, ""
        return loaded.source

    def _options(self, kind: PromptKind | None) -> SourceOptions:
        assert self.source is not None
        return SourceOptions(
            source=self.source,
            subset=self.subset,
            split=self.split,
            revision=self.revision,
            columns=tuple(self.columns.chosen().items()),
            limit=self.limit,
            shuffle=None if self.shuffle is False else int(self.shuffle),
            held_out_split=self.held_out_split,
            held_out_source=self.held_out_source,
            held_out_fraction=self.held_out_fraction,
            held_out_seed=self.held_out_seed,
            kind=kind,
        )

    def rows(self) -> Sequence[Prompt]:
        """All prompts, in order; none if the source cannot be read, for which `problem` gives the reason."""
        if self.source is None:
            return self.prompts
        source = self._read()
        return PromptRows(source.table, source.rows)

    @property
    def problem(self) -> str:
        """Why the rows of the source cannot be read; empty if they can, or if there is no source."""
        if self.source is not None:
            self._read()
        return self._loaded.problem

    def source_notes(self) -> Sequence[str]:
        """How the source was read: its columns, encoding and what was left out."""
        return () if self.source is None else self._read().notes

    def _read(self) -> LoadedSource:
        """The rows that were read before; otherwise the source is read now, without downloading it."""
        loaded = self._loaded
        if loaded.source is None:
            try:
                return self.load()
            except UsageError as error:
                loaded.source, loaded.problem = empty_source(), error.title
        return loaded.source

    def train(self) -> Sequence[Prompt]:
        """The training prompts, in order."""
        if self.source is None:
            train: Sequence[Prompt] = [p for p in self.prompts if p.split == "train"]
        else:
            source = self._read()
            train = PromptRows(source.table, source.train)
        if self.only is None:
            return train
        only = set(self.only)
        return [p for p in train if p.id in only]

    def trained_on(self) -> object:
        """A value that is equal for prompt sets with the same training prompts; reads no source."""
        if self.source is None:
            return self.train()
        return self.digest, replace(self._options(None), source="", held_out_source=None), self.only

    def column_names(self) -> list[str]:
        """Names of the further columns that all training prompts have, in order."""
        if self.source is not None:
            return list(self._read().columns)
        rows = self.train()
        shared = set.intersection(*(set(row.columns) for row in rows)) if rows else set()
        return [name for name in (rows[0].columns if rows else ()) if name in shared]

    def held_out(self) -> Sequence[Prompt]:
        """The held-out prompts, in order, without those whose text is trained on or repeated."""
        if self.source is None or self.only is not None:
            return self._separate_held_out()[0]
        source = self._read()
        return PromptRows(source.table, source.held_out)

    def repeated_held_out(self) -> Sequence[tuple[Prompt, Prompt]]:
        """The held-out prompts that are left out, each with the prompt of the same text."""
        if self.source is None or self.only is not None:
            return self._separate_held_out()[1]
        source = self._read()
        return _PromptPairs(source.table, source.repeated_held_out)

    def repeated_training(self) -> Sequence[tuple[Prompt, Prompt]]:
        """The training prompts that repeat an earlier one, each with that one."""
        if self.source is None or self.only is not None:
            return separate_repeated(self.train())[1]
        source = self._read()
        return _PromptPairs(source.table, source.repeated_train)

    def _separate_held_out(self) -> tuple[list[Prompt], list[tuple[Prompt, Prompt]]]:
        held_out = [p for p in self.rows() if p.split == "held-out"]
        return separate_repeated(held_out, self.train())


SOURCE_KEYS = (
    "subset", "split", "revision", "columns", "limit", "shuffle", "held_out_split", "held_out_source",
    "held_out_fraction", "held_out_seed", "digest",
)  # fmt: skip
"""Keys of a prompt set that say how its source is read."""


class PromptRows(Sequence[Prompt]):
    """Prompts of a source at some positions; each is made when it is asked for."""

    def __init__(self, table: RowTable, indices: array[int]) -> None:
        self._table = table
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, position: int) -> Prompt: ...

    @overload
    def __getitem__(self, position: slice) -> PromptRows: ...

    def __getitem__(self, position: int | slice) -> Prompt | PromptRows:
        if isinstance(position, slice):
            return PromptRows(self._table, self._indices[position])
        return _make_prompt(self._table, self._indices[position])

    def __iter__(self) -> Iterator[Prompt]:
        return (_make_prompt(self._table, row) for row in self._indices)

    def texts(self) -> Iterator[str]:
        """The texts alone, without making prompts."""
        texts = self._table.texts
        return (texts[row] for row in self._indices)

    def longest_characters(self, default_system: str) -> int:
        """Characters of the longest prompt with its context; 0 without prompts."""
        table = self._table
        return max((table.characters(row, default_system) for row in self._indices), default=0)


class _PromptPairs(Sequence[tuple[Prompt, Prompt]]):
    """Pairs of prompts of a source."""

    def __init__(self, table: RowTable, pairs: Sequence[tuple[int, int]]) -> None:
        self._table = table
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    @overload
    def __getitem__(self, position: int) -> tuple[Prompt, Prompt]: ...

    @overload
    def __getitem__(self, position: slice) -> _PromptPairs: ...

    def __getitem__(self, position: int | slice) -> tuple[Prompt, Prompt] | _PromptPairs:
        if isinstance(position, slice):
            return _PromptPairs(self._table, self._pairs[position])
        first, second = self._pairs[position]
        return _make_prompt(self._table, first), _make_prompt(self._table, second)


def texts_of(prompts: Sequence[Prompt]) -> Iterator[str]:
    """The texts of prompts, in order."""
    if isinstance(prompts, PromptRows):
        return prompts.texts()
    return (prompt.text for prompt in prompts)


def _make_prompt(table: RowTable, row: int) -> Prompt:
    # The row was checked when it was read.
    fields = table.row(row)
    fields["history"] = [Message.model_construct(**turn) for turn in fields["history"]]
    return Prompt.model_construct(**fields)
