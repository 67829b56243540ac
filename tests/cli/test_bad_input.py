"""Bad input gets one clear error: what is wrong, where, what to do; no traceback, no run directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Bad:
    """A way to get it wrong, and what the error must name."""

    arguments: tuple[str, ...]
    names: tuple[str, ...]
    files: tuple[tuple[str, str], ...] = ()
    code: int = 2


RUBRIC_WITHOUT_RISK = """\
task: judge
axes:
  align: {zero: ignores it, ten: serves it}
  detail: {zero: vague, ten: specific}
"""

CASES = {
    "unknown key": Bad(
        ("mine.yaml",),
        ("mine.yaml:3", "learning_rat", "learning_rate"),
        (("mine.yaml", "extends: quickstart\ntraining:\n  learning_rat: 1e-4\n"),),
    ),
    "wrong type": Bad(
        ("mine.yaml",),
        ("mine.yaml:2", "seed", "number"),
        (("mine.yaml", "extends: quickstart\nseed: [1, 2]\n"),),
    ),
    "bad YAML": Bad(
        ("mine.yaml",),
        ("mine.yaml:3",),
        (("mine.yaml", "extends: quickstart\ntraining:\n  max_steps: [1\nseed: 3\n"),),
    ),
    "missing prompt file": Bad(
        ("mine.yaml",),
        ("mine.yaml:2", "prompts", "nowhere.yaml"),
        (("mine.yaml", "extends: quickstart\nprompts: nowhere.yaml\n"),),
    ),
    "unknown profile": Bad(("quikstart",), ("quikstart", "quickstart", "--list")),
    "generations 3 with batch 4": Bad(
        (
            "quickstart",
            "training.num_generations=3",
            "training.per_device_train_batch_size=4",
            "training.gradient_accumulation_steps=1",
        ),
        ("command line", "num_generations", "multiple"),
    ),
    "lr fast": Bad(
        ("quickstart", "training.learning_rate=fast"),
        ("command line", "training.learning_rate", "fast", "1e-"),
    ),
    "negative steps": Bad(
        ("quickstart", "training.max_steps=-3"), ("command line", "training.max_steps", "-3")
    ),
    "unreadable model path": Bad(
        ("quickstart", "model.path=/nowhere/model"), ("/nowhere/model", "model.path")
    ),
    "absent device": Bad(("quickstart", "device=cuda"), ("cuda", "device=cpu"), code=5),
    "empty prompts": Bad(
        ("mine.yaml",),
        ("empty.yaml", "prompts"),
        (
            ("mine.yaml", "extends: quickstart\nprompts: empty.yaml\n"),
            ("empty.yaml", "description: none\nprompts: []\n"),
        ),
    ),
    "rubric axis missing": Bad(
        ("mine.yaml",),
        ("rubric.yaml:", "risk"),
        (
            ("mine.yaml", "extends: quickstart\nrubric: rubric.yaml\n"),
            ("rubric.yaml", RUBRIC_WITHOUT_RISK),
        ),
    ),
    "no key": Bad(
        ("quickstart", "judge=gpt-4o-mini"), ("OPENAI_API_KEY", "export", ".env"), code=3
    ),
    "file of another kind": Bad(
        ("mine.yaml",), ("mine.yaml",), (("mine.yaml", "\x00\x01\x02 not yaml"),)
    ),
    "two commands": Bad(("quickstart", "--check", "quickstart"), ("--run", "--check")),
    "not an override": Bad(("quickstart", "fast"), ("fast", "key=value")),
    "report to what is not installed": Bad(
        ("quickstart", "report_to=[trackio]"), ("trackio", "--extra")
    ),
}


@pytest.mark.parametrize("bad", CASES.values(), ids=CASES.keys())
def test_bad_input_ends_with_one_clear_error_and_leaves_nothing(bad: Bad, ida_tui: Any) -> None:
    for name, text in bad.files:
        Path(name).write_text(text)

    done = ida_tui("--run", *bad.arguments)

    assert done.code == bad.code, done.err
    assert len(done.err.splitlines()) <= 6, done.err
    assert done.err.startswith("error: ")
    assert "fix:" in done.err
    assert "Traceback" not in done.err
    for name in bad.names:
        assert name in done.err, f"{name!r} is not in:\n{done.err}"
    assert not Path("outputs").exists()


def test_a_missing_key_is_told_before_torch_is_imported(ida_tui: Any) -> None:
    done = ida_tui("--run", "dev-mps", "judge=gpt-4o-mini", PYTHONPROFILEIMPORTTIME="1")

    assert done.code == 3
    # Python indents what is imported by something else.
    imported = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert "ida_tui.judge.api_key" in imported
    assert not imported & {"torch", "transformers", "trl", "openai"}
