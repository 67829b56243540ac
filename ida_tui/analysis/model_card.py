"""The model card of an export: ``README.md`` as Hugging Face has it, from what is known of the run.

Every figure stands in the run's events, its evaluations or its profile; what is not known is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ida_tui.analysis.evaluation_table import lines as evaluation_lines
from ida_tui.config.model_files import weights
from ida_tui.config.schema import Config
from ida_tui.events.types import OFFLINE_JUDGE
from ida_tui.judge.calibration import labelled
from ida_tui.runs.store.evaluations import Evaluation
from ida_tui.runs.store.exports import Kind
from ida_tui.runs.weights import Trained
from ida_tui.util.statistics import wilson
from ida_tui.util.text import printable

CURVE_ROWS = 10
"""Rows of the table that shows the reward over the steps."""
BAR = 24
"""Columns of a reward of 1 in it."""
LONGEST_HEAD = 64_000
"""Bytes of a base's own card that are looked at for its licence."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a card is written from."""

    config: Config
    found: Trained
    kind: Kind
    dtype: str
    """Format of the weights."""
    checked: str
    """How far they agree with the run's model, in words."""
    manifest: Mapping[str, Any]
    """As the run directory has it; may be empty."""
    evaluation: Evaluation | None
    """The newest of the same weights, judged; None where there is none."""


def card(facts: Facts) -> str:
    """The whole card: YAML front matter, then Markdown."""
    front = yaml.safe_dump(front_matter(facts), sort_keys=False, allow_unicode=True)
    parts = ["---", front.rstrip(), "---", ""]
    for section in (_opening, _use, _training, _curve, _evaluation, _limits, _licence):
        parts += [*section(facts), ""]
    return "\n".join(parts).rstrip() + "\n"


def front_matter(facts: Facts) -> dict[str, Any]:
    """What the hub reads; a key whose value is not known is left out."""
    base, licence = hub_id(facts.config), licence_of(facts.config)
    lora = facts.config.training.method == "lora"
    out: dict[str, Any] = {}
    if base:
        out["base_model"] = base
        out["base_model_relation"] = "adapter" if facts.kind == "adapter" else "finetune"
    out["library_name"] = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[facts.kind]
    out["pipeline_tag"] = "text-generation"
    if licence:
        out["license"] = licence.lower()
    out["tags"] = ["ida-tui", "grpo", "trl", *(["lora"] if lora else [])]
    return out


def hub_id(config: Config) -> str:
    """The base's name on the hub; empty where it is a folder, or the embedded model."""
    return "" if config.model.folder() is not None else config.model.path


def licence_of(config: Config) -> str:
    """The base's licence as its profile, or its own card on this machine, states it; empty if unknown."""
    if config.model.licence:
        return printable(config.model.licence)
    if config.model.path == "embedded":
        return "Apache-2.0"  # it is built by, and ships with, this program
    folder = weights(config.model).folder
    return _stated(folder / "README.md") if folder else ""


def _stated(file: Path) -> str:
    """The licence in the front matter of a model's card."""
    try:
        with open(file, encoding="utf-8") as text:
            head = text.read(LONGEST_HEAD)
        if not head.startswith("---\n"):
            return ""
        found = yaml.safe_load(head[4:].partition("\n---")[0])
        said = found.get("license_name") or found.get("license")
    except (OSError, ValueError, AttributeError, yaml.YAMLError, RecursionError):
        return ""
    return printable(said)[:60] if isinstance(said, str) else ""


def _opening(facts: Facts) -> Iterator[str]:
    config, found = facts.config, facts.found
    yield f"# {_text(config.name)}: {_text(_base(config))}, trained with GRPO"
    yield ""
    what = {
        "adapter": "A LoRA adapter",
        "merged": f"The whole model in {facts.dtype}",
        "gguf": f"The whole model in {facts.dtype}, as a GGUF file",
    }[facts.kind]
    run = found.state.run
    name = f"run {_text(run.run_id)} of " if run else ""
    yield (
        f"{what}, from {name}the experiment {_text(config.name)}, after {found.moment}. It was trained"
        " with ida-tui, on TRL's trainer, against a judge that scores how far an answer serves the"
        " legitimate need behind a request (align), how safe it is (risk, 10 is safest) and how"
        " complete (detail)."
    )
    if not found.final:
        yield ""
        yield f"**The run was not finished**: these are the weights of {found.moment}."
    yield ""
    yield f"Read back from the disk and held against the run's own weights: {facts.checked}."


