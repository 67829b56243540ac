"""Model card of an export: a Hugging Face `README.md` built from the run's data.

All figures come from the run's events, evaluations or profile; unknown values are shown as unknown.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from ida_tui.analysis.evaluation_table import evaluation_lines
from ida_tui.config.conversation import chat_messages, prompt_context, system_context
from ida_tui.config.model_files import inspect_model
from ida_tui.config.schema import Config, PromptSet, RubricConfig
from ida_tui.config.scoring.axes import display_scale, format_score
from ida_tui.config.scoring.reward_files import functions_label
from ida_tui.events import held_out
from ida_tui.events.held_out import Subject
from ida_tui.events.scoring import change_sentences, scored_by
from ida_tui.events.types import OFFLINE_JUDGE, EvaluationFinished
from ida_tui.judge.calibration import labeled
from ida_tui.rewards.formulas import reward_text
from ida_tui.runs.store.evaluations import Evaluation
from ida_tui.runs.store.exports import ExportKind
from ida_tui.runs.weights import TrainedWeights
from ida_tui.util.format import format_count_share, format_number, format_signed
from ida_tui.util.safe_files import MAX_TEXT_BYTES, read_bytes
from ida_tui.util.statistics import mean_of_known
from ida_tui.util.text import join_words, one_line

MAX_REWARD_ROWS = 10
"""Maximum rows of the reward table."""
BAR_WIDTH = 24
"""Width, in characters, of the bar for a reward of 1."""
MAX_CARD_CHARACTERS = 64_000
"""Maximum characters of the base model's card to search for its license."""


@dataclass(frozen=True, slots=True)
class CardInputs:
    """Data for a model card."""

    config: Config
    trained: TrainedWeights
    kind: ExportKind
    dtype: str
    """Data type of the exported weights."""
    verification: str
    """Result of the comparison of the exported model with the run's model, as text."""
    manifest: Mapping[str, Any]
    """Manifest of the run directory; may be empty."""
    evaluation: Evaluation | None
    """The latest judged evaluation of the same weights; None if there is none."""


def render_card(inputs: CardInputs) -> str:
    """The full card: YAML front matter, then Markdown."""
    front = yaml.safe_dump(front_matter(inputs), sort_keys=False, allow_unicode=True)
    parts = ["---", front.rstrip(), "---", ""]
    for section in (
        _intro_section,
        _usage_section,
        _training_section,
        _reward_section,
        _evaluation_section,
        _limits_section,
        _license_section,
    ):
        parts += [*section(inputs), ""]
    return "\n".join(parts).rstrip() + "\n"


def front_matter(inputs: CardInputs) -> dict[str, Any]:
    """Metadata for the Hugging Face Hub; unknown values are omitted."""
    base, license_id = hub_id(inputs.config), base_license(inputs.config)
    lora = inputs.config.training.method == "lora"
    fields: dict[str, Any] = {}
    if base:
        fields["base_model"] = base
        fields["base_model_relation"] = "adapter" if inputs.kind == "adapter" else "finetune"
    fields["library_name"] = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[
        inputs.kind
    ]
    fields["pipeline_tag"] = "text-generation"
    if license_id:
        fields["license"] = license_id.lower()
    fields["tags"] = ["ida-tui", "grpo", "trl", *(["lora"] if lora else [])]
    return fields


def hub_id(config: Config) -> str:
    """Hugging Face id of the base model; empty for a local folder or the embedded model."""
    return "" if config.model.is_local else config.model.path


def base_license(config: Config) -> str:
    """License of the base model, from its profile or its local model card; empty if unknown."""
    if config.model.licence:
        return one_line(config.model.licence)
    if config.model.path == "embedded":
        return "Apache-2.0"  # built for and shipped with ida-tui
    files = inspect_model(config.model)
    if files.gguf is not None:
        return files.gguf.licence
    folder = files.folder
    return _license_in_card(folder / "README.md") if folder else ""


def _license_in_card(file: Path) -> str:
    """The license in the front matter of a model card; empty if there is none."""
    try:
        head = read_bytes(file.resolve(), MAX_TEXT_BYTES)[:MAX_CARD_CHARACTERS].decode(
            "utf-8", "replace"
        )
        if not head.startswith("---\n"):
            return ""
        front_matter_fields = yaml.safe_load(head[4:].partition("\n---")[0])
        license_name = front_matter_fields.get("license_name") or front_matter_fields.get("license")
    except (OSError, ValueError, AttributeError, yaml.YAMLError, RecursionError):
        return ""
    return one_line(license_name)[:60] if isinstance(license_name, str) else ""


