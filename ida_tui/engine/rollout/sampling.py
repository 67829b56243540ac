"""Token sampling with the same distribution as transformers' generation, but without a full sort.

`torch.multinomial` and a sort over 152k tokens cost more than a layer of a small model. Here a token is drawn
by inverting the cumulative distribution in two levels: over blocks of the vocabulary, then within one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

BLOCK_SIZE = 512
"""Vocabulary entries per block of the first search."""
NUCLEUS_WIDTH = 2048
"""Number of top tokens searched for the top-p nucleus first. A larger nucleus needs a full sort."""


@dataclass(frozen=True, slots=True)
class TokenSampler:
    """Sampling parameters, with the names and the order of application of transformers' generation."""

    temperature: float = 1.0
    """0 decodes greedily."""
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0

    @property
    def needs_history(self) -> bool:
        """Whether the next token depends on which tokens the row already has."""
        return self.repetition_penalty != 1.0

    def draw(
        self,
        logits: torch.Tensor,
        seen: torch.Tensor | None = None,
        uniforms: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw one token for each row.

        Args:
            logits: (rows, vocabulary), any floating-point format.
            seen: (rows, vocabulary), true for tokens that occur in the row, prompt included.
            uniforms: (rows, 1), uniform in [0, 1); None draws them here.

        Returns:
            Token ids, (rows,).
        """
        logits = logits.float()
        if seen is not None and self.needs_history:
            penalty = self.repetition_penalty
            penalized = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(seen, penalized, logits)
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return _sample_inverse_cdf(self._mask_logits(logits), uniforms)

    def logprobs(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of tokens, (rows,), in softmax(logits / temperature); temperature 0 counts as 1.

        Like the loss, it ignores the repetition penalty, top-k, top-p and min-p.
        """
        scaled = logits.float() / (self.temperature or 1.0)
        return scaled.gather(1, tokens[:, None])[:, 0] - torch.logsumexp(scaled, dim=-1)

    def _mask_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Set the logits that top-k, top-p and min-p exclude to minus infinity."""
        if 0 < self.top_k < logits.shape[-1]:
            threshold = torch.topk(logits, self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        if self.top_p < 1.0:
            logits = logits.masked_fill(logits < self._nucleus_threshold(logits), -torch.inf)
        if self.min_p is not None and self.min_p > 0:
            # p < min_p · p_max, in logits.
            threshold = logits.amax(dim=-1, keepdim=True) + torch.log(torch.tensor(self.min_p))
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        return logits

    def _nucleus_threshold(self, logits: torch.Tensor) -> torch.Tensor:
        """Smallest logit, (rows, 1), of each row's nucleus: the most likely tokens that make up top_p."""
        log_total = torch.logsumexp(logits, dim=-1, keepdim=True)
        width = min(NUCLEUS_WIDTH, logits.shape[-1])
        while True:
            top = torch.topk(logits, width, dim=-1).values
            probabilities = torch.exp(top - log_total)
            preceding = probabilities.cumsum(dim=-1) - probabilities
            inside = preceding < self.top_p
            if width == logits.shape[-1] or not bool(inside[:, -1].any()):
                last = inside.sum(dim=-1, keepdim=True).clamp(min=1) - 1
                return top.gather(-1, last)
            width = logits.shape[-1]


def _sample_inverse_cdf(logits: torch.Tensor, uniforms: torch.Tensor | None = None) -> torch.Tensor:
    """Draw a token from softmax(logits), (rows, vocabulary), for each row; returns ids, (rows,)."""
    rows, vocabulary = logits.shape
    if uniforms is None:
        uniforms = torch.rand(rows, 1, device=logits.device)
    weights = torch.exp(logits - logits.amax(dim=-1, keepdim=True))
    padding = -vocabulary % BLOCK_SIZE
    if padding:
        weights = torch.nn.functional.pad(weights, (0, padding))
    blocks = weights.view(rows, -1, BLOCK_SIZE)
    block_cdf = blocks.sum(dim=-1).cumsum(dim=-1)
    # Stay just below the total: a uniform number that rounds up to it would fall off the end.
    target = uniforms * block_cdf[:, -1:] * (1 - 1e-6)
    block = torch.searchsorted(block_cdf, target, right=True).clamp(max=block_cdf.shape[1] - 1)
    preceding = torch.where(block > 0, block_cdf.gather(1, (block - 1).clamp(min=0)), 0.0)
    token_cdf = blocks[torch.arange(rows, device=logits.device), block[:, 0]].cumsum(dim=-1)
    remainder = torch.minimum(target - preceding, token_cdf[:, -1:] * (1 - 1e-6)).clamp(min=0)
    offset = torch.searchsorted(token_cdf, remainder, right=True)
    return (block * BLOCK_SIZE + offset)[:, 0]
