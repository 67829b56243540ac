"""Cases of the step benchmark: models, group sizes and completion lengths."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from ida_tui.errors import UsageError

TRAINERS = ("default", "tuned", "ours")
PROMPT_TOKENS = 128
STEADY_STEPS = (3, 4)
"""Steps that are measured: kernels are compiled, and the fast engine's first checks are done."""
REAL_MODEL, REAL_PROFILE = "SmolLM2-135M", "smollm2-135m"
"""The model with real weights, and the profile that loads it."""
SHAPES: dict[str, dict[str, int]] = {
    "S": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
          "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 4096},
    "M": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8,
          "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 8192},
    "S152k": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6,
              "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 151_936},
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
             "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936},
    REAL_MODEL: {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                 "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152},
}  # fmt: skip


@dataclass(frozen=True)
class BenchCase:
    """One case of the benchmark."""

    shape: str
    generations: int
    longest: int
    beta: float = 0.0
    slots: int = 8
    prompts: int = 1

    @property
    def name(self) -> str:
        """Name of the case, as printed and as given on the command line."""
        parts = [self.shape, f"G{self.generations}", f"T{self.longest}"]
        parts += [f"b{self.beta:g}"] if self.beta else []
        parts += [f"j{self.slots}"] if self.slots != 8 else []
        parts += [f"p{self.prompts}"] if self.prompts != 1 else []
        return "-".join(parts)

    @property
    def is_real(self) -> bool:
        """Whether the model has real weights. Such a case is measured as the trainers come."""
        return self.shape == REAL_MODEL

    def completion_lengths(self, step: int) -> list[int]:
        """Tokens of each completion of a step, lognormal around a third of the maximum length.

        Completions of the real model are all as long as possible.
        """
        if self.is_real:
            return [self.longest] * self.generations * self.prompts
        rng = random.Random(f"{self.name} {step}")
        return [
            min(self.longest, max(4, round(rng.lognormvariate(math.log(self.longest / 3), 0.6))))
            for _ in range(self.generations * self.prompts)
        ]


ALL_CASES = [
    BenchCase("S", 4, 64), BenchCase("S", 8, 64), BenchCase("S", 8, 256), BenchCase("S", 8, 512),
    BenchCase("S", 8, 256, beta=0.04), BenchCase("S", 8, 256, beta=0.04, slots=2),
    BenchCase("S", 4, 256, prompts=2),
    BenchCase("M", 8, 64), BenchCase("M", 8, 256),
    BenchCase("S152k", 4, 256), BenchCase("S152k", 8, 64),
    BenchCase("0.6B", 4, 64),
]  # fmt: skip
REAL_CASE = BenchCase(REAL_MODEL, 8, 48, prompts=2)
QUICK_CASES = [BenchCase(REAL_MODEL, 4, 24), BenchCase("S152k", 4, 64)]


def cases_by_name(names: str) -> list[BenchCase]:
    """The cases with these names.

    Args:
        names: case names, separated by commas.

    Raises:
        UsageError: there is no case with one of the names.
    """
    cases = {case.name: case for case in (REAL_CASE, *ALL_CASES, *QUICK_CASES)}
    for name in names.split(","):
        if name not in cases:
            raise UsageError(f'unknown case "{name}"', f"Choose from {', '.join(cases)}")
    return [cases[name] for name in names.split(",")]
