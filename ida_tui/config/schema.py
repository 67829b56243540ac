"""What a run is made of: one pydantic model per profile kind, one docstring per field.

`Config` is the resolved experiment: its model, judge, rubric and prompts are no longer names but
values. Field names of `TrainingConfig` are TRL's own (`trl.GRPOConfig`), so that what a person knows
of TRL holds here. Unknown keys are refused. Reading profiles and reporting an error with its file
and line is the business of `ida_tui.config.profiles` and `ida_tui.config.validation`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from ida_tui.config import embedded

Auto = Literal["auto"]
DeviceName = Literal["mps", "cuda", "cpu"]
Device = Literal["auto", "mps", "cuda", "cpu"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Kind = Literal["harmless", "unsafe"]
Split = Literal["train", "held-out"]
AXES = ("align", "risk", "detail")
PositiveInt = Annotated[int, Field(gt=0, le=10**15)]


class _Section(BaseModel):
    """Base of every section: frozen, unknown keys refused, attribute docstrings as descriptions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )


class ModelConfig(_Section):
    """A chat model: where it is, and how it is loaded."""

    name: str = ""
    """The profile's name."""
    description: str = ""
    """One line for the lists."""
    path: str
    """`embedded`, a folder on disk, or a Hugging Face model id."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model; only where you have read it yourself."""
    torch_dtype: Dtype = "auto"
    """Precision of the base weights; `auto` is float16 on mps, bfloat16 on cuda, float32 on cpu."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """The attention kernel that transformers uses."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Extra arguments of the chat template, such as `enable_thinking: false`."""
    parameters: PositiveInt | None = None
    """Parameter count as published, for the plan; the true count is reported once it is loaded."""
    context_length: PositiveInt | None = None
    """Longest prompt plus completion, in tokens."""
    shape: dict[str, int | bool | str] = Field(default_factory=dict)
    """Its sizes by the names of config.json, for the memory plan while its files are not here."""
    download_gb: PositiveFloat | None = None
    """Size of the download in GB (10^9 bytes), where the weights come from a hub."""
    licence: str = ""
    """Licence of the base weights, for model cards."""

    def folder(self) -> Path | None:
        """The model's folder where it is on this machine; None for a hub model."""
        if self.path == "embedded":
            return embedded.path()
        path = Path(self.path).expanduser()
        return path if path.is_dir() else None


class Prompt(_Section):
    """One request that the model is asked to answer."""

    id: Annotated[str, Field(min_length=1)]
    """Unique within its set."""
    kind: Kind
    """`harmless` requests should be served; `unsafe` ones declined with something safe offered."""
    split: Split = "train"
    """`train` prompts are trained on; `held-out` ones are only evaluated."""
    text: Annotated[str, Field(min_length=1)]
    """What the user says."""


class PromptSet(_Section):
    """The prompts of an experiment."""

    name: str = ""
    """The profile's name."""
    description: str = ""
    """One line for the lists."""
    version: int = 1
    """Raised when the texts change."""
    only: list[str] | None = None
    """Train on these prompt ids alone; held-out prompts stay as they are. Null trains on them all."""
    prompts: list[Prompt]
    """The prompts themselves."""

    def train(self) -> list[Prompt]:
        """The prompts that are trained on, in order."""
        train = [p for p in self.prompts if p.split == "train"]
        if self.only is None:
            return train
        only = set(self.only)
        return [p for p in train if p.id in only]

    def held_out(self) -> list[Prompt]:
        """The prompts that are only evaluated, in order."""
        return [p for p in self.prompts if p.split == "held-out"]


class RubricAxis(_Section):
    """One axis of the rubric, scored 0 to 10 in half points, higher is better."""

    zero: str
    """What a score of 0 means."""
    ten: str
    """What a score of 10 means."""
    checks: list[str] = Field(default_factory=list)
    """Anchored checks the judge goes through."""


class RubricAxes(_Section):
    """The three axes that R_IDA combines."""

    align: RubricAxis
    """How far the legitimate need behind the request is served."""
    risk: RubricAxis
    """Safety: 10 is safest."""
    detail: RubricAxis
    """How complete and specific the answer is."""


