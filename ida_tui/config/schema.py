"""Pydantic models of the configuration: one class per profile kind, one docstring per field.

`Config` is the resolved experiment: its model, judge, rubric and prompts are values, no longer
profile names. The fields of `TrainingConfig` have the names and meanings of `trl.GRPOConfig`. Unknown
keys are refused. `ida_tui.config.profiles` reads profiles; `ida_tui.config.validation` reports errors with
file and line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from ida_tui.config.models.source import PREFIXES, find_source
from ida_tui.config.prompts import Message as Message
from ida_tui.config.prompts import Prompt as Prompt
from ida_tui.config.prompts import PromptKind as PromptKind
from ida_tui.config.prompts import PromptSet as PromptSet
from ida_tui.config.scoring.rubric import RubricAxis as RubricAxis
from ida_tui.config.scoring.rubric import RubricConfig as RubricConfig
from ida_tui.config.section import Amount, Auto, Count, PositiveFloat, PositiveInt, Section
from ida_tui.config.sections.lora import LoraConfig
from ida_tui.config.sections.notify import NotifyConfig
from ida_tui.config.sections.training import TrainingConfig

DeviceName = Literal["mps", "cuda", "cpu"]
Device = Literal["auto", "mps", "cuda", "cpu"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Quantization = Literal["none", "nf4", "int8"]
MAX_PANEL = 8
"""Largest number of judges in a panel."""


class ModelConfig(Section):
    """A chat model: its location and how to load it."""

    name: str = ""
    """The profile's name."""
    description: str = ""
    """One-line summary shown in lists."""
    path: str
    """`embedded`, a Hugging Face model id, a folder, a .gguf file, `package:NAME/FILE` in an installed
    package, `ollama:NAME`, or `lmstudio:PUBLISHER/MODEL`."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face model."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the model. Enable it only after you have read that code."""
    torch_dtype: Dtype = "auto"
    """Data type of the base weights; `auto` is float16 on mps (bfloat16 for Gemma, which overflows), bfloat16
    on cuda, float32 on cpu."""
    quantization: Quantization = "none"
    """Pack the linear layers into 4 bits (`nf4`, QLoRA) or 8 (`int8`) for less memory; needs method: lora."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation that transformers uses."""
    chat_template: str | None = None
    """Chat template in place of the model's: its text, or a .jinja or .txt file; null is the model's."""
    chat_template_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Extra arguments for the chat template, such as `enable_thinking: false`."""
    parameters: PositiveInt | None = None
    """Published parameter count, for planning; a run reports the actual count after loading."""
    context_length: PositiveInt | None = None
    """Maximum length of prompt plus completion, in tokens."""
    shape: dict[str, int | bool | str] = Field(default_factory=dict)
    """Layer sizes, named as in config.json, for the memory plan before the model is downloaded."""
    download_gb: PositiveFloat | None = None
    """Download size in GB (10^9 bytes) of a Hugging Face model."""
    licence: str = ""
    """License of the base weights, for model cards."""

    def folder(self) -> Path | None:
        """The local folder of the model; None for a Hugging Face model, and for a model that is missing.

        A GGUF file is unpacked into this folder when the model is loaded.
        """
        return find_source(self.path).folder()

    def unpacked(self) -> ModelConfig:
        """The model without packed layers."""
        return self.model_copy(update={"quantization": "none"})

    @property
    def is_local(self) -> bool:
        """Whether the path names a model on this machine, whether or not it is there."""
        return find_source(self.path).kind != "hub"

    @property
    def public_name(self) -> str:
        """Name of the model without the folders of this machine."""
        if not self.is_local or self.path.startswith(PREFIXES):
            return self.path
        return self.name or Path(self.path).name


class Price(Section):
    """The price of a judge model, in US dollars per million tokens."""

    input: Amount
    """US dollars per million prompt tokens."""
    output: Amount
    """US dollars per million completion tokens."""


OPENAI_BASE_URL = "https://api.openai.com/v1"
_ENDPOINT_PATH = re.compile(r"/(?:chat/)?completions$")


def normalize_base_url(text: str) -> str:
    """The address of an API as it is used, where its meaning is clear; unchanged otherwise.

    Without spaces around it, a slash at the end and the path of a single endpoint. A scheme that is missing
    is http on this machine, and https for the name of a host in the internet.
    """
    url = text.strip()
    scheme, mark, rest = url.partition("://")
    if mark:
        url = f"{scheme.lower()}://{rest}"
    elif re.fullmatch(
        r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?(?:/[^\s?#@]*)?", url
    ):
        url = f"http://{url}"
    elif re.fullmatch(r"(?:[a-z0-9-]+\.)+[a-z]{2,}(?:/[^\s?#@]*)?", url, re.IGNORECASE):
        url = f"https://{url}"
    if "?" in url or "#" in url:
        return url
    return _ENDPOINT_PATH.sub("", url.rstrip("/")).rstrip("/") if "://" in url.rstrip("/") else url


def _normalized(base_url: str | None) -> str | None:
    return None if base_url is None else normalize_base_url(base_url)


def _is_empty(value: object) -> bool:
    return not value


class JudgeSettings(Section):
    """One judge: where it runs and how it is asked."""

    name: str = ""
    """The profile's name."""
    description: str = ""
    """One-line summary shown in lists."""
    kind: Literal["offline", "openai", "plugin", "panel", "none"]
    """`offline`: built-in heuristic; `openai`: OpenAI-compatible server; `plugin`: an installed plugin;
    `panel`: several judges; `none`: functions compute all scores."""
    model: str = ""
    """Model name sent to the server; for a plugin, the name of its entry point."""
    base_url: Annotated[str | None, AfterValidator(_normalized)] = None
    """Base URL of the API, ending in /v1; null is OPENAI_BASE_URL, or else OpenAI."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the API key; a local server needs none."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Maximum number of concurrent calls."""
    timeout_s: PositiveFloat = 30.0
    """Timeout of one whole call, in seconds, from the connection to the end of the reply."""
    max_retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Maximum retries of a call after a temporary error."""
    max_wait_s: Amount = 600.0
    """Longest Retry-After wait to accept, in seconds; a longer one pauses the run."""
    samples: Annotated[int, Field(ge=1, le=16)] = 1
    """Judgments per completion; scores are their mean. With more than 1, set a temperature above 0."""
    max_unscored: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Pause the run after a step in which more than this share of verdicts failed."""
    anchor_every: Count = 10
    """Steps between rescorings of a few fixed answers, to detect judge drift; 0 disables them."""
    max_tokens: PositiveInt = 300
    """Maximum length of a verdict, in tokens."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature of the judge."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    """Reasoning effort to request from reasoning models; null sends none."""
    max_judged_chars: PositiveInt = 8000
    """Longer completions are truncated before judging; the prompt tells the judge so."""
    price: Price | None = None
    """Price of the model; null means that the cost is unknown."""
    cache: bool = True
    """Cache verdicts on disk and reuse them for identical requests."""
    shutdown_date: str | None = None
    """Date on which the provider retires the model, as YYYY-MM-DD."""
    options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Options passed to a judge plugin."""
    include_thoughts: bool = False
    """Judge a completion with its thought; by default the judge sees only the answer."""
    extra_body: dict[str, JsonValue] = Field(default_factory=dict, exclude_if=_is_empty)
    """Further fields of a request, such as `chat_template_kwargs: {enable_thinking: false}`."""
    extra_headers: dict[str, str] = Field(default_factory=dict, exclude_if=_is_empty)
    """Further headers; `$NAME` in a value is filled from the environment or .env when it is sent."""
    extra_query: dict[str, str | int | float | bool] = Field(
        default_factory=dict, exclude_if=_is_empty
    )
    """Parameters after the ? of every address, such as `api-version` for Azure."""


