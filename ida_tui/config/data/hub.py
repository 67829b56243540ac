"""Copies of Hugging Face datasets on this machine, one Parquet file for each subset and split.

The library `datasets` downloads a dataset; its loading scripts are not run. A copy is read without it, and
without the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ida_tui.errors import UsageError
from ida_tui.util.network_errors import explain_network_error
from ida_tui.util.paths import cache_folder
from ida_tui.util.safe_files import read_bytes, write_text
from ida_tui.util.text import one_line, quoted

_MAX_INDEX_BYTES = 100_000
_MAX_NAME = 200
_TIMEOUT_SECONDS = 20
_NOT_REACHED = "could not reach the Hugging Face Hub"


@dataclass(frozen=True, slots=True)
class DatasetCopy:
    """One split of a dataset on this machine."""

    file: Path
    """A Parquet file."""
    label: str
    """Name for the reader: `org/dataset, subset, split`."""
    revision: str
    """Commit of the dataset."""
    note: str = ""
    """Why it may not be the newest version; empty if it is."""


def find_copy(
    dataset: str, subset: str | None, split: str | None, revision: str | None, *, download: bool
) -> DatasetCopy:
    """The copy of a split of a dataset.

    Args:
        dataset: the id, such as `openai/gsm8k`.
        subset: name of the subset; None if there is only one.
        split: name of the split; None is `train`, or the only one.
        revision: branch, tag or commit; None is the default branch.
        download: whether the dataset may be downloaded; otherwise the copy must be on this machine.

    Raises:
        UsageError: there is no such dataset, subset or split, or no copy and no permission to download.
    """
    folder = copies_folder()
    index = folder / _index_name(dataset, subset, split, revision)
    copy = _known_copy(index)
    if copy is not None and (not download or copy.revision == revision):
        return copy
    if not download:
        raise UsageError(
            f"the dataset {quoted(dataset)} is not on this machine",
            f"a run downloads it, and so does --check if you type prompts={one_line(dataset)}"
            f"\nif it is a file: there is no file {quoted(dataset)}",
            where="prompts.source",
        )
    try:
        commit = _find_commit(dataset, revision)
    except UsageError as error:
        if copy is not None and error.title.startswith(_NOT_REACHED):
            note = f"{copy.label}: the Hub cannot be reached, so the copy of {copy.revision[:12]} is used"
            return replace(copy, note=note)
        raise
    pinned = folder / _index_name(dataset, subset, split, commit)
    try:
        copy = _known_copy(pinned) or _download(dataset, subset, split, commit, pinned)
        # What is read without the network by this revision, from now on.
        _write_index(index, copy)
    except OSError as error:
        raise UsageError(
            f"could not keep a copy of {quoted(dataset)} in {folder}: {error.strerror or error}",
            "make room there, or choose another folder with IDA_TUI_CACHE_DIR",
        ) from None
    return copy


def copies_folder() -> Path:
    """The folder of the copies."""
    return cache_folder() / "datasets"


def _index_name(*parts: str | None) -> str:
    """Name of the file that says where the copy of a dataset, subset, split and revision is."""
    name = ",".join(urllib.parse.quote(part or "", safe="") for part in parts)
    if len(name) > _MAX_NAME:
        name = hashlib.sha256(name.encode()).hexdigest()
    return f"{name}.json"


def _write_index(index: Path, copy: DatasetCopy) -> None:
    entry = {"file": copy.file.name, "label": copy.label, "revision": copy.revision}
    write_text(index, json.dumps(entry) + "\n")


def _known_copy(index: Path) -> DatasetCopy | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        entry = json.loads(read_bytes(index, _MAX_INDEX_BYTES))
        file = index.parent / Path(entry["file"]).name
        if file.is_file():
            return DatasetCopy(file, str(entry["label"]), str(entry["revision"]))
    return None


def _find_commit(dataset: str, revision: str | None) -> str:
    """The commit that a revision of a dataset names."""
    from huggingface_hub import HfApi

    api = HfApi()
    info = _guarded(
        dataset, lambda: api.dataset_info(dataset, revision=revision, timeout=_TIMEOUT_SECONDS)
    )
    if not re.fullmatch(r"[0-9a-f]{40}", info.sha or ""):
        raise _hub_error(dataset, ValueError("it has no commit"))
    return str(info.sha)


def _download(
    dataset: str, subset: str | None, split: str | None, commit: str, index: Path
) -> DatasetCopy:
    with _quiet_datasets() as datasets:
        subsets = _guarded(
            dataset, lambda: datasets.get_dataset_config_names(dataset, revision=commit)
        )
        subset = _choose(dataset, "subset", subset, subsets)
        splits = _guarded(
            dataset, lambda: datasets.get_dataset_split_names(dataset, subset, revision=commit)
        )
        wanted = split or ("train" if "train" in splits else None)
        split = _choose(dataset, "split", wanted, splits)
        rows = _guarded(
            dataset, lambda: datasets.load_dataset(dataset, subset, split=split, revision=commit)
        )
        folder = index.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = index.with_suffix(".parquet")
        temporary = folder / f".{file.name}-{os.getpid()}"
        try:
            _guarded(dataset, lambda: _without_media(datasets, rows).to_parquet(str(temporary)))
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    label = ", ".join(filter(None, [dataset, subset if subset != "default" else None, split]))
    copy = DatasetCopy(file, label, commit)
    _write_index(index, copy)
    return copy


def _choose(dataset: str, key: str, wanted: str | None, names: list[str]) -> str:
    if wanted in names:
        return str(wanted)
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None and key == "subset" and "default" in names:
        return "default"
    shown = one_line(", ".join(names[:20])) + (", …" if len(names) > 20 else "")
    problem = f"has no {key} {quoted(wanted)}" if wanted else f"has several {key}s"
    raise UsageError(
        f"the dataset {quoted(dataset)} {problem}: {shown}",
        f"choose one, such as prompts.{key}={one_line(names[0]) if names else 'NAME'}",
        where=f"prompts.{key}",
    )


def _without_media(datasets: Any, rows: Any) -> Any:
    """The rows without columns of pictures and sounds, and with the names of class labels."""
    media = [
        name
        for name, feature in rows.features.items()
        if type(feature).__name__ in ("Image", "Audio", "Video", "Pdf", "Nifti")
    ]
    rows = rows.remove_columns(media)
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.ClassLabel):
            features = rows.features.copy()
            features[name] = datasets.Value("string")
            rows = rows.map(
                lambda row, name=name, feature=feature: {
                    name: None if row[name] is None or row[name] < 0 else feature.int2str(row[name])
                },
                features=features,
            )
    return rows


def _guarded(dataset: str, call: Any) -> Any:
    """What a call of `datasets` returns.

    Raises:
        UsageError: it failed, whatever the exception of the library.
    """
    try:
        return call()
    except Exception as error:
        raise _hub_error(dataset, error) from None


def _hub_error(dataset: str, error: Exception) -> UsageError:
    text = one_line(" ".join(str(error).split()))[:200] or type(error).__name__
    name = type(error).__name__
    if name == "RevisionNotFoundError":
        return UsageError(
            f"the dataset {quoted(dataset)} has no such revision",
            "write a branch, a tag or a commit of it, or remove prompts.revision",
            where="prompts.revision",
        )
    if name in ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError"):
        return UsageError(
            f"there is no dataset {quoted(dataset)} on the Hugging Face Hub that you may read, and no file",
            "check the id, which is org/name; for a gated one, accept its terms there and run: hf auth login",
            where="prompts.source",
        )
    if isinstance(error, OSError) or explain_network_error(error) or "connect" in text.lower():
        return UsageError(
            f"{_NOT_REACHED} for {quoted(dataset)}: {text}",
            "check the network connection, then run the command again: a dataset that was read once needs"
            " no network;\nor use a file: prompts=FILE.jsonl",
            where="prompts.source",
        )
    if "script" in text.lower():
        return UsageError(
            f"the dataset {quoted(dataset)} is a loading script, and its code is not run",
            "use its Parquet version (prompts.revision=refs/convert/parquet), or a file",
            where="prompts.source",
        )
    return UsageError(
        f"the dataset {quoted(dataset)} cannot be read: {text}",
        "look at its files on the Hub, or use a file: prompts=FILE.jsonl",
        where="prompts.source",
    )


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[Any]:
    """The library `datasets` without progress bars."""
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        if shown:
            datasets.enable_progress_bars()