class RubricConfig(_Section):
    """What the judge is told to score."""

    name: str = ""
    """The profile's name."""
    description: str = ""
    """One line for the lists."""
    version: int = 1
    """Raised when the meaning changes; part of the judge cache's key."""
    task: str
    """What is being judged, in a few sentences; opens the judge's system message."""
    axes: RubricAxes
    """align, risk and detail."""
    scale: Literal["half_points", "integers"] = "half_points"
    """The steps of a score from 0 to 10; half points leave fewer ties inside a group."""
    formula: str = "r_ida"
    """How the axes become one reward: `r_ida`, or a formula that another package offers, by name."""
    order: Literal["scores_first", "reason_first"] = "scores_first"
    """Whether the judge writes its scores or its reason first."""

    def digest(self) -> str:
        """Twelve hexadecimal digits that change with anything the judge is told."""
        told = self.model_dump_json(exclude={"name", "description"})
        return hashlib.sha256(told.encode()).hexdigest()[:12]


class Price(_Section):
    """US dollars per million tokens."""

    input: Annotated[float, Field(ge=0)]
    """Price of a million prompt tokens."""
    output: Annotated[float, Field(ge=0)]
    """Price of a million completion tokens."""


class JudgeConfig(_Section):
    """Who scores the completions."""

    name: str = ""
    """The profile's name."""
    description: str = ""
    """One line for the lists."""
    kind: Literal["offline", "openai", "plugin"]
    """`offline`: the built-in heuristic; `openai`: an OpenAI-compatible server; `plugin`: another package."""
    model: str = ""
    """Model name sent to the server; of a plugin, the name of its entry point."""
    base_url: str | None = None
    """Root of the API, ending in /v1; null is OpenAI's own."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; a server on this machine needs none."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Calls in flight at once."""
    timeout_s: PositiveFloat = 30.0
    """Seconds before one call is given up."""
    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Repeats of a call after a passing fault."""
    max_wait_s: Annotated[float, Field(ge=0)] = 600.0
    """Longest wait that a server may ask for (Retry-After); a longer one pauses the run."""
    samples: Annotated[int, Field(ge=1, le=16)] = 1
    """Judgements of each completion; its scores are their mean. More than 1 wants a temperature."""
    max_unscored: Annotated[float, Field(ge=0, le=1)] = 0.25
    """A step in which more than this share has no verdict pauses the run."""
    anchor_every: Annotated[int, Field(ge=0)] = 10
    """Score the same few fixed answers again every so many steps, to notice a judge that drifts; 0 never."""
    max_tokens: PositiveInt = 300
    """Longest verdict, in tokens."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature of the judge."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    """Sent to models that reason; null sends nothing."""
    max_judged_chars: PositiveInt = 8000
    """A completion longer than this is cut before it is judged, and the judge is told so."""
    price: Price | None = None
    """Null means that the cost is not known (and is shown so)."""
    cache: bool = True
    """Keep verdicts on disk and reuse them for the same question."""
    shutdown_date: str | None = None
    """Day on which the provider retires the model, as YYYY-MM-DD."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Arguments for a plugin."""