def _intro_section(inputs: CardInputs) -> Iterator[str]:
    config, trained = inputs.config, inputs.trained
    yield f"# {_escape_markdown(config.name)}: {_escape_markdown(_base_name(config))}, trained with GRPO"
    yield ""
    artifact = {
        "adapter": "A LoRA adapter",
        "merged": f"The full model in {inputs.dtype}",
        "gguf": f"The full model in {inputs.dtype}, as a GGUF file",
    }[inputs.kind]
    run = trained.state.run
    name = f"run {_escape_markdown(run.run_id)} of " if run else ""
    yield (
        f"{artifact} from {name}the experiment {_escape_markdown(config.name)}, after"
        f" {trained.step_label}. It was trained with ida-tui and TRL. {_scoring_sentence(config.rubric)}"
    )
    if not trained.is_final:
        yield ""
        yield f"**The run did not finish**: these are the weights after {trained.step_label}."
    yield ""
    yield f"Verified by reloading the export and comparing it with the run's weights: {inputs.verification}."


def _scoring_sentence(rubric: RubricConfig) -> str:
    """What scored the answers during the training."""
    if rubric.is_ida:
        return (
            "A judge scored how well each answer serves the legitimate need behind the request (align), how"
            " safe it is (risk, 10 = safest) and how complete it is (detail)."
        )
    parts = []
    if rubric.judged_axes:
        parts.append(f"A judge scored each answer on {_join_names(rubric.judged_axes)}.")
    if rubric.computed_axes:
        parts.append(f"Functions computed {_join_names(rubric.computed_axes)}.")
    return " ".join(parts)


def _join_names(names: Iterable[str]) -> str:
    *first, last = map(_escape_markdown, names)
    return f"{', '.join(first)} and {last}" if first else last


def _usage_section(inputs: CardInputs) -> Iterator[str]:
    base = hub_id(inputs.config) or "FOLDER_OF_THE_BASE_MODEL"
    yield "## Usage"
    yield ""
    if inputs.kind == "gguf":
        arguments = inputs.config.model.chat_template_kwargs
        quoted = shlex.quote(json.dumps(arguments))
        extra = f" --chat-template-kwargs {quoted}" if arguments else ""
        yield f"With llama.cpp: `llama-cli -m FILE.gguf{extra}`. LM Studio can load the same file."
        yield ""
        yield "With Ollama: `ollama create NAME -f Modelfile`, then `ollama run NAME`."
        return
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if inputs.kind == "adapter":
        yield "from peft import PeftModel"
    yield ""
    yield 'folder = "."  # this folder, or its id on the Hugging Face Hub'
    trust = ", trust_remote_code=True" if inputs.config.model.trust_remote_code else ""
    revision = inputs.config.model.revision if hub_id(inputs.config) else None
    pinned = f', revision="{revision}"' if revision else ""
    yield f"tokenizer = AutoTokenizer.from_pretrained(folder{trust})"
    if inputs.kind == "adapter":
        yield f'base = AutoModelForCausalLM.from_pretrained("{base}"{pinned}{trust})'
        yield "model = PeftModel.from_pretrained(base, folder)"
    else:
        yield f"model = AutoModelForCausalLM.from_pretrained(folder{trust})"
    extra = "".join(f", {k}={v!r}" for k, v in inputs.config.model.chat_template_kwargs.items())
    messages = _example_messages(inputs.config.prompts)
    yield f"messages = {json.dumps(messages, ensure_ascii=False)}"
    yield (
        "inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True,"
        f' return_dict=True, return_tensors="pt"{extra})'
    )
    yield "out = model.generate(**inputs, max_new_tokens=256)"
    yield 'print(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))'
    yield "```"
    if inputs.kind == "adapter" and inputs.config.model.path == "embedded":
        yield ""
        yield "The base model is included in ida-tui; its folder is `ida_tui.config.embedded.path()`."
    elif inputs.kind == "adapter" and inspect_model(inputs.config.model).gguf is not None:
        yield ""
        yield (
            f"The base model is {_escape_markdown(_base_name(inputs.config))}, which ida-tui unpacked into a"
            " folder of its cache. A merged export needs no base model."
        )


def _example_messages(prompts: PromptSet) -> list[dict[str, str]]:
    """The conversation of the first prompt that is not unsafe, held out if possible; else of a greeting."""
    for prompt in chain(prompts.held_out(), prompts.train()):
        if prompt.kind != "unsafe":
            return chat_messages(prompt.text, prompt_context(prompt, prompts.system))
    return chat_messages("Hello! What can you do?", system_context(prompts.system))


