"""Agreement of the fast step with its own sampling and with TRL's code, in runs whose code is sabotaged."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ida_tui.config.resolve import resolve
from ida_tui.engine.device.device import limit_threads
from ida_tui.engine.inference.generate import generate_answers
from ida_tui.engine.model import load
from ida_tui.engine.rollout import decoder_layer
from ida_tui.engine.rollout.agreement import rows_to_compare
from ida_tui.engine.trainer import fast

SHORT = (
    "quickstart",
    "evaluation.enabled=false",
    "training.max_steps=3",
    "training.num_generations=4",
    "training.per_device_train_batch_size=8",
    "training.max_completion_length=16",
)
OFF = "The fast step is off; TRL's code is used instead: "


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Use as many threads as a run does."""
    limit_threads()


@pytest.fixture
def wrong_adapter_in_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast decoder applies the adapter with -3 times its scale."""
    correct = decoder_layer._adapter_matrices

    def wrong(linear: Any) -> Any:
        matrices = correct(linear)
        return None if matrices is None else (matrices[0], -3 * matrices[1])

    monkeypatch.setattr(decoder_layer, "_adapter_matrices", wrong)


@contextmanager
def adapters_scaled_by(model: Any, factor: float) -> Iterator[None]:
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.scaling = {name: factor * scale for name, scale in layer.scaling.items()}
    yield
    for layer in layers:
        layer.scaling = {name: scale / factor for name, scale in layer.scaling.items()}


@pytest.fixture
def wrong_adapter_in_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast log-probabilities have the adapter with -3 times its scale."""
    correct = fast.completion_logprobs

    def wrong(model: Any, *arguments: Any, **options: Any) -> Any:
        with adapters_scaled_by(model, -3.0):
            return correct(model, *arguments, **options)

    monkeypatch.setattr(fast, "completion_logprobs", wrong)


def run(ida_tui_here: Any, *arguments: str) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """The finished steps of a run, and its warnings with the number of steps finished before each."""
    done = ida_tui_here("--run", *SHORT, *arguments, "--json")
    assert done.code == 0, done.err
    steps: list[dict[str, Any]] = []
    warnings = []
    for event in done.events:
        if event["type"] == "StepFinished":
            steps.append(event)
        elif event["type"] == "Noticed" and event["level"] == "warning":
            warnings.append((len(steps), str(event["text"])))
    return steps, warnings


@pytest.mark.parametrize(
    "options", [("training.top_p=0.9",), ("training.method=full", "training.learning_rate=1e-4")]
)
def test_a_run_states_how_closely_its_tokens_were_drawn_as_the_loss_scores_them(
    options: tuple[str, ...], ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "CHECK_INTERVAL", 2)
    steps, warnings = run(ida_tui_here, "training.max_steps=5", *options)
    assert not warnings
    gaps = [step["logprob_gap"] for step in steps]
    assert [gap is not None for gap in gaps] == [True, True, False, True, False]
    assert all(gap <= 1e-5 for gap in gaps if gap is not None)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("training.beta=0.1", "training.temperature=0.8"),
        ("training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=2"),
    ],
    ids=["one-batch", "reference", "two-batches"],
)
def test_a_decoder_with_a_wrong_adapter_is_found_after_the_first_update(
    options: tuple[str, ...], ida_tui_here: Any, wrong_adapter_in_the_decoder: None
) -> None:
    steps, warnings = run(ida_tui_here, *options)
    ((finished, text),) = warnings
    assert finished == 1
    assert text.startswith(f"{OFF}log-probabilities of the drawn tokens differ from the loss's by")
    assert steps[0]["logprob_gap"] < 1e-5 < steps[1]["logprob_gap"]


@pytest.mark.parametrize("beta", ["0", "0.1"])
def test_a_loss_with_a_wrong_adapter_is_found_after_the_first_update(
    beta: str, ida_tui_here: Any, wrong_adapter_in_the_loss: None
) -> None:
    _, ((finished, text),) = run(ida_tui_here, f"training.beta={beta}")
    assert finished == 1
    assert text.startswith(f"{OFF}log-probabilities differ from TRL's by")


