"""Error messages for bad input: what is wrong, where, and the fix, without a traceback or a run directory."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ida_tui.cli.arguments import check_override_keys
from ida_tui.config.trust.consent import CONSENT_KEYS
from ida_tui.errors import UsageError


@dataclass(frozen=True)
class BadInput:
    """Bad input, and what the error must name."""

    arguments: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()
    code: int = 2


RUBRIC_WITHOUT_TEN = """\
task: judge
axes:
  align: {zero: ignores it, ten: serves it}
  risk: {zero: harmful}
"""

CASES = {
    "unknown key": BadInput(
        ("mine.yaml",),
        ("mine.yaml:3", "learning_rat", "learning_rate"),
        (("mine.yaml", "extends: quickstart\ntraining:\n  learning_rat: 1e-4\n"),),
    ),
    "wrong type": BadInput(
        ("mine.yaml",),
        ("mine.yaml:2", "seed", "number"),
        (("mine.yaml", "extends: quickstart\nseed: [1, 2]\n"),),
    ),
    "bad YAML": BadInput(
        ("mine.yaml",),
        ("mine.yaml:3",),
        (("mine.yaml", "extends: quickstart\ntraining:\n  max_steps: [1\nseed: 3\n"),),
    ),
    "missing prompt file": BadInput(
        ("mine.yaml",),
        ("mine.yaml:2", "prompts", "nowhere.yaml"),
        (("mine.yaml", "extends: quickstart\nprompts: nowhere.yaml\n"),),
    ),
    "unknown profile": BadInput(("quikstart",), ("quikstart", "quickstart", "--list")),
    "generations 3 with batch 4": BadInput(
        (
            "quickstart",
            "training.num_generations=3",
            "training.per_device_train_batch_size=4",
            "training.gradient_accumulation_steps=1",
        ),
        ("command line", "num_generations", "multiple"),
    ),
    "lr fast": BadInput(
        ("quickstart", "training.learning_rate=fast"),
        ("command line", "training.learning_rate", "fast", "1e-"),
    ),
    "negative steps": BadInput(
        ("quickstart", "training.max_steps=-3"), ("command line", "training.max_steps", "-3")
    ),
    "unreadable model path": BadInput(
        ("quickstart", "model.path=/nowhere/model"), ("/nowhere/model", "model.path")
    ),
    "absent device": BadInput(("quickstart", "device=cuda"), ("cuda", "device=cpu"), code=5),
    "empty prompts": BadInput(
        ("mine.yaml",),
        ("empty.yaml", "prompts"),
        (
            ("mine.yaml", "extends: quickstart\nprompts: empty.yaml\n"),
            ("empty.yaml", "description: none\nprompts: []\n"),
        ),
    ),
    "range of a computed axis is a number": BadInput(
        ("mine.yaml",),
        ("rubric.yaml:", "words.range"),
        (
            ("mine.yaml", "extends: quickstart\nrubric: rubric.yaml\n"),
            ("rubric.yaml", "task: judge\naxes:\n  words: {function: f.py:g, range: 7}\n"),
        ),
    ),
    "meaning of a rubric axis missing": BadInput(
        ("mine.yaml",),
        ("rubric.yaml:", "risk", "ten"),
        (
            ("mine.yaml", "extends: quickstart\nrubric: rubric.yaml\n"),
            ("rubric.yaml", RUBRIC_WITHOUT_TEN),
        ),
    ),
    "no key": BadInput(
        ("quickstart", "judge=gpt-4o-mini"), ("OPENAI_API_KEY", "export", ".env"), code=3
    ),
    "file of another kind": BadInput(
        ("mine.yaml",), ("mine.yaml",), (("mine.yaml", "\x00\x01\x02 not yaml"),)
    ),
    "two commands": BadInput(("quickstart", "--check", "quickstart"), ("--run", "--check")),
    "not an override": BadInput(("quickstart", "fast"), ("fast", "key=value")),
}


for key, value in {
    "training.epsilon": "1e308",
    "training.weight_decay": "1e308",
    "training.adam_epsilon": "5e-324",
    "training.temperature": "5e-324",
    "training.top_k": "1000000000000000000000",
    "judge.timeout_s": "1e300",
    "lora.r": "1000000000000000000000",
    "output_dir": '"a\\0b"',
    "model.revision": '"\\ud800"',
}.items():
    CASES[f"{key}={value}"] = BadInput(("quickstart", f"{key}={value}"), (f"command line: {key}",))


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES.keys())
def test_bad_input_gets_one_clear_error_and_creates_nothing(bad: BadInput, ida_tui: Any) -> None:
    for name, text in bad.files:
        Path(name).write_text(text)

    result = ida_tui("--run", *bad.arguments)

    assert result.code == bad.code, result.err
    assert len(result.err.splitlines()) <= 6, result.err
    assert result.err.startswith("error: ")
    assert "fix:" in result.err
    assert "Traceback" not in result.err
    for name in bad.names:
        assert name in result.err, f"{name!r} is not in:\n{result.err}"
    assert not Path("outputs").exists()


def test_a_missing_key_is_reported_before_torch_is_imported(ida_tui_unprepared: Any) -> None:
    result = ida_tui_unprepared(
        "--run", "dev-mps", "judge=gpt-4o-mini", PYTHONPROFILEIMPORTTIME="1"
    )

    assert result.code == 3
    # Python indents nested imports.
    imported = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "ida_tui.judge.api_key" in imported
    assert not imported & {"torch", "transformers", "trl", "openai"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--run", ""),
        ("--check", ""),
        ("--list", ""),
        ("attach", ""),
        ("runs", ""),
        ("compare", "a", ""),
        ("evaluate", "a", "--prompts", ""),
        ("report", "a", "--output", ""),
        ("export", "a", "--merged", "--output", ""),
    ],
)
def test_an_empty_argument_is_an_error_and_not_an_absent_one(
    arguments: tuple[str, ...], ida_tui_here: Any
) -> None:
    result = ida_tui_here(*arguments)
    assert result.code == 2, result.out
    assert "is empty" in result.err
    assert "fix:" in result.err


def test_an_experiment_without_runs_is_an_error(ida_tui_here: Any) -> None:
    result = ida_tui_here("runs", "nope")
    assert result.code == 2
    assert 'there is no run of an experiment named "nope"' in result.err


def test_a_file_that_cannot_be_written_is_reported_before_the_measurement(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ida_tui.engine.bench import compare

    monkeypatch.setattr(compare, "compare_trainers", lambda *_, **__: pytest.fail("measured"))
    result = ida_tui_here("bench", "--json", "/nope/x")
    assert result.code == 2
    assert "cannot write to /nope/x" in result.err


def test_a_removed_working_folder_is_named(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for arguments in (("--run", "quickstart"), ("doctor",), ("runs",), ()):
        result = ida_tui_here(*arguments)
        assert result.code == 2
        assert "the working folder no longer exists" in result.err
    monkeypatch.chdir(tmp_path)


def test_a_sink_that_is_not_installed_is_refused_before_the_run(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ida_tui.config import checks

    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    result = ida_tui_here("--run", "quickstart", "report_to=[trackio]")

    assert result.code == 2
    assert "report_to lists trackio, which is not installed" in result.err
    assert "uv sync --extra trackio" in result.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (ConnectionRefusedError(111, "Connection refused"), 1, "a network request failed: "),
        (OSError(28, "No space left on device", "/data/x"), 1, "the disk is full (/data/x)"),
        (PermissionError(13, "Permission denied", "/data/x"), 1, "permission denied (/data/x)"),
        (OSError(40, "Too many levels of symbolic links", "/data/x"), 1, "too many levels"),
        (sqlite3.OperationalError("disk I/O error"), 1, "disk I/O error"),
        (MemoryError(), 4, "out of memory"),
    ],
    ids=["socket", "full disk", "permission", "links", "database", "memory"],
)
def test_a_failure_of_the_machine_is_one_error_in_every_command(
    ida_tui_here: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
    expected: str,
) -> None:
    from ida_tui.cli import commands

    def fail(options: Any) -> None:
        raise error

    for name in commands.COMMANDS:
        monkeypatch.setattr(commands.load_command(name), "run", fail)
    for arguments in (("report", "x"), ("cache", "show"), ("runs",), ("chat", "x")):
        result = ida_tui_here(*arguments)
        assert (result.code, result.out) == (code, "")
        assert expected in result.err
        assert result.err.startswith("error: ")
        assert len(result.err.splitlines()) <= 4


def test_a_defect_is_not_reported_as_a_failure_of_the_machine(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ida_tui.cli import commands

    def fail(options: Any) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(commands.load_command("runs"), "run", fail)
    with pytest.raises(TypeError):
        ida_tui_here("runs")


@pytest.mark.parametrize(
    ("argument", "title", "fix"),
    [
        ("questions.txt", 'unknown argument "questions.txt"', "--lines < FILE"),
        ("prompts=x.yaml", "prompts cannot change here", "judge.panel.N.base_url"),
    ],
)
def test_a_command_on_a_run_says_which_arguments_it_takes(
    argument: str, title: str, fix: str
) -> None:
    with pytest.raises(UsageError, match=title) as refused:
        check_override_keys([argument], CONSENT_KEYS)
    assert fix in refused.value.hint
    assert "panel.0" not in refused.value.hint
