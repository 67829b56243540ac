"""The Python API: training, reading and resuming runs from a script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ida_tui import IdaError, Run, load_run, run
from ida_tui.errors import ExitCode
from ida_tui.events import types as ev
from tests.conftest import IdaTui
from tests.support.patience import PATIENCE_S

SHORT = {
    "training.max_steps": 3,
    "training.per_device_train_batch_size": 16,
    "training.max_completion_length": 16,
    "evaluation.enabled": False,
}


class ScriptStop(Exception):
    """Raised by a script to end a run."""


def weights_of(run: Run) -> bytes:
    assert run.weights is not None
    return (run.weights / "adapter_model.safetensors").read_bytes()


def test_a_script_trains_the_same_weights_as_the_command_line(
    ida_tui_here: IdaTui,
) -> None:
    received: list[ev.Record] = []
    statuses: list[str] = []

    def on_event(record: ev.Record) -> None:
        received.append(record)
        if isinstance(record.event, ev.StepFinished) and not statuses:
            statuses.append(load_run("quickstart").status)

    trained = run("quickstart", "seed=3", SHORT, on_event=on_event)

    assert statuses == ["live"], "a run can be read while it is in progress"
    assert (trained.status, trained.exit_code) == ("done", ExitCode.DONE)
    assert [step.step for step in trained.steps] == [1, 2, 3]
    assert trained.config.seed == 3
    assert len(list(trained.completions())) == 48
    assert {c.finished.step for c in trained.completions(2)} == {2}
    assert all(c.scored is not None and c.scored.reward is not None for c in trained.completions())
    assert list(trained.events()) == received
    assert isinstance(received[-1].event, ev.RunEnded)
    assert trained.evaluation is None

    loaded = load_run(trained.directory)
    assert (loaded.state, loaded.name) == (trained.state, trained.name)
    overrides = [f"{key}={str(value).lower()}" for key, value in SHORT.items()]
    result = ida_tui_here("--run", "quickstart", "seed=3", *overrides)
    assert result.code == 0, result.err
    assert weights_of(load_run("quickstart")) == weights_of(trained)


def test_an_exception_in_the_script_stops_the_run_which_can_be_resumed() -> None:
    uninterrupted = run("quickstart", SHORT)

    def stop_after_first_step(record: ev.Record) -> None:
        if isinstance(record.event, ev.StepFinished):
            raise ScriptStop

    with pytest.raises(ScriptStop):
        run("quickstart", SHORT, on_event=stop_after_first_step)
    stopped = load_run("quickstart")
    assert (stopped.status, stopped.exit_code) == ("interrupted", ExitCode.INTERRUPTED)
    with pytest.raises(IdaError, match="Stopped"):
        stopped.raise_if_failed()

    resumed = run(stopped.directory, resume=True).raise_if_failed()
    assert resumed.directory == stopped.directory
    assert weights_of(resumed) == weights_of(uninterrupted)


def test_a_run_that_cannot_start_raises_an_error_and_creates_nothing() -> None:
    with pytest.raises(IdaError, match="quickstrat") as unknown_profile:
        run("quickstrat")
    assert unknown_profile.value.code == ExitCode.USAGE
    with pytest.raises(IdaError, match="is not a finite number"):
        run("quickstart", {"training.learning_rate": float("nan")})
    with pytest.raises(IdaError, match="has type object, which a profile cannot hold"):
        run("quickstart", {"training.max_steps": object()})
    with pytest.raises(IdaError, match="needs an API key") as no_key:
        run("quickstart", {"judge": "gpt-4o-mini"})
    assert no_key.value.code == ExitCode.JUDGE_UNAVAILABLE
    with pytest.raises(IdaError, match="there is no run"):
        load_run("quickstart")
    assert not Path("outputs").exists()


def test_an_unavailable_judge_sets_the_exit_code_of_the_run() -> None:
    unavailable = {"judge": {"base_url": "http://127.0.0.1:9/v1", "max_retries": 0}}
    ended = run("quickstart", SHORT, "judge=ollama", unavailable)

    assert ended.exit_code == ExitCode.JUDGE_UNAVAILABLE
    assert ended.status == "judge_unavailable"
    with pytest.raises(IdaError) as failed:
        ended.raise_if_failed()
    assert failed.value.code == ExitCode.JUDGE_UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import ida_tui; ida_tui.__version__", ()),
        ("from ida_tui import load_run, run", ("pydantic",)),
    ],
    ids=["import ida_tui", "load_run and run"],
)
def test_importing_the_api_loads_no_heavy_library(code: str, allowed: tuple[str, ...]) -> None:
    heavy = {"torch", "transformers", "trl", "openai", "httpx2", "textual", "pydantic", "yaml"}
    probe = f"import sys\n{code}\nprint(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    loaded = set(eval(result.stdout))
    assert loaded <= {*allowed, *(("yaml",) if allowed else ())}
