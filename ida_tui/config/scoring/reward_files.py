"""References to reward functions, and rubrics made of the functions of a Python file; no code is run."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ida_tui.config.scoring.axes import MAX_AXES
from ida_tui.config.scoring.rubric import RubricConfig
from ida_tui.errors import UsageError
from ida_tui.util.paths import display_path, expand_home, is_file
from ida_tui.util.safe_files import read_bytes
from ida_tui.util.text import one_line, quoted

BUILT_IN_PARAMETERS = (
    "prompts", "prompt", "completions", "completion", "completion_ids", "trainer_state", "log_extra",
    "log_metric", "prompt_id",
)  # fmt: skip
"""Parameters that every function can have; all others are columns of the data."""
COMPLETION_PARAMETERS = frozenset(("completion", "completions", "completion_ids"))
"""A function that takes one of these computes scores."""
MAX_FILE_BYTES = 2_000_000
MAX_FILES = 50
"""Largest number of files whose contents count as those of a reward."""
REFERENCE_HINT = "write FILE.py:NAME, PACKAGE.MODULE:NAME, or the name of an installed entry point"


@dataclass(frozen=True, slots=True)
class FunctionReference:
    """Where a reward function is."""

    kind: Literal["file", "module", "entry point"]
    name: str
    """Name of the function, or of the entry point."""
    file: Path | None = None
    module: str = ""


def is_function_key(key: str) -> bool:
    """Whether a dotted key of an experiment names a reward function."""
    return key.startswith("rubric.axes.") and key.endswith(".function")


def parse_reference(text: str) -> FunctionReference:
    """Parse `file.py:name`, `package.module:name` or the name of an entry point.

    Raises:
        UsageError: the text is none of them.
    """
    place, colon, name = text.rpartition(":")
    if not colon:
        if text.endswith(".py"):
            raise UsageError(f"{quoted(text)} names no function", f"write {one_line(text)}:NAME")
        return FunctionReference("entry point", text)
    if not name.isidentifier():
        raise UsageError(f"{quoted(text)} is not a reference to a function", REFERENCE_HINT)
    if place.endswith(".py"):
        return FunctionReference("file", name, file=expand_home(place))
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"{quoted(text)} is not a reference to a function", REFERENCE_HINT)
    return FunctionReference("module", name, module=place)


def display_reference(reference: str) -> str:
    """A reference as printed: its path relative to the working directory if that is shorter."""
    place, colon, function = reference.rpartition(":")
    shown = display_path(Path(place)) if place.endswith(".py") else place
    return one_line(f"{shown}{colon}{function}")


def named_functions(rubric: RubricConfig) -> list[tuple[str, list[str]]]:
    """The functions of a rubric as printed, each with the names of the axes that it computes."""
    axes: dict[str, list[str]] = {}
    for name, axis in rubric.computed_axes.items():
        label = display_reference(axis.function)
        if axis.options:
            label += " with " + one_line(json.dumps(axis.options, ensure_ascii=False))
        axes.setdefault(label, []).append(name)
    return list(axes.items())


def functions_label(rubric: RubricConfig) -> str:
    """The files or modules of a rubric's functions, without their folders: `reward functions rewards.py`."""
    places = (axis.function.rpartition(":")[0] for axis in rubric.computed_axes.values())
    names = dict.fromkeys(one_line(Path(place).name) for place in places)
    return f"reward functions {', '.join(filter(None, names))}".rstrip()


def function_names(file: Path) -> list[str]:
    """The reward functions that a Python file defines, in order: those that take `COMPLETION_PARAMETERS`.

    Raises:
        UsageError: the file cannot be read, or is not valid Python.
    """
    return [function.name for function in _functions(file)]


def defined_names(file: Path) -> list[str]:
    """The names that the top level of a Python file defines or imports, in order.

    Raises:
        UsageError: the file cannot be read, or is not valid Python.
    """
    names: list[str] = []
    for node in _parse(file).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    return names


def required_parameters(file: Path, name: str) -> list[str]:
    """The parameters without a default of a function; empty if it is decorated or not a plain function.

    Raises:
        UsageError: the file cannot be read, or is not valid Python.
    """
    for node in _functions(file):
        if node.name == name and not node.decorator_list:
            arguments = [*node.args.posonlyargs, *node.args.args]
            required = arguments[: len(arguments) - len(node.args.defaults)]
            keywords = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return [a.arg for a in (*required, *(a for a, default in keywords if default is None))]
    return []


