"""Figures of the importance ratio between the policy that is trained and the one that drew the completions.

The two differ if completions are drawn with other weights (`training.sampling_weights`) or by vLLM. TRL
corrects the loss for it; these figures show how far apart the two are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

SEQUENCE_MODES = ("sequence_mask", "sequence_truncate")
"""Values of TRL's `vllm_importance_sampling_mode` with one ratio for each completion."""


@dataclass(frozen=True, slots=True)
class RatioBounds:
    """TRL's mode of correction and its bounds; None is no bound."""

    mode: str
    lowest: float | None
    highest: float | None

    @classmethod
    def of(cls, arguments: Any) -> RatioBounds:
        """Those of some arguments of `trl.GRPOConfig`."""
        return cls(
            arguments.vllm_importance_sampling_mode,
            arguments.vllm_importance_sampling_clip_min,
            arguments.vllm_importance_sampling_clip_max,
        )

    def is_outside(self, ratios: torch.Tensor) -> torch.Tensor:
        """Which ratios the correction limits or leaves out."""
        low = -math.inf if self.lowest is None else self.lowest
        high = math.inf if self.highest is None else self.highest
        return (ratios < low) | (ratios > high)


@dataclass(frozen=True, slots=True)
class RatioSums:
    """Sums over the tokens, and over the ratios that the correction bounds, of the rows of one process."""

    tokens: float
    ratio: float
    divergence: float
    ratios: float
    outside: float

    @classmethod
    def of(cls, batch: Mapping[str, torch.Tensor], bounds: RatioBounds) -> RatioSums:
        """The sums of TRL's batch for the loss, whose log-probabilities are (rows, tokens)."""
        drawn, scored = batch["sampling_per_token_logps"], batch["old_per_token_logps"]
        # vLLM leaves out log-probabilities that are not finite, and TRL does not correct those tokens.
        is_token = batch["completion_mask"].bool() & ~drawn.isnan()
        log_ratio = torch.where(is_token, scored.double() - drawn.double(), 0.0)
        ratio = log_ratio.exp()[is_token]
        # Schulman's estimator of KL(drawn || scored): never negative, and of low variance.
        divergence = ratio - 1 - log_ratio[is_token]
        of_rows = log_ratio.sum(dim=1).exp()[is_token.any(dim=1)]
        bounded = of_rows if bounds.mode in SEQUENCE_MODES else ratio
        return cls(
            tokens=float(ratio.numel()),
            ratio=float(ratio.sum()),
            divergence=float(divergence.sum()),
            ratios=float(bounded.numel()),
            outside=float(bounds.is_outside(bounded).sum()),
        )


@dataclass(frozen=True, slots=True)
class SamplingFigures:
    """How far the policy that drew a step's completions is from the one that is trained."""

    ratio: float
    """Mean importance ratio of the tokens, before the correction limits it; 1 in expectation."""
    divergence: float
    """KL divergence per token of the policy that drew from the one that is trained, in nats."""
    outside: float
    """Share of the ratios that the correction limits or leaves out: of completions, or of tokens."""

    @classmethod
    def of_ranks(cls, sums: Sequence[RatioSums]) -> SamplingFigures | None:
        """The figures over all processes; None if no token is in the loss."""
        tokens, ratios = sum(rank.tokens for rank in sums), sum(rank.ratios for rank in sums)
        if not tokens:
            return None
        return cls(
            ratio=sum(rank.ratio for rank in sums) / tokens,
            divergence=sum(rank.divergence for rank in sums) / tokens,
            outside=sum(rank.outside for rank in sums) / ratios,
        )
