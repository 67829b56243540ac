"""Calls of a sharded model, such as those of an evaluation, which all ranks make together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import StoppingCriteriaList

from ida_tui.engine.device.device import preserved_rng
from ida_tui.engine.distributed.process_group import ProcessGroup
from ida_tui.engine.distributed.work import ModelCall


@contextmanager
def shared_model_calls(model: Any, process_group: ProcessGroup) -> Iterator[None]:
    """Inside the block, all ranks make rank 0's calls of the model, with the same random numbers.

    Args:
        model: the model; without gradients, and not in training mode.
        process_group: the processes. Without a sharded model nothing changes.
    """
    if not process_group.shares_model:
        yield
        return
    generates = False

    def announce_forward(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert not args
        if not generates:
            process_group.announce(ModelCall("forward", _on_host(kwargs)))

    def generate(*, stopping_criteria: StoppingCriteriaList, **arguments: Any) -> Any:
        nonlocal generates
        process_group.announce(ModelCall("generate", _on_host(arguments)))
        generates = True
        try:
            return _generate(original, process_group, arguments, stopping_criteria)
        finally:
            generates = False

    original = model.generate
    model.generate = generate
    # Before the hook of FSDP2, which waits for the other ranks.
    hook = model.register_forward_pre_hook(announce_forward, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        del model.generate


def make_call(model: Any, process_group: ProcessGroup, call: ModelCall) -> None:
    """Make a call that rank 0 has announced. The random numbers of this rank stay as they are."""
    arguments = {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value
        for name, value in call.arguments.items()
    }
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), preserved_rng(model.device.type):
            if call.method == "generate":
                _generate(model.generate, process_group, arguments, StoppingCriteriaList())
            else:
                model(**arguments)
    finally:
        model.train(was_training)


def _generate(
    generate: Any,
    process_group: ProcessGroup,
    arguments: dict[str, Any],
    criteria: StoppingCriteriaList,
) -> Any:
    """Generate on all ranks, with rank 0's random numbers, until all rows have ended or rank 0 stops."""

    def agree_to_stop(tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        stops = any(bool(each(tokens, scores).any()) for each in criteria)
        return torch.full((len(tokens),), process_group.any_rank(stops), device=tokens.device)

    process_group.sync_rng()
    return generate(**arguments, stopping_criteria=StoppingCriteriaList([agree_to_stop]))


def _on_host(arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.cpu() if isinstance(value, torch.Tensor) else value
        for name, value in arguments.items()
    }