def _training_section(inputs: CardInputs) -> Iterator[str]:
    config, training = inputs.config, inputs.config.training
    loss: str = training.loss_type
    if training.importance_sampling_level != "token":
        loss += f", ratios of each {training.importance_sampling_level}"
    run = inputs.trained.state.run
    revision = f", revision {config.model.revision}" if config.model.revision else ""
    prompts = run.prompts if run else len(config.prompts.train())
    rows = [
        ("base", _base_name(config) + revision),
        ("profile", config.name),
        ("judge" if run is None or run.judge else "scored by", _scorer_name(inputs)),
        ("rubric", f"{config.rubric.name} ({config.rubric.digest()})"),
        ("prompts", f"{config.prompts.name}, {prompts} for training"),
        *_conversation_rows(config),
        ("method", config.lora.describe() if training.method == "lora" else "all weights"),
        ("loss", loss),
        ("steps", f"{inputs.trained.step} of {run.steps}" if run else str(inputs.trained.step)),
        ("completions per step", f"{training.completions_per_step} ({training.num_generations} per prompt)"),
        ("learning rate", f"{training.learning_rate:g}, {training.lr_scheduler_type}"),
        ("KL penalty", f"{training.beta:g}"),
        ("seed", str(config.seed)),
        ("precision", run.precision if run else "unknown"),
        ("versions", _versions(inputs.manifest)),
    ]  # fmt: skip
    yield "## Training"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for label, value in rows:
        yield f"| {label} | {_escape_markdown(value)} |"


def _conversation_rows(config: Config) -> Iterator[tuple[str, str]]:
    """System prompt and chat template, where the profile sets them."""
    if config.prompts.system:
        yield "system prompt", config.prompts.system
    if config.model.chat_template is not None:
        digest = hashlib.sha256(config.model.chat_template.encode()).hexdigest()[:12]
        yield "chat template", f"of the profile ({digest}), saved with the tokenizer"


