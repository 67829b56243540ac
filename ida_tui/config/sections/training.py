"""Settings of the GRPO step, with the names and meanings of `trl.GRPOConfig`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from ida_tui.config.section import (
    Amount,
    Auto,
    Count,
    Divisor,
    PositiveFloat,
    PositiveInt,
    Section,
)

Share = Annotated[float, Field(ge=0, le=1)]
LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
Schedule = Literal[
    "constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial",
    "inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay",
]  # fmt: skip
"""The learning-rate schedules of transformers, without those that follow an evaluation's loss."""
SamplingWeights = Literal["model", "bfloat16", "int8"]
"""Number format of the frozen weights while completions are drawn; `model` is the model's own."""

Sharding = Literal["none", "fsdp"]
"""How several processes hold the model's weights; `fsdp` is torch's FSDP2."""


class TrainingConfig(Section):
    """Settings of the GRPO step, with the names and meanings of `trl.GRPOConfig`."""

    method: Literal["lora", "full"] = "lora"
    """Train a LoRA adapter (the reference model is the base model without it), or all weights."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps; null uses num_train_epochs."""
    num_train_epochs: PositiveFloat = 1.0
    """Passes over the training prompts, if max_steps is null."""
    num_generations: Annotated[int, Field(ge=2, le=10**15)] = 8
    """Completions sampled per prompt (the group size G)."""
    per_device_train_batch_size: PositiveInt = 1
    """Completions per forward and backward pass."""
    gradient_accumulation_steps: PositiveInt = 8
    """Passes per optimizer step; times the batch size, this is the number of completions per step."""
    max_completion_length: PositiveInt = 256
    """Maximum completion length, in tokens."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate."""
    lr_scheduler_type: Schedule = "constant"
    """Learning-rate schedule."""
    lr_scheduler_kwargs: dict[str, int | float | str] = Field(default_factory=dict)
    """Arguments of the schedule, such as `min_lr_rate: 0.1` of cosine_with_min_lr."""
    warmup_steps: Count | Annotated[float, Field(ge=0, lt=1)] = 0
    """Steps of learning-rate warmup; a number below 1 is a share of all steps."""
    weight_decay: Amount = 0.0
    """Weight decay of AdamW."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """First-moment decay of AdamW."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    """Second-moment decay of AdamW; `auto` is 0.999, or 0.99 if the moment is stored in bfloat16."""
    adam_epsilon: PositiveFloat = 1e-8
    """Epsilon of AdamW."""
    optim: Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_kahan", "adafactor"] = "auto"
    """Optimizer; `auto` is adamw_torch (fused on cuda), or adamw_kahan for trained bfloat16 weights."""
    max_grad_norm: Amount = 0.0
    """Maximum gradient norm for clipping; 0 disables clipping."""
    fp16: bool | Auto = "auto"
    """fp16 autocast with a gradient scaler; `auto` enables it on mps."""
    bf16: bool | Auto = "auto"
    """bf16 autocast; `auto` enables it on cuda."""
    gradient_checkpointing: bool | Auto = "auto"
    """Recompute activations in the backward pass: slower, less memory; `auto` only when needed to fit."""
    token_budget: PositiveInt | Auto | None = None
    """Maximum tokens per pass; sets the batch size, not completions per step; `auto` is what fits."""
    rollout_rows: PositiveInt | None = None
    """Completions sampled at a time; fewer need less memory. Null samples all of a step."""
    sharding: Sharding = Field("none", exclude_if=lambda value: value == "none")
    """Divide the weights among several processes (`fsdp`, with `engine: plain`), or give each all of them."""
    sampling_weights: SamplingWeights = Field("model", exclude_if=lambda value: value == "model")
    """Draw completions with weights in `bfloat16` or `int8`, and correct the loss for it; CPU only."""
    use_vllm: bool = False
    """Sample with vLLM through TRL; needs CUDA and an installed vLLM (docs/distributed.md)."""
    vllm_mode: Literal["colocate", "server"] = "colocate"
    """Where vLLM runs: inside the training processes, or as a server on other GPUs."""
    vllm_server_base_url: str = "http://127.0.0.1:8000"
    """URL of the vLLM server."""
    vllm_gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of each GPU's memory for a colocated vLLM."""
    vllm_tensor_parallel_size: PositiveInt = 1
    """Number of GPUs that a colocated vLLM splits the model across."""
    vllm_enable_sleep_mode: bool = Field(False, exclude_if=lambda value: value is False)
    """Free a colocated vLLM's memory during the update; it gets its weights again for every rollout."""
    beta: Amount = 0.0
    """KL coefficient; 0 needs no reference pass."""
    epsilon: PositiveFloat = 0.2
    """Clipping range of the probability ratio."""
    epsilon_high: PositiveFloat | None = None
    """Upper clipping range; null is epsilon. For cispo, the largest ratio itself, such as 5."""
    delta: PositiveFloat | None = None
    """Largest ratio of completions with a negative advantage (two-sided clipping); null is no limit."""
    num_iterations: PositiveInt = 1
    """Optimizer updates per batch of completions."""
    steps_per_generation: PositiveInt | None = None
    """Passes that share one rollout, a multiple of gradient_accumulation_steps; null is one step's."""
    generation_batch_size: PositiveInt | None = None
    """The same as a number of completions: how many a rollout samples."""
    loss_type: LossType = "dapo"
    """The loss (docs/losses.md); `bnpo` depends on the batch size, the others do not."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Probability ratios of tokens, or of whole completions (GSPO, with loss_type grpo)."""
    sapo_temperature_neg: Divisor = 1.05
    """Temperature of sapo's gate for completions with an advantage of 0 or less."""
    sapo_temperature_pos: Divisor = 1.0
    """Temperature of sapo's gate for completions with a positive advantage."""
    vespo_k_pos: Amount = 2.0
    """Exponent of vespo's weight for positive advantages: larger reduces ratios below 1 more."""
    vespo_lambda_pos: Amount = 3.0
    """Decay of vespo's weight for positive advantages: larger reduces ratios above 1 more."""
    vespo_k_neg: Amount = 3.0
    """Exponent of vespo's weight for negative advantages."""
    vespo_lambda_neg: Amount = 2.0
    """Decay of vespo's weight for negative advantages."""
    top_entropy_quantile: Share = 1.0
    """Share of tokens in the loss: those with the highest entropy; 1 is all."""
    entropy_coef: Amount = 0.0
    """Coefficient of an entropy bonus in the loss; 0 adds none."""
    use_adaptive_entropy: bool = False
    """Raise entropy_coef in every step below entropy_target, lower it above, and apply it only below."""
    entropy_coef_min: Amount = 0.0
    """Smallest adaptive coefficient."""
    entropy_coef_max: Amount = 1.0
    """Largest adaptive coefficient."""
    entropy_coef_delta: Amount = 0.005
    """Change of the adaptive coefficient in a step."""
    entropy_target: Amount = 0.2
    """Mean entropy per token, in nats, that adaptive control keeps."""
    off_policy_mask_threshold: PositiveFloat | None = None
    """Leave out completions with a negative advantage beyond this KL from the policy that drew them."""
    use_bias_correction_kl: bool = True
    """Weight the KL term by the probability ratio, which makes its gradient unbiased."""
    scale_rewards: Literal["group", "batch", "none"] = "batch"
    """Standard deviation that divides the advantages; `group` amplifies judge noise."""
    temperature: Divisor = 1.0
    """Sampling temperature for completions."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling threshold."""
    top_k: Count = 0
    """Sample from the k most likely tokens; 0 means all."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Minimum token probability, relative to the most likely token."""
    repetition_penalty: Divisor = 1.0
    """Values above 1 make repeated tokens less likely."""
    mask_truncated_completions: bool = False
    """Exclude truncated completions from the loss."""
    shuffle_dataset: bool = True
    """Shuffle the prompts with the run's seed."""
    save_steps: Count = 0
    """Steps between checkpoints; 0 saves only at the end or on stop."""
    save_total_limit: PositiveInt = 3
    """Maximum number of checkpoints on disk; older ones are deleted."""

    extra: dict[str, JsonValue] = Field(default_factory=dict)
    """Other arguments of `trl.GRPOConfig`, by name, such as `ddp_timeout: 3600`; checked by name and type."""

    @property
    def draws_from_another_policy(self) -> bool:
        """Whether the policy that draws completions rounds differently from the one that is trained."""
        return self.use_vllm or self.sampling_weights != "model"

    @property
    def corrects_sampling(self) -> bool:
        """Whether TRL corrects the loss for the policy that drew the completions."""
        correct = self.extra.get("vllm_importance_sampling_correction", True)
        return self.draws_from_another_policy and bool(correct)

    @property
    def completions_per_step(self) -> int:
        """Completions per optimizer step."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def completions_per_rollout(self) -> int:
        """Completions that are sampled together (TRL's generation batch), for one or more steps."""
        passes = self.steps_per_generation or self.gradient_accumulation_steps
        return self.generation_batch_size or self.per_device_train_batch_size * passes

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps that share the completions of one rollout, each with another part of them."""
        return max(1, self.completions_per_rollout // self.completions_per_step)

    @property
    def prompts_per_rollout(self) -> int:
        """Prompts, and so groups, per rollout."""
        return self.completions_per_rollout // self.num_generations

    def with_batch(self, batch_size: int, passes: int) -> TrainingConfig:
        """The settings with another batch size and number of passes; a rollout serves as many steps."""
        shared = self.steps_per_rollout
        changes = {
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": passes,
            "steps_per_generation": shared * passes if shared > 1 else None,
            "generation_batch_size": None,
        }
        return self.model_copy(update=changes)