def test_after_a_fallback_the_run_trains_as_if_only_trl_had_scored(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run(ida_tui_here)

    def wrong(*arguments: Any, **options: Any) -> Any:
        logprobs, entropies = correct(*arguments, **options)
        return logprobs.clone().index_fill(1, torch.tensor([1]), math.nan), entropies

    correct = fast.completion_logprobs
    monkeypatch.setattr(fast, "completion_logprobs", wrong)
    steps, ((finished, text),) = run(ida_tui_here)
    assert finished == 0
    assert text == f"{OFF}log-probabilities differ from TRL's by nan on average"
    assert steps[0]["grad_norm"] == pytest.approx(expected[0]["grad_norm"], rel=1e-4)
    assert steps[0]["logprob_gap"] is None


def test_an_evaluation_with_a_wrong_decoder_answers_with_transformers_and_says_so(
    wrong_adapter_in_the_decoder: None,
) -> None:
    import peft

    config = resolve("quickstart", ["evaluation.temperature=0"]).config
    tokenizer = load.load_tokenizer(config.model)
    base = load.load_model(config.model, "float32", tokenizer)
    torch.manual_seed(0)
    model = peft.get_peft_model(base, load.peft_config(config.lora, config.model)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    prompts = config.prompts.held_out()[:3]
    plain = config.model_copy(update={"engine": "plain"})
    with pytest.warns(UserWarning, match="The fast engine is off; transformers answers instead"):
        answers = generate_answers(model, tokenizer, config, "cpu", prompts, samples=1, seed=0)
    assert answers == generate_answers(model, tokenizer, plain, "cpu", prompts, samples=1, seed=0)


@pytest.mark.parametrize(
    ("lengths", "group_size", "rows"),
    [
        ([5, 9, 3, 1, 12, 4, 2, 8], 4, [4, 6]),
        ([7, 2, 9], 3, [1, 2]),
        ([6, 6], 2, [0]),
        ([4], 8, [0]),
    ],
    ids=["last-group", "one-group", "equal-lengths", "one-row"],
)
def test_the_longest_row_is_checked_with_the_shortest_of_its_prompt(
    lengths: list[int], group_size: int, rows: list[int]
) -> None:
    assert rows_to_compare(lengths, group_size) == rows


# --- dropout -------------------------------------------------------------------------------------


def test_dropout_of_the_adapter_changes_nothing_and_a_note_says_so(ida_tui_here: Any) -> None:
    results = []
    for dropout in ("0", "0.3"):
        steps, warnings = run(ida_tui_here, f"lora.dropout={dropout}", "training.max_steps=2")
        assert not warnings
        results.append([(step["loss"], step["grad_norm"], step["weight_norm"]) for step in steps])
    assert results[0] == results[1]
    checked = ida_tui_here("--check", "quickstart", "lora.dropout=0.3")
    assert checked.code == 0
    assert "lora.dropout has no effect" in " ".join(checked.out.split())


def test_a_run_with_dropout_that_is_resumed_ends_with_the_same_bytes(ida_tui_here: Any) -> None:
    run(ida_tui_here, "lora.dropout=0.3", "training.max_steps=2", "training.save_steps=1")
    whole = Path("outputs/quickstart/latest").resolve()
    resumed = Path("resumed") / whole.name
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoints/checkpoint-2")
    shutil.rmtree(resumed / "adapter")
    lines = (resumed / "events.jsonl").read_text().splitlines(keepends=True)
    last = next(n for n, line in enumerate(lines) if 'checkpoint-1"' in line)
    (resumed / "events.jsonl").write_text("".join(lines[: last + 1]))

    done = ida_tui_here("resume", str(resumed))

    assert done.code == 0, done.err
    assert "with the sampling's within" in done.out
    assert "TRL's code is used instead" not in done.out
    weights = "adapter/adapter_model.safetensors"
    assert (resumed / weights).read_bytes() == (whole / weights).read_bytes()