def locate_file(path: str, naming_file: Path | None) -> Path:
    """A reward file: relative to the folder of the file that names it, then to the working directory.

    Args:
        path: the path as written.
        naming_file: the profile that names it; None for the command line.
    """
    file = expand_home(path)
    if naming_file is not None and is_file(beside := naming_file.parent / file):
        file = beside
    return file.absolute()


def rubric_of_file(text: str, naming_file: Path | None = None) -> dict[str, object]:
    """The rubric for `rewards.py` or `rewards.py:accuracy,brevity`: one computed axis per function.

    Args:
        text: the file and, after a colon, some of its functions.
        naming_file: as in `locate_file`.

    Raises:
        UsageError: the file cannot be read, or has no such function.
    """
    place, _, wanted = text.partition(".py:")
    path = f"{place}.py" if wanted else text
    file = locate_file(path, naming_file)
    names = function_names(file)
    if not names and not wanted:
        raise UsageError(
            f"{display_path(file)} defines no reward function",
            "define f(prompt, completion, **columns), or as TRL does: "
            "f(prompts, completions, completion_ids, **columns)",
        )
    chosen = [name.strip() for name in wanted.split(",")] if wanted else names
    for name in chosen:
        if name not in names and name not in defined_names(file):
            raise UsageError(
                f"{display_path(file)} has no reward function {quoted(name)}",
                f"its reward functions: {', '.join(names)}",
            )
    if len(chosen) > MAX_AXES:
        raise UsageError(
            f"{display_path(file)} defines {len(chosen)} reward functions; a rubric has at most"
            f" {MAX_AXES} axes",
            f"name those to use: rubric={one_line(path)}:{','.join(chosen[:2])}",
        )
    axes = {_axis_name(name): {"function": f"{file}:{name}"} for name in chosen}
    return {"name": file.stem, "axes": axes}


def file_digest(file: Path) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a file; empty if it cannot be read."""
    try:
        return hashlib.sha256(read_bytes(file.resolve(), MAX_FILE_BYTES)).hexdigest()[:12]
    except (OSError, ValueError):
        return ""


def _axis_name(function: str) -> str:
    """The name of the axis of a function: without `_reward` or `reward_`, at most 24 characters."""
    short = function.removesuffix("_reward").removesuffix("_func").removeprefix("reward_")
    short = short.strip("_")[:24].rstrip("_")
    return (
        short
        if short and short not in ("reward", "reason", "cost")
        else f"{function.strip('_')[:22]}_f"
    )


def _parse(file: Path) -> ast.Module:
    try:
        return ast.parse(read_bytes(file.resolve(), MAX_FILE_BYTES))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f"{display_path(file)}:{line}" if line else display_path(file)
        raise UsageError(
            f"not valid Python: {getattr(error, 'msg', None) or error}",
            "correct the file",
            where=where,
        ) from None
    except OSError as error:
        raise UsageError(
            f"could not read {display_path(file)}: {error.strerror or error}",
            "check the name of the file",
        ) from None


def _functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in _parse(file).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
            "_"
        ):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if {argument.arg for argument in arguments} & COMPLETION_PARAMETERS:
                yield node


def reward_files(rubric: RubricConfig) -> list[Path]:
    """The Python files of a rubric's functions, each followed by the files beside it that it imports."""
    found: dict[Path, None] = {}
    for axis in rubric.computed_axes.values():
        file = parse_reference(axis.function).file
        if file is not None:
            _add_with_imports(file, found)
    return list(found)


def file_digests(rubric: RubricConfig) -> dict[str, str]:
    """The digest of each file of a rubric's functions, by its path."""
    return {str(file): file_digest(file) for file in reward_files(rubric)}


def _add_with_imports(file: Path, found: dict[Path, None]) -> None:
    if file in found or len(found) >= MAX_FILES:
        return
    found[file] = None
    try:
        nodes = list(ast.walk(_parse(file)))
    except UsageError:
        return
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            beside = file.parent / f"{name.partition('.')[0]}.py"
            if is_file(beside):
                _add_with_imports(beside, found)