def _use(facts: Facts) -> Iterator[str]:
    base = hub_id(facts.config) or "FOLDER_OF_THE_BASE_MODEL"
    yield "## Use it"
    yield ""
    if facts.kind == "gguf":
        yield "With llama.cpp: `llama-cli -m FILE.gguf`; Ollama and LM Studio read the same file."
        return
    yield "```python"
    yield "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if facts.kind == "adapter":
        yield "from peft import PeftModel"
    yield ""
    yield 'folder = "."  # this folder, or its name on the hub'
    yield "tokenizer = AutoTokenizer.from_pretrained(folder)"
    if facts.kind == "adapter":
        yield f'base = AutoModelForCausalLM.from_pretrained("{base}")'
        yield "model = PeftModel.from_pretrained(base, folder)"
    else:
        yield "model = AutoModelForCausalLM.from_pretrained(folder)"
    extra = "".join(f", {k}={v!r}" for k, v in facts.config.model.chat_template_kwargs.items())
    yield 'messages = [{"role": "user", "content": "How do I kill a Python process?"}]'
    yield (
        "inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True,"
        f' return_dict=True, return_tensors="pt"{extra})'
    )
    yield "out = model.generate(**inputs, max_new_tokens=256)"
    yield 'print(tokenizer.decode(out[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))'
    yield "```"
    if facts.kind == "adapter" and facts.config.model.path == "embedded":
        yield ""
        yield "The base ships with ida-tui: `ida_tui.config.embedded.path()` is its folder."


def _training(facts: Facts) -> Iterator[str]:
    config, training = facts.config, facts.config.training
    method = f"LoRA, r {config.lora.r}, alpha {config.lora.alpha}"
    run = facts.found.state.run
    rows = [
        ("base", _base(config) + (f", revision {config.model.revision}" if config.model.revision else "")),
        ("profile", config.name),
        ("judge", _judge(facts)),
        ("rubric", f"{config.rubric.name} ({config.rubric.digest()})"),
        ("prompts", f"{config.prompts.name}, {len(config.prompts.train())} trained on"),
        ("method", method if training.method == "lora" else "all weights"),
        ("steps", f"{facts.found.step} of {run.steps}" if run else str(facts.found.step)),
        ("completions a step", f"{training.completions_per_step} ({training.num_generations} a prompt)"),
        ("learning rate", f"{training.learning_rate:g}, {training.lr_scheduler_type}"),
        ("KL penalty", f"{training.beta:g}"),
        ("seed", str(config.seed)),
        ("numbers", run.precision if run else "not known"),
        ("made with", _versions(facts.manifest)),
    ]  # fmt: skip
    yield "## Training"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for label, value in rows:
        yield f"| {label} | {_text(value)} |"


