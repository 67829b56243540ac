"""Decoding in steps of one shape, as CUDA graphs need them, compared with the steps of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from ida_tui.engine.device import cuda_graph
from ida_tui.engine.device.cuda_graph import GraphChoice, Step, graph_choice
from ida_tui.engine.rollout.generate import generate
from ida_tui.engine.rollout.sampling import TokenSampler
from tests.engine.trainer.test_fast_parity import EOS, PAD, SHAPE, policy

PROMPTS = [[7, 8, 9, 10, 11]] * 5 + [[12, 13]] * 3
ENDING = [EOS, *range(0, 700, 40)]
"""So many tokens end a completion that rows end one after another."""


def with_a_window() -> Any:
    """A tiny model whose tokens see the last nine only."""
    torch.manual_seed(3)
    config = MistralConfig(**SHAPE, sliding_window=9, tie_word_embeddings=False)
    config._attn_implementation = "sdpa"
    return MistralForCausalLM(config)


def completions(model: Any, **options: Any) -> tuple[list[list[int]], list[float]]:
    """Completions of the prompts and the log-probabilities of their tokens, as drawn."""
    torch.manual_seed(5)
    drawn: list[float] = []
    with torch.no_grad():
        rows = generate(
            model.eval(),
            PROMPTS,
            TokenSampler(),
            max_new_tokens=60,
            eos_token_ids=ENDING,
            pad_token_id=PAD,
            on_draw=lambda rows, logprobs: drawn.extend(logprobs.tolist()),
            **options,
        )
    return rows, drawn


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("make_model", [policy, with_a_window], ids=["adapter", "window"])
def test_steps_of_one_shape_draw_the_same_tokens_with_the_same_probabilities(
    make_model: Any, overlap: bool
) -> None:
    model = make_model()
    rows, drawn = completions(model)
    assert len({len(row) for row in rows}) > 3
    recorded: list[Step] = []

    def record(step: Step, restore: Any) -> Step:
        recorded.append(step)
        step()
        return step

    choice = GraphChoice(lambda text: None, record)
    choice.uses_graphs = True
    static_rows, static_drawn = completions(model, graphs=choice, overlap_forward=overlap)
    assert static_rows == rows
    assert sorted(static_drawn) == pytest.approx(sorted(drawn), abs=1e-5)
    assert len(recorded) > 1, "a graph is recorded for each number of rows"


def test_a_graph_is_used_if_it_is_faster_and_the_log_gives_both_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def step() -> torch.Tensor:
        return torch.zeros(1)

    def graph() -> torch.Tensor:
        return torch.ones(1)

    for seconds, used in (({step: 0.02, graph: 0.005}, graph), ({step: 0.02, graph: 0.03}, step)):
        said: list[str] = []
        monkeypatch.setattr(cuda_graph, "_seconds", lambda run, _, known=seconds: known[run])
        choice = GraphChoice(said.append, lambda *_: graph)
        assert choice.prepare(step, lambda: None) is used
        assert choice.prepare(step, lambda: None) is used
        (text,) = said
        assert "20.0 ms without it" in text


def test_a_step_that_cannot_be_recorded_is_computed_without_a_graph_and_the_log_says_why() -> None:
    def fail(step: Step, restore: Any) -> Step:
        step()
        raise RuntimeError("operation not permitted when stream is capturing")

    said: list[str] = []
    model = policy()
    expected = completions(model)[0]
    assert completions(model, graphs=GraphChoice(said.append, fail))[0] == expected
    (text,) = said
    assert "operation not permitted when stream is capturing" in text


def test_a_cpu_has_no_graphs() -> None:
    assert graph_choice(torch.device("cpu"), print) is None
