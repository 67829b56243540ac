"""One sequence that holds all distinct prompts and all completions of a batch, without padding.

Linear layers, norms and activations then see every token once, in one pass. Only attention knows which tokens
belong together (`shared_prompt_attention`). Transformers' own modules compute everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ida_tui.engine.architecture.families import (
    CHANGED_ATTENTION,
    FAMILIES,
    shortest_window,
)
from ida_tui.engine.loss.padding import similar_lengths
from ida_tui.engine.loss.shared_prompt_attention import (
    PromptGroup,
    Segments,
    SequenceLayout,
    attend,
)

if TYPE_CHECKING:
    from ida_tui.engine.loss.logprobs import CompletionBatch

ATTENTION_NAME = "ida_tui_shared_prompt"


@dataclass(frozen=True, slots=True)
class JointSequence:
    """The sequence of a batch.

    Args:
        tokens: token ids, (1, tokens).
        positions: position of each token in its own row, (1, tokens).
        layout: which tokens belong together.
        predicting: index of the token whose state predicts each scored token, (scored tokens,).
        labels: the scored tokens, (scored tokens,).
        columns: where each of them belongs in the flattened result, (scored tokens,).
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    layout: SequenceLayout
    predicting: torch.Tensor
    labels: torch.Tensor
    columns: torch.Tensor

    @classmethod
    def of(cls, batch: CompletionBatch, width: int, heads: int) -> JointSequence:
        """Join the prompts and completions of a batch; the last token of a completion predicts nothing.

        Args:
            batch: the prompts and completions.
            width: columns of the result.
            heads: attention heads of the model.
        """
        rows_of: dict[int, list[int]] = {}
        for row, prompt in enumerate(batch.prompt_of.tolist()):
            if batch.lengths[row]:
                rows_of.setdefault(prompt, []).append(row)
        tokens, positions, predicting, labels, columns = [], [], [], [], []
        segments: list[tuple[int, int]] = []
        groups: list[PromptGroup] = []
        end = 0
        for prompt, rows in rows_of.items():
            ids = batch.prompts[prompt][batch.prompt_mask[prompt].bool()]
            start, end = end, end + len(ids)
            prompt_span = slice(start, end)
            tokens.append(ids)
            positions.append(torch.arange(len(ids)))
            segments.append((start, len(ids)))
            for row in sorted(rows, key=lambda row: -batch.lengths[row]):
                length = batch.lengths[row]
                tokens.append(batch.completions[row, : length - 1])
                positions.append(torch.arange(len(ids), len(ids) + length - 1))
                predicting += [
                    torch.tensor([prompt_span.stop - 1]),
                    torch.arange(end, end + length - 1),
                ]
                labels.append(batch.completions[row, :length])
                columns.append(torch.arange(row * width, row * width + length))
                if length > 1:
                    segments.append((end, length - 1))
                end += length - 1
            if end > prompt_span.stop:
                groups += PromptGroup.of(prompt_span, slice(prompt_span.stop, end), heads)
        lengths = [length for _, length in segments]
        alike: list[Segments] = []
        for indices in similar_lengths(lengths):
            alike += Segments.of([segments[index] for index in indices], heads)
        return cls(
            tokens=torch.cat(tokens)[None],
            positions=torch.cat(positions)[None],
            layout=SequenceLayout(tuple(alike), tuple(groups)),
            predicting=torch.cat(predicting),
            labels=torch.cat(labels),
            columns=torch.cat(columns),
        )


def supports_joint_sequences(backbone: Any, longest: int) -> bool:
    """Whether a backbone can compute a joint sequence: known modules, full attention, float32 on the CPU.

    The layers of all `FAMILIES` mix tokens in attention only, and take positions from `position_ids`.

    Args:
        backbone: the model without its output layer.
        longest: number of tokens of the longest row; a window that is not shorter is full attention.
    """
    config = backbone.config
    weight = next(backbone.parameters())
    return (
        config.model_type in FAMILIES
        and type(backbone).__module__.startswith("transformers.models.")
        and config._attn_implementation == "sdpa"
        and longest <= shortest_window(config)
        and not any(getattr(config, name, None) for name in CHANGED_ATTENTION)
        and not (backbone.training and getattr(config, "attention_dropout", 0.0))
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


def joint_states(backbone: Any, sequence: JointSequence) -> torch.Tensor:
    """Hidden states that predict the scored tokens, (scored tokens, hidden)."""
    with _attention_of_joint_sequences(backbone.config):
        states: torch.Tensor = backbone(
            input_ids=sequence.tokens,
            # A mask of four dimensions is passed on as it is; the attention function does not read it.
            attention_mask=torch.ones(1, 1, 1, 1),
            position_ids=sequence.positions,
            use_cache=False,
            layout=sequence.layout,
        ).last_hidden_state
    return states[0].index_select(0, sequence.predicting)


@contextmanager
def _attention_of_joint_sequences(config: Any) -> Iterator[None]:
    """Inside the block, a model's attention layers call `attend`."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION_NAME, attend)
    previous = config._attn_implementation
    config._attn_implementation = ATTENTION_NAME
    try:
        yield
    finally:
        config._attn_implementation = previous
