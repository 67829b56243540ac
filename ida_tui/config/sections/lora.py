"""Settings of the LoRA adapter, with the names and meanings of `peft.LoraConfig`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ida_tui.config.section import PositiveInt, Section


class LoraConfig(Section):
    """The LoRA adapter of `method: lora`, with the names and meanings of `peft.LoraConfig`."""

    r: PositiveInt = 16
    """Rank of the adapter."""
    alpha: PositiveInt = 32
    """The adapter's output is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Without effect: all dropout is off, so that the loss scores the policy that drew the completions."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Layers that get an adapter."""
    exclude_modules: list[str] = Field(default_factory=list)
    """Layers that get none, by the end of their names, such as `down_proj` or `layers.0.mlp.up_proj`."""
    target_parameters: list[str] = Field(default_factory=list)
    """Weights that get an adapter though no linear layer holds them, such as a mixture's experts."""
    modules_to_save: list[str] = Field(default_factory=list)
    """Layers to train in full and store with the adapter, by the ends of their names: `model.norm`."""
    rank_pattern: dict[str, PositiveInt] = Field(default_factory=dict)
    """Other ranks: the end of a layer's name, or a regular expression for it → rank."""
    alpha_pattern: dict[str, PositiveInt] = Field(default_factory=dict)
    """Other values of alpha, in the same way."""
    use_rslora: bool = False
    """Scale the adapter's output by alpha / √r (rank-stabilized LoRA)."""
    use_dora: bool = False
    """Also train the norm of each column of the weights (DoRA): slower, in TRL's code."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Biases of the base model to train: none, all, or those of layers with an adapter."""
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True
    """Start of the adapter; it adds nothing at the start, and the base weights stay as they are."""

    @property
    def keeps_base(self) -> bool:
        """Whether the model without its adapter is the base model; PEFT does not restore biases."""
        return self.bias == "none"

    def describe(self) -> str:
        """The adapter in a few words, such as `LoRA, r 16, alpha 32, rsLoRA`."""
        parts = [f"{'DoRA' if self.use_dora else 'LoRA'}, r {self.r}, alpha {self.alpha}"]
        if self.use_rslora:
            parts.append("rsLoRA")
        if self.rank_pattern or self.alpha_pattern:
            parts.append("other ranks or alphas for some layers")
        if self.modules_to_save:
            parts.append(f"{' and '.join(self.modules_to_save)} in full")
        if self.bias != "none":
            parts.append("biases" if self.bias == "all" else "biases of its layers")
        return ", ".join(parts)