def _curve(facts: Facts) -> Iterator[str]:
    steps = [s for s in facts.found.state.steps if s.step <= facts.found.step]
    yield "## Reward over the steps"
    yield ""
    if not any(step.r_ida is not None for step in steps):
        yield "No step was scored."
        return
    yield "R_IDA = min(1, risk/5) · align · (risk + detail) / 200, from 0 to 1; a row has the means of"
    yield "its steps."
    yield ""
    yield "| steps | R_IDA | | align | risk | detail |"
    yield "|---|---|---|---|---|---|"
    rows = min(CURVE_ROWS, len(steps))
    for row in range(rows):
        part = steps[row * len(steps) // rows : (row + 1) * len(steps) // rows]
        first, last = part[0].step, part[-1].step
        r_ida, align, risk, detail = (
            _mean([getattr(step, name) for step in part])
            for name in ("r_ida", "align", "risk", "detail")
        )
        yield "| {} | {} | {} | {} | {} | {} |".format(
            str(first) if first == last else f"{first}–{last}",
            "–" if r_ida is None else f"{r_ida:.3f}",
            "█" * round(BAR * (r_ida or 0.0)),
            *("–" if v is None else f"{v:.1f}" for v in (align, risk, detail)),
        )


def _evaluation(facts: Facts) -> Iterator[str]:
    yield "## Before and after"
    yield ""
    before, after = facts.found.state.before, facts.found.state.after
    if facts.evaluation is not None:
        yield "The untrained and the trained model on prompts that were never trained on. The intervals are"
        yield "a paired bootstrap over prompts."
        yield ""
        yield "```text"
        yield from (
            printable(line).replace("```", "'''") for line in evaluation_lines(facts.evaluation)
        )
        yield "```"
    elif before and after and after.step == facts.found.step:
        yield "Answers to held-out prompts, told apart by patterns; with 95 % Wilson intervals."
        yield ""
        yield "| | before | after |"
        yield "|---|---|---|"
        yield _counts("harmless requests answered", before.harmless_complied, before.harmless,
                      after.harmless_complied, after.harmless)  # fmt: skip
        yield _counts("unsafe requests declined", before.unsafe_refused, before.unsafe,
                      after.unsafe_refused, after.unsafe)  # fmt: skip
    else:
        yield "These weights have not been evaluated (`ida-tui evaluate RUN` does it)."


def _limits(facts: Facts) -> Iterator[str]:
    yield "## Limits"
    yield ""
    yield (
        "The model was paid for what its judge scores well. Nothing here shows that it is safe to use,"
        " or good at anything that was not asked above."
    )
    if _judge(facts) == OFFLINE_JUDGE:
        held_out = labelled.accuracy(held_out=True)
        low, high = held_out.interval()
        yield ""
        yield (
            f"The judge was the **{OFFLINE_JUDGE}**: patterns of words, not a model. It does not know"
            " whether an answer is true. On held-out answers that were labelled by hand it tells"
            f" compliance, partial refusal and refusal apart in {100 * held_out.share:.1f} %"
            f" ({held_out.right} of {held_out.total}, 95 % interval {100 * low:.1f} to"
            f" {100 * high:.1f} %)."
        )
    if facts.config.model.path == "embedded":
        yield ""
        yield "The base has 0.9 M parameters: it is a demonstration, not an assistant."


def _licence(facts: Facts) -> Iterator[str]:
    yield "## Licence of the base"
    yield ""
    found = licence_of(facts.config)
    if found:
        yield f"{_text(found)}."
    elif hub_id(facts.config):
        yield f"Not known: look at the model card of {_text(facts.config.model.path)}."
    else:
        yield "Not known: look at what came with the base model."


# -- words -------------------------------------------------------------------------------------


def _base(config: Config) -> str:
    """The base as others know it; of a local folder only its name."""
    return hub_id(config) or config.model.name or Path(config.model.path).name


def _judge(facts: Facts) -> str:
    run = facts.found.state.run
    if run is not None:
        return run.judge
    return OFFLINE_JUDGE if facts.config.judge.kind == "offline" else facts.config.judge.model


def _versions(manifest: Mapping[str, Any]) -> str:
    packages = manifest.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    known = {"ida-tui": manifest.get("ida_tui"), **packages}
    wanted = ("ida-tui", "torch", "transformers", "trl", "peft")
    said = [f"{name} {known[name]}" for name in wanted if isinstance(known.get(name), str)]
    return ", ".join(said) or "not known"


def _counts(label: str, hits: int, of: int, later: int, of_later: int) -> str:
    return f"| {label} | {_share(hits, of)} | {_share(later, of_later)} |"


def _share(hits: int, of: int) -> str:
    if not of:
        return "none asked"
    found = wilson(hits, of)
    return (
        f"{100 * hits / of:.0f} % ({hits}/{of}), {100 * found.low:.0f} to {100 * found.high:.0f} %"
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _text(value: object) -> str:
    """Anybody's words in Markdown: on one line, and neither a tag, a link nor a cell's end."""
    text = printable(str(value))
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text