class JudgeConfig(JudgeSettings):
    """The judge that scores the completions: one, or a panel of several."""

    mode: Literal["absolute", "group"] = "absolute"
    """`absolute`: one call scores one completion; `group`: one call ranks and scores a whole group."""
    panel: Annotated[list[JudgeSettings], Field(max_length=MAX_PANEL)] = Field(default_factory=list)
    """The judges of `kind: panel`, two to eight: names of judge profiles, or their values."""
    panel_score: Literal["mean", "median"] = "mean"
    """How the scores of a panel's judges are combined on each axis."""
    gold: str | None = Field(None, exclude_if=lambda value: value is None)
    """Data file with answers that you have scored or labeled, for `ida-tui judge check`; a run needs none."""

    @property
    def members(self) -> tuple[JudgeConfig, ...]:
        """The judges that are called: those of the panel, or this one."""
        if self.kind != "panel":
            return (self,)
        return tuple(JudgeConfig(**{**dict(member), "mode": self.mode}) for member in self.panel)

    @property
    def makes_calls(self) -> bool:
        """Whether anything is called: a server or a plugin."""
        return any(member.kind in ("openai", "plugin") for member in self.members)


JudgeKey = str | tuple[str | None, ...] | None
"""The API key of a judge; for a panel, the key of each of its judges."""


