"""Draw the next token of every row: the same distribution as transformers' sampling, without its sort.

`torch.multinomial` and a full sort over 152 k tokens cost more than a layer of a small model. Here a token is
drawn by inverting the cumulative distribution in two levels: blocks of the vocabulary first, then one block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

BLOCK = 512
"""Tokens summed before the first search."""
NUCLEUS = 2048
"""Likeliest tokens among which a nucleus is looked for first; a wider one falls back to the whole sort."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; names and order of application are those of transformers' generation."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0

    @property
    def needs_history(self) -> bool:
        """Whether the tokens so far have a say."""
        return self.repetition_penalty != 1.0

    def draw(
        self,
        logits: torch.Tensor,
        seen: torch.Tensor | None = None,
        numbers: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One token for each row.

        Args:
            logits: (rows, vocabulary), any floating format.
            seen: (rows, vocabulary), true for tokens that the row holds already, prompt included.
            numbers: (rows, 1), uniform in [0, 1); drawn here where they are not given.

        Returns:
            (rows,), token ids.
        """
        logits = logits.float()
        if seen is not None and self.needs_history:
            penalty = self.repetition_penalty
            penalised = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(seen, penalised, logits)
        if self.temperature == 0:
            return logits.argmax(dim=-1)
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return _inverse_cdf(self._masked(logits), numbers)

    def _masked(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits with what top-k, top-p and min-p leave out at minus infinity."""
        if 0 < self.top_k < logits.shape[-1]:
            least = torch.topk(logits, self.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.top_p < 1.0:
            logits = logits.masked_fill(logits < self._nucleus_edge(logits), -torch.inf)
        if self.min_p is not None and self.min_p > 0:
            # p < min_p · p_max, in logits.
            edge = logits.amax(dim=-1, keepdim=True) + torch.log(torch.tensor(self.min_p))
            logits = logits.masked_fill(logits < edge, -torch.inf)
        return logits

    def _nucleus_edge(self, logits: torch.Tensor) -> torch.Tensor:
        """The smallest logit of each row's nucleus, (rows, 1): the likeliest tokens that make up top_p."""
        total = torch.logsumexp(logits, dim=-1, keepdim=True)
        width = min(NUCLEUS, logits.shape[-1])
        while True:
            top = torch.topk(logits, width, dim=-1).values
            mass = torch.exp(top - total)
            before = mass.cumsum(dim=-1) - mass
            inside = before < self.top_p
            if width == logits.shape[-1] or not bool(inside[:, -1].any()):
                last = inside.sum(dim=-1, keepdim=True).clamp(min=1) - 1
                return top.gather(-1, last)
            width = logits.shape[-1]


def _inverse_cdf(logits: torch.Tensor, numbers: torch.Tensor | None = None) -> torch.Tensor:
    """Draw from softmax(logits), (rows, vocabulary) → (rows,)."""
    rows, vocabulary = logits.shape
    if numbers is None:
        numbers = torch.rand(rows, 1, device=logits.device)
    weights = torch.exp(logits - logits.amax(dim=-1, keepdim=True))
    short = -vocabulary % BLOCK
    if short:
        weights = torch.nn.functional.pad(weights, (0, short))
    blocks = weights.view(rows, -1, BLOCK)
    upto = blocks.sum(dim=-1).cumsum(dim=-1)
    # Just below the sum: a uniform number that rounds up to it would fall off the end.
    wanted = numbers * upto[:, -1:] * (1 - 1e-6)
    block = torch.searchsorted(upto, wanted, right=True).clamp(max=upto.shape[1] - 1)
    below = torch.where(block > 0, upto.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks[torch.arange(rows, device=logits.device), block[:, 0]].cumsum(dim=-1)
    rest = torch.minimum(wanted - below, inside[:, -1:] * (1 - 1e-6)).clamp(min=0)
    within = torch.searchsorted(inside, rest, right=True)
    return (block * BLOCK + within)[:, 0]