class LoraConfig(_Section):
    """The adapter of `method: lora`."""

    r: PositiveInt = 16
    """Rank."""
    alpha: PositiveInt = 32
    """Scale of the update is alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input; TRL switches dropout off in training unless told otherwise."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """The layers that get an adapter."""


class TrainingConfig(_Section):
    """The GRPO step. Names and meanings are those of `trl.GRPOConfig`."""

    method: Literal["lora", "full"] = "lora"
    """Train an adapter (the reference is the model with it switched off), or every weight."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; null lets num_train_epochs decide."""
    num_train_epochs: PositiveFloat = 1.0
    """Passes over the prompts, where max_steps is null."""
    num_generations: Annotated[int, Field(ge=2)] = 8
    """Completions sampled for each prompt (the group size G)."""
    per_device_train_batch_size: PositiveInt = 1
    """Completions in one forward and backward pass."""
    gradient_accumulation_steps: PositiveInt = 8
    """Passes before the weights move; with the batch size it makes the completions of one step."""
    max_completion_length: PositiveInt = 256
    """Longest completion, in tokens."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate."""
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "constant"
    """How the learning rate changes over the run."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises to its peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's first-moment decay."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] | Auto = "auto"
    """AdamW's second-moment decay; `auto` is 0.999, or 0.99 where the moment itself is bfloat16."""
    adam_epsilon: PositiveFloat = 1e-8
    """AdamW's epsilon."""
    optim: Literal["auto", "adamw_torch", "adamw_torch_fused", "adamw_kahan", "adafactor"] = "auto"
    """The optimizer; `auto` is adamw_torch, fused only on cuda, or adamw_kahan for bfloat16 weights."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 0.0
    """Gradient clipping; 0 means no clipping, and no norm computed through the scaler."""
    fp16: bool | Auto = "auto"
    """fp16 autocast with a gradient scaler; `auto` is on for mps."""
    bf16: bool | Auto = "auto"
    """bf16 autocast; `auto` is on for cuda."""
    gradient_checkpointing: bool | Auto = "auto"
    """Recompute activations in the backward pass: slower, for less memory; `auto` does where it must."""
    token_budget: PositiveInt | Auto | None = None
    """Tokens in one pass; sets batch size and accumulation, not their product; `auto` is what fits."""
    rollout_rows: PositiveInt | None = None
    """Completions sampled at once, for less memory; null is all of a step."""
    use_vllm: bool = False
    """Sample with vLLM, through TRL: CUDA alone, with `engine: plain`, and vLLM installed."""
    vllm_mode: Literal["colocate", "server"] = "colocate"
    """In the processes that train, on their GPUs; or asked of a server on other GPUs."""
    vllm_server_base_url: str = "http://127.0.0.1:8000"
    """Where vLLM's server is."""
    vllm_gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of each GPU's memory for vLLM, where it is colocated."""
    vllm_tensor_parallel_size: PositiveInt = 1
    """GPUs that divide the model while sampling, where it is colocated."""
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL penalty towards the reference; 0 needs no reference pass."""
    epsilon: PositiveFloat = 0.2
    """PPO clipping range."""
    num_iterations: PositiveInt = 1
    """Updates on each batch of completions."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    """How token losses are averaged."""
    scale_rewards: Literal["group", "batch", "none"] = "batch"
    """What the advantage is divided by; `group` blows judge jitter up."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of the completions."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Sample among the k likeliest tokens; 0 is all of them."""
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """Smallest probability kept, relative to the likeliest token's."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1, repeated tokens become less likely."""
    mask_truncated_completions: bool = False
    """Leave completions that ran into max_completion_length out of the loss."""
    shuffle_dataset: bool = True
    """Draw the prompts in a seeded random order."""
    save_steps: Annotated[int, Field(ge=0)] = 0
    """Write a checkpoint every so many steps; 0 only at the end or when stopped."""
    save_total_limit: PositiveInt = 3
    """Checkpoints kept."""

    @property
    def completions_per_step(self) -> int:
        """Completions behind one optimizer step (the generation batch)."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def prompts_per_step(self) -> int:
        """Groups behind one optimizer step."""
        return self.completions_per_step // self.num_generations


class EvaluationConfig(_Section):
    """The held-out prompts, sampled before and after training."""

    enabled: bool = False
    """Evaluate before the first step and after the last."""
    judged: bool = False
    """Then have both models' answers judged, too; `ida-tui evaluate` does it any time."""
    samples: PositiveInt = 4
    """Completions sampled for each held-out prompt."""
    batch_size: PositiveInt = 64
    """Completions generated at once."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature; 0 is greedy."""
    max_completion_length: PositiveInt | None = None
    """Longest completion, in tokens; null takes the training's."""


AlertRule = Literal[
    "zero variance", "truncation", "entropy", "kl", "length drift", "length pays", "repetition",
    "axis falls", "judge fooled", "over-refusal", "unsafe answers", "coverage",
    "weights still", "scaler", "gradients", "memory trend",
]  # fmt: skip
"""What can be wrong with a training while its reward looks well; `ida_tui.events.alerts` has each."""


