"""Tensors that several processes hold in parts (torch's `DTensor`, as FSDP2 makes them), and whole ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.distributed.utils import gather_full_state_dict


def is_sharded(tensor: object) -> bool:
    """Whether this process holds only a part of a tensor."""
    return isinstance(getattr(tensor, "data", tensor), DTensor)


def trains_shards(model: torch.nn.Module) -> bool:
    """Whether trained weights of a model are sharded; those of an adapter on a sharded model are not."""
    return any(is_sharded(p) for p in model.parameters() if p.requires_grad)


def reshard(model: torch.nn.Module) -> None:
    """Have a sharded model hold parts again: a forward pass without gradients leaves some layers whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_weights(model: Any) -> dict[str, torch.Tensor]:
    """The whole weights of a sharded model in host memory; empty except on rank 0. All processes call this.

    Like a file of weights, they have each tied weight once.
    """
    weights = gather_full_state_dict(model)
    kept = {name for name, _ in model.named_parameters()} | {
        name for name, _ in model.named_buffers()
    }
    return {name: tensor for name, tensor in weights.items() if name in kept}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, on its device; all processes call this together if it is sharded."""
    if isinstance(tensor, torch.nn.Parameter):
        tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(value: Any, *, keep: bool) -> Any:
    """A state dictionary with whole tensors in host memory. All processes call this together.

    Args:
        value: the state, of dictionaries, lists and tensors.
        keep: whether this process needs the result; otherwise its tensors are empty.
    """
    if isinstance(value, torch.Tensor):
        tensor = whole(value).cpu()
        return tensor if keep else tensor.new_empty(0)
    if isinstance(value, Mapping):
        return {name: gather(item, keep=keep) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [gather(item, keep=keep) for item in value]
    return value


def shard_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, divided like another tensor; no process communicates."""
    like = like.detach() if isinstance(like, torch.nn.Parameter) else like
    if not isinstance(like, DTensor):
        return tensor
    part: torch.Tensor = distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )
    return part


def load_parts(model: torch.nn.Module, folder: Path) -> None:
    """Copy this process's parts of the weights in a folder into a sharded model.

    Raises:
        KeyError: a weight of the model is not in the files, and not tied to one that is.
    """
    reshard(model)
    targets = dict(model.named_parameters())
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as weights, torch.no_grad():
            for name in weights.keys():  # noqa: SIM118
                if (target := targets.pop(name, None)) is not None:
                    target.copy_(shard_like(weights.get_tensor(name), target))
    if targets:
        raise KeyError(f"{next(iter(targets))} is missing")


def shard_optimizer_state(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """An optimizer's state with whole tensors, divided like the parameters of an optimizer."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return state | {
        "state": {
            index: {
                name: shard_like(value, parameters[index])
                if isinstance(value, torch.Tensor) and value.shape == parameters[index].shape
                else value
                for name, value in entries.items()
            }
            for index, entries in state["state"].items()
        }
    }