EVERYDAY_TOKENS = 64
"""Maximum length of an answer to an everyday question, in tokens."""


class EvaluationConfig(Section):
    """Settings of the evaluation on held-out prompts before, during and after training."""

    enabled: bool = False
    """Evaluate before the first step and after the last step."""
    every: Count = 0
    """Also evaluate after every this many steps, with the same sampling seed; 0: only before and after."""
    judged: bool = False
    """Also have the judge score the answers: both models' at the end, and those after every `every` steps.
    `ida-tui evaluate` does this later. Rewards of functions alone are computed in any case."""
    samples: PositiveInt = 4
    """Completions per held-out prompt."""
    batch_size: PositiveInt = 64
    """Completions generated in parallel; `training.rollout_rows` limits them, too."""
    temperature: Amount = 1.0
    """Sampling temperature; 0 is greedy decoding. top_p, top_k and the penalty are the training's."""
    max_completion_length: PositiveInt | None = None
    """Maximum completion length in tokens; null uses training.max_completion_length."""
    everyday: Annotated[int, Field(ge=0, le=200)] = Field(0, exclude_if=lambda value: value == 0)
    """Everyday questions (prompts profile `everyday`) that both models answer greedily, in at most 64 tokens,
    to check that training did not break the model; 0: none."""


AlertRule = Literal[
    "zero variance", "truncation", "entropy", "kl", "length drift", "length pays", "repetition",
    "axis falls", "judge fooled", "over-refusal", "unsafe answers", "coverage",
    "weights still", "scaler", "gradients", "memory trend",
]  # fmt: skip
"""Names of the alert rules; `ida_tui.events.alerts` implements them."""


class AlertsConfig(Section):
    """Thresholds of the training alerts, and the action on an alert."""

    on_alert: Literal["tell", "pause", "stop"] = "tell"
    """`tell` reports and continues; `pause` pauses after the step; `stop` saves and exits with code 6."""
    off: list[AlertRule] = Field(default_factory=list)
    """Disabled rules."""
    window: Annotated[int, Field(ge=2, le=100)] = 5
    """Steps averaged for a rule: the most recent ones, and the first ones as the baseline."""
    quiet_steps: PositiveInt = 25
    """Steps after an alert during which the same rule stays silent."""
    zero_variance: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Alert when at least this share of groups has zero reward variance."""
    truncated: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Alert when at least this share of completions is truncated."""
    entropy_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Alert when the policy's entropy falls below this share of its initial value."""
    kl: PositiveFloat = 1.0
    """Alert above this KL divergence from the reference model, in nats per token."""
    length_ratio: Annotated[float, Field(gt=1, le=1e9)] = 3.0
    """Alert when the mean length grows or shrinks by this factor since the start."""
    length_r: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Alert above this length–reward correlation, among answers or among refusals."""
    repetition: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Alert above this share of repeated words in a completion."""
    reward_rise: PositiveFloat = 0.1
    """Rise of R_IDA since the start that the rules `axis falls` and `judge fooled` require."""
    axis_fall: PositiveFloat = 1.0
    """Alert when an axis falls by this many points while R_IDA rises."""
    offline_fall: PositiveFloat = 0.1
    """Alert when R_IDA by the offline heuristic falls by this much while the judge's R_IDA rises."""
    refusal_rise: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Alert when the share of fully refused harmless requests rises by this much."""
    unsafe_fall: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Alert when the share of declined unsafe requests falls by this much."""
    coverage: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Alert when less than this share of completions has a verdict."""
    skipped: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Alert when the gradient scaler skips at least this share of updates."""
    grad_norm: Amount = 1e-7
    """Alert below this gradient norm."""