class AlertsConfig(_Section):
    """When a run says that something is wrong with its training, and what it does then."""

    on_alert: Literal["tell", "pause", "stop"] = "tell"
    """Say it and go on; or pause after the step; or stop with a checkpoint and exit code 6."""
    off: list[AlertRule] = Field(default_factory=list)
    """Rules that say nothing."""
    window: Annotated[int, Field(ge=2, le=100)] = 5
    """Steps whose mean is looked at; also those at the start that it is compared with."""
    quiet_steps: PositiveInt = 25
    """Steps after an alert in which its rule says nothing more."""
    zero_variance: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of groups whose completions all earn the same."""
    truncated: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of completions that run into max_completion_length."""
    entropy_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Entropy of the policy, as a share of what it was at the start, under which it has collapsed."""
    kl: PositiveFloat = 1.0
    """KL divergence from the reference, in nats a token."""
    length_ratio: Annotated[float, Field(gt=1)] = 3.0
    """Mean length over that at the start, or the other way round."""
    length_r: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Correlation of length and reward among completions that decline, or answer, alike."""
    repetition: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of a completion's words that it has said before."""
    reward_rise: PositiveFloat = 0.1
    """Rise of R_IDA since the start that a falling axis or second opinion is held against."""
    axis_fall: PositiveFloat = 1.0
    """Fall of an axis since the start, in points, while R_IDA rises."""
    offline_fall: PositiveFloat = 0.1
    """Fall of the offline heuristic's R_IDA since the start, while the judge's rises."""
    refusal_rise: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Rise of the share of harmless requests that are refused in full."""
    unsafe_fall: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Fall of the share of unsafe requests that are declined."""
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of completions that have a verdict, under which it is said."""
    skipped: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of updates that the gradient scaler skips."""
    grad_norm: Annotated[float, Field(ge=0)] = 1e-7
    """Gradient norm under which nothing is learned."""


class Config(_Section):
    """One resolved experiment: everything that a run needs to know."""

    name: str = ""
    """The experiment's name; the run's folder is outputs/<name>/."""
    description: str = ""
    """One line for the lists."""
    model: ModelConfig
    """The policy."""
    judge: JudgeConfig
    """Who scores."""
    rubric: RubricConfig
    """What is scored."""
    prompts: PromptSet
    """What is asked."""
    device: Device = "auto"
    """`auto` is mps, then cuda, then cpu."""
    engine: Literal["fast", "plain"] = "fast"
    """`fast` computes the same step in less time and memory; `plain` is TRL's own code throughout."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random in the run."""
    budget: PositiveFloat | None = None
    """US dollars that the judge of a run may cost; the run pauses before it costs more."""
    limit_gb: PositiveFloat | Auto = "auto"
    """The memory to stay under, in GB; `auto` is what the machine has."""
    over_limit: Literal["refuse", "try"] = "refuse"
    """Whether a run whose memory plan is over limit_gb is refused, or tried until the guard stops it."""
    output_dir: Annotated[str, Field(min_length=1)] = "outputs"
    """Where run directories are made."""
    report_to: list[Literal["wandb", "trackio", "tensorboard", "csv"]] = Field(default_factory=list)
    """Other places the step figures are sent to; each but `csv` needs its extra installed."""
    report: bool = False
    """Write the report of the run when it is done; `ida-tui report` does it any time."""
    training: TrainingConfig = TrainingConfig()
    """The GRPO step."""
    lora: LoraConfig = LoraConfig()
    """The adapter."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Before and after."""
    alerts: AlertsConfig = AlertsConfig()
    """What is said when the training goes wrong, and what is done then."""

    def planned_steps(self) -> int:
        """Optimizer steps of the whole run, as TRL's sampler and trainer will count them.

        Prompts that do not fill a last batch are dropped, as TRL drops them.
        """
        training = self.training
        if training.max_steps is not None:
            return training.max_steps
        per_epoch = (len(self.prompts.train()) // max(1, training.prompts_per_step)) * (
            training.num_iterations
        )
        return int(-(-per_epoch * training.num_train_epochs // 1))
