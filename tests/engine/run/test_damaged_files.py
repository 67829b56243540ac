"""Damaged models and checkpoints: named as what they are, never as a bug of ida-tui, and never run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ida_tui.config import embedded
from ida_tui.config.model_files import model_problem
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import ModelConfig
from ida_tui.engine.model import load
from ida_tui.engine.model.trained import attach_adapter
from ida_tui.engine.trainer.checkpointing import _check_optimizer, _check_trainer_state
from ida_tui.errors import IdaError
from tests.faults.hostile_commands import prepare_run
from tests.faults.hostile_folders import reseal

RESUME = ("evaluation.enabled=false", "training.max_completion_length=4")


def set_config(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(settings | values))

    return change


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1000)


def load_all(folder: Path) -> None:
    config = resolve("quickstart", [f"model={folder}"], verify=False).config
    load.load_model(config.model, "float32", load.load_tokenizer(config.model))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncate, "model.safetensors has 3,548,440 bytes, but must have 3,549,440"),
        (write("model.safetensors", b""), "model.safetensors is empty or truncated"),
        (write("model.safetensors", b"\xff" * 99), "model.safetensors is empty or truncated"),
        (set_config(vocab_size=1600), "model.embed_tokens.weight has another shape"),
        (set_config(rms_norm_eps="x"), "rms_norm_eps"),
        (set_config(model_type="gpt2"), "weights, such as"),
        (write("tokenizer.json", b"{}"), "its files are damaged or do not belong together"),
        (write("tokenizer.json", b"\x00"), "cannot load the model in"),
        (write("chat_template.jinja", b"{% for"), "the chat template of model model is broken"),
        (write("chat_template.jinja", b"{{ 1 / 0 }}"), "is broken: division by zero"),
    ],
)
def test_a_damaged_model_is_named_with_what_is_wrong(
    damage: Callable[[Path], object], named: str
) -> None:
    folder = Path(shutil.copytree(embedded.model_folder(), "model"))
    damage(folder)
    with pytest.raises(IdaError) as refused:
        load_all(folder)
    assert named in refused.value.title
    assert refused.value.hint


def test_truncated_weights_are_found_before_anything_is_loaded() -> None:
    folder = Path(shutil.copytree(embedded.model_folder(), "model"))
    assert model_problem(ModelConfig(path=str(folder))) is None
    truncate(folder)
    problem = model_problem(ModelConfig(path=str(folder)))
    assert problem
    assert "model.safetensors has 3,548,440 bytes" in problem[0]


def test_an_adapter_without_weights_is_refused_instead_of_being_the_base_model(
    short_run: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(short_run / "adapter", "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    model = resolve("quickstart", []).config.model
    base = load.load_model(model, "float32", load.load_tokenizer(model))
    with pytest.raises(IdaError, match="missing adapter keys"):
        attach_adapter(base, folder)


class Payload:
    def __reduce__(self) -> Any:
        return os.mkdir, ("executed",)


@pytest.fixture
def unfinished(short_run: Path) -> Path:
    """The checkpoint of a run that ended after its first step."""
    return prepare_run(short_run, Path("unfinished").absolute()) / "checkpoints/checkpoint-1"


def test_code_in_a_checkpoint_is_not_run_and_the_message_does_not_advise_to_run_it(
    unfinished: Path, ida_tui_here: Any
) -> None:
    (unfinished / "optimizer.pt").write_bytes(pickle.dumps(Payload()))
    reseal(unfinished)
    done = ida_tui_here("resume", "unfinished", *RESUME)
    assert done.code == 1, done.out + done.err
    assert "cannot resume from checkpoint-1: optimizer.pt or scheduler.pt cannot be" in done.out
    assert "rm -r unfinished/checkpoints/checkpoint-1" in done.out
    assert "bug" not in done.out + done.err
    assert "weights_only" not in done.out + done.err
    assert not Path("executed").exists()


def test_a_resumed_run_saves_as_often_as_it_is_told(unfinished: Path, ida_tui_here: Any) -> None:
    steps = ("training.save_steps=50", "training.max_steps=3")
    done = ida_tui_here("resume", "unfinished", *RESUME, *steps)
    assert done.code == 0, done.out + done.err
    saved = {path.name for path in unfinished.parent.glob("checkpoint-*")}
    assert saved == {"checkpoint-1", "checkpoint-3"}


@pytest.mark.parametrize(
    "change",
    [
        {"global_step": 99},
        {"global_step": "1"},
        {"epoch": "x"},
        {"log_history": 3},
        {"unknown": 1},
    ],
)
def test_a_trainer_state_with_other_types_or_another_step_is_damaged(
    change: dict[str, object], unfinished: Path
) -> None:
    file = unfinished / "trainer_state.json"
    _check_trainer_state(unfinished)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises((ValueError, TypeError)):
        _check_trainer_state(unfinished)


@pytest.mark.parametrize(
    "damage",
    [
        lambda optimizer, p: optimizer.param_groups[0].update(lr="x"),
        lambda optimizer, p: optimizer.param_groups[0].update(eps=float("nan")),
        lambda optimizer, p: optimizer.state[p].update(exp_avg=torch.zeros(9)),
        lambda optimizer, p: optimizer.state[p].update(exp_avg_sq="x"),
        lambda optimizer, p: [optimizer.state[p].pop(k) for k in ("exp_avg", "exp_avg_sq")],
    ],
)
def test_an_optimizer_that_does_not_fit_its_parameters_is_damaged(
    damage: Callable[[Any, Any], object],
) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    expected = [dict(group) for group in optimizer.param_groups]
    parameter.sum().backward()
    optimizer.step()
    _check_optimizer(optimizer, expected)
    damage(optimizer, parameter)
    with pytest.raises(ValueError, match=r"is not a number|has the shape|has no moments"):
        _check_optimizer(optimizer, expected)