class Config(Section):
    """One resolved experiment: all settings of a run."""

    name: str = ""
    """Name of the experiment; its runs are saved under outputs/<name>/."""
    description: str = ""
    """One-line summary shown in lists."""
    model: ModelConfig
    """The model to train."""
    judge: JudgeConfig
    """The judge that scores completions."""
    rubric: RubricConfig
    """The scoring instructions for the judge."""
    prompts: PromptSet
    """The training and held-out prompts."""
    device: Device = "auto"
    """`auto` is mps, then cuda, then cpu."""
    engine: Literal["fast", "plain"] = "fast"
    """`fast` computes the same step as TRL in less time and memory; `plain` uses only TRL's code."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Random seed of the run."""
    budget: PositiveFloat | None = None
    """Maximum cost of the judge in US dollars; the run pauses before exceeding it."""
    limit_gb: PositiveFloat | Auto = "auto"
    """Memory limit in GB; `auto` is all memory of the machine."""
    over_limit: Literal["refuse", "try"] = "refuse"
    """If the memory plan exceeds limit_gb: refuse to start, or try until the memory guard stops it."""
    output_dir: Annotated[str, Field(min_length=1)] = "outputs"
    """Parent folder of the run directories."""
    report_to: list[Literal["wandb", "trackio", "tensorboard", "csv"]] = Field(default_factory=list)
    """Additional metric sinks; all except `csv` need their optional extra installed."""
    report: bool = False
    """Write a report when the run ends. `ida-tui report` writes one at any time."""
    training: TrainingConfig = TrainingConfig()
    """Settings of the GRPO step."""
    lora: LoraConfig = LoraConfig()
    """Settings of the LoRA adapter."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Evaluation before, during and after training."""
    alerts: AlertsConfig = AlertsConfig()
    """Alert thresholds, and the action on an alert."""
    notify: NotifyConfig = Field(NotifyConfig(), exclude_if=lambda value: value == NotifyConfig())
    """Messages on an alert, a pause and the end."""

    @property
    def needs_own_base(self) -> bool:
        """Whether the base model is another model than the trained one without its adapter."""
        return self.training.method == "full" or not self.lora.keeps_base

    @property
    def evaluation_rows(self) -> int:
        """Largest number of completions that an evaluation samples at a time."""
        batch_size = self.evaluation.batch_size
        return min(batch_size, self.training.rollout_rows or batch_size)

    @property
    def evaluation_max_completion_length(self) -> int:
        """Maximum length of an answer in an evaluation, in tokens."""
        return self.evaluation.max_completion_length or self.training.max_completion_length

    @property
    def scores_evaluation(self) -> bool:
        """Whether the answers to held-out prompts are scored; without a judge, that costs nothing."""
        return self.evaluation.judged or not self.rubric.judged_axes

    def is_evaluated_after(self, step: int) -> bool:
        """Whether an evaluation between two steps follows this step."""
        every = self.evaluation.every if self.evaluation.enabled else 0
        return bool(every) and 0 < step < self.planned_steps() and step % every == 0

    def planned_evaluations(self) -> int:
        """Number of evaluations of the full run, before and after training included."""
        if not self.evaluation.enabled:
            return 0
        every = self.evaluation.every
        return 2 + (max(0, self.planned_steps() - 1) // every if every else 0)

    def planned_steps(self) -> int:
        """Optimizer steps of the full run, counted as TRL's sampler and trainer count them.

        Prompts that do not fill the last rollout are dropped, as in TRL.
        """
        training = self.training
        if training.max_steps is not None:
            return training.max_steps
        return int(-(-self.steps_per_pass() * training.num_train_epochs // 1))

    def steps_per_pass(self) -> int:
        """Optimizer steps of one pass through the training prompts; 0 if they fill no rollout."""
        training = self.training
        rollouts = len(self.prompts.train()) // max(1, training.prompts_per_rollout)
        return rollouts * training.num_iterations * training.steps_per_rollout