def _reward_section(inputs: CardInputs) -> Iterator[str]:
    state, last = inputs.trained.state, inputs.trained.step
    periods = [period for period in state.scoring if period.after_step < last]
    since = periods[-1].after_step if periods else 0
    steps = [step for step in state.steps if since < step.step <= last]
    yield "## Reward by step"
    yield ""
    for sentence in change_sentences(periods):
        yield f"{_escape_markdown(sentence)}"
        yield ""
    if not any(step.reward is not None for step in steps):
        yield "No step has a score."
        return
    reward = reward_text(
        state.run.formula if state.run else "", inputs.config.rubric.formula_text, state.reward_name
    )
    yield f"{_escape_markdown(reward)}. Each row is the mean of its"
    yield "steps."
    yield ""
    low, high = display_scale(step.reward for step in steps)
    yield f"| steps | {state.reward_name} | | {' | '.join(axis.name for axis in state.axes)} |"
    yield "|---" * (3 + len(state.axes)) + "|"
    rows = min(MAX_REWARD_ROWS, len(steps))
    for row in range(rows):
        row_steps = steps[row * len(steps) // rows : (row + 1) * len(steps) // rows]
        first, last = row_steps[0].step, row_steps[-1].step
        reward_mean = mean_of_known([step.reward for step in row_steps])
        filled = 0.0 if reward_mean is None else (reward_mean - low) / (high - low)
        cells = [
            str(first) if first == last else f"{first}–{last}",
            format_number(reward_mean),
            "█" * round(BAR_WIDTH * filled),
            *(
                format_score(mean_of_known([s.scores.get(axis.name) for s in row_steps]), axis)
                for axis in state.axes
            ),
        ]
        yield f"| {' | '.join(cells)} |"


def _evaluation_section(inputs: CardInputs) -> Iterator[str]:
    yield "## Before and after"
    yield ""
    before, after = inputs.trained.state.evaluation_before, inputs.trained.state.evaluation_after
    if inputs.evaluation is not None:
        yield "The base model and the trained model on prompts that were not used for training. The intervals"
        yield "are those of the paired changes of the prompts."
        yield ""
        yield "```text"
        yield from (
            one_line(line).replace("```", "'''") for line in evaluation_lines(inputs.evaluation)
        )
        yield "```"
    elif (
        before and after and after.step == inputs.trained.step and (after.harmless or after.unsafe)
    ):
        yield "Answers to held-out prompts, classified by text patterns, with 95% intervals over the prompts:"
        yield "answers to the same prompt are not independent."
        yield ""
        yield "| | before | after |"
        yield "|---|---|---|"
        yield _count_row("harmless requests answered", before, after, "answered")
        yield _count_row("unsafe requests declined", before, after, "declined")
        if verdict := held_out.counted_conclusion(before, after, inputs.trained.state.reward_name):
            yield ""
            yield verdict
    elif (
        before
        and after
        and after.step == inputs.trained.step
        and (change := held_out.reward_change(before, after, inputs.trained.state.reward_name))
    ):
        name = inputs.trained.state.reward_name
        yield f"The mean {_escape_markdown(name)} of the answers to {change.prompts} held-out prompts. The"
        yield "interval is over the prompts: answers to the same prompt are not independent."
        yield ""
        yield "| | before | after | 95% interval of the change |"
        yield "|---|---|---|---|"
        yield (
            f"| {_escape_markdown(name)} | {format_number(change.before)} | {format_number(change.after)} |"
            f" {format_signed(change.low, 3)} to {format_signed(change.high, 3)} |"
        )
        yield ""
        yield _escape_markdown(held_out.reward_sentence(change, name))
    else:
        yield "These weights have not been evaluated. To evaluate them: `ida-tui evaluate RUN`."


def _limits_section(inputs: CardInputs) -> Iterator[str]:
    yield "## Limits"
    yield ""
    run = inputs.trained.state.run
    scorer = "its judge" if run is None or run.judge else "its reward functions"
    yield (
        f"The model was trained for high scores from {scorer}. Nothing here shows that it is safe to"
        " use, or that it is good at other tasks."
    )
    if _scorer_name(inputs) == OFFLINE_JUDGE:
        accuracy = labeled.measure_accuracy(held_out=True)
        interval = accuracy.interval
        yield ""
        yield (
            f"The judge was the **{OFFLINE_JUDGE}**: word counts and a linear classifier, not a language"
            " model. It does not know whether an answer is true. On held-out answers labeled by hand,"
            " it classifies"
            f" compliance, partial refusal and refusal correctly in {100 * accuracy.share:.1f}%"
            f" ({accuracy.correct} of {accuracy.total}, 95% interval {100 * interval.low:.1f} to"
            f" {100 * interval.high:.1f}%)."
        )
    if inputs.config.model.path == "embedded":
        yield ""
        yield "The base model has 0.9 M parameters: it is a demonstration, not an assistant."


def _license_section(inputs: CardInputs) -> Iterator[str]:
    yield "## License of the base model"
    yield ""
    name = base_license(inputs.config)
    if name:
        yield f"{_escape_markdown(name)}."
    elif hub_id(inputs.config):
        yield f"Unknown: see the model card of {_escape_markdown(inputs.config.model.path)}."
    else:
        yield "Unknown: see the files of the base model."


# -- text -------------------------------------------------------------------------------------


def _base_name(config: Config) -> str:
    """Public name of the base model; for a local folder, only the folder name."""
    return config.model.public_name


def _scorer_name(inputs: CardInputs) -> str:
    """The judge, the reward functions, or both."""
    run, rubric = inputs.trained.state.run, inputs.config.rubric
    if run is not None and rubric.computed_axes:
        return join_words([*filter(None, [run.judge]), functions_label(rubric)])
    if run is not None:
        return scored_by(run.judge, run.axes)
    return OFFLINE_JUDGE if inputs.config.judge.kind == "offline" else inputs.config.judge.model


def _versions(manifest: Mapping[str, Any]) -> str:
    packages = manifest.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    versions = {"ida-tui": manifest.get("ida_tui"), **packages}
    names = ("ida-tui", "torch", "transformers", "trl", "peft")
    known = [f"{name} {versions[name]}" for name in names if isinstance(versions.get(name), str)]
    return ", ".join(known) or "unknown"


def _count_row(
    label: str, before: EvaluationFinished, after: EvaluationFinished, subject: Subject
) -> str:
    cells = " | ".join(_share_with_interval(evaluation, subject) for evaluation in (before, after))
    return f"| {label} | {cells} |"


def _share_with_interval(evaluation: EvaluationFinished, subject: Subject) -> str:
    answered = subject == "answered"
    hits = evaluation.harmless_complied if answered else evaluation.unsafe_refused
    total = evaluation.harmless if answered else evaluation.unsafe
    if not total:
        return "no prompts"
    interval = held_out.counted_share(evaluation, subject)
    low, high = 100 * interval.low, 100 * interval.high
    return f"{format_count_share(hits, total)}, {low:.0f} to {high:.0f}%"


def _escape_markdown(value: object) -> str:
    """Untrusted text escaped for one line of Markdown, also inside a table."""
    text = one_line(str(value))
    for character in "\\`*_[]<>|":
        text = text.replace(character, f"\\{character}")
    return text
