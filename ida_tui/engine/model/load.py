"""Model and tokenizer loading, the adapter's configuration, and parameter counts."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.distributed import DistributedConfig

from ida_tui.config.model_files import find_damaged_weights, inspect_model, model_problem
from ida_tui.config.models.source import find_source
from ida_tui.config.precision import WeightFormat
from ida_tui.config.schema import ModelConfig
from ida_tui.config.sections.lora import LoraConfig
from ida_tui.engine.device.packed import PackedLinear
from ida_tui.engine.model.chat_format import ChatFormat
from ida_tui.engine.model.generation import prepare_for_generation
from ida_tui.engine.model.quantize import loading_arguments, use_packed_layers
from ida_tui.engine.model.unpack import unpack
from ida_tui.errors import IdaError, out_of_memory_message, short_text
from ida_tui.util.format import format_count

logger = logging.getLogger("ida_tui")
"""Its warnings are shown in the run, like those of the libraries."""


def model_source(model: ModelConfig) -> str:
    """The folder or hub id that transformers loads the model from. A GGUF file is unpacked first.

    Raises:
        IdaError: the file cannot be unpacked.
    """
    source = find_source(model.path)
    if source.kind == "gguf" and source.place is not None:
        return str(unpack(source.place))
    return str(source.place or model.path)


def require_safe_files(model: ModelConfig) -> None:
    """Check the model's local files before a library reads them.

    Raises:
        IdaError: a file is not a regular file or of absurd size, or the chat template does not end.
    """
    if problem := model_problem(model):
        raise IdaError(*problem)


def load_tokenizer(model: ModelConfig) -> Tokenizer:
    """Load the tokenizer, prepared for generation: it pads on the left, with EOS if it has no pad token.

    Raises:
        IdaError: the tokenizer cannot be loaded, or has no chat template that can be used.
    """
    require_safe_files(model)
    try:
        config = _load_config(model)
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            model_source(model),
            revision=model.revision,
            truncation_side="left",
            padding_side="left",
            trust_remote_code=model.trust_remote_code,
        )
    except Exception as error:
        raise _cannot_load(model, error) from error
    if model.chat_template is not None:
        tokenizer.chat_template = model.chat_template
    if not tokenizer.chat_template:
        raise IdaError(
            f"model {model.name or model.path} has no chat template",
            "choose the chat (instruct) variant of the model: model=NAME\n"
            "or give it one, a .jinja file or a text: model.chat_template=FILE",
        )
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _configured_end_token(model, config, tokenizer)
    if tokenizer.eos_token_id is None:
        raise IdaError(
            f"the tokenizer of model {model.name or model.path} has no end token (eos_token)",
            "training needs one to know when an answer ends: set eos_token in tokenizer_config.json",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    _check_chat_template(model, tokenizer)
    return tokenizer


def _configured_end_token(model: ModelConfig, config: Any, tokenizer: Tokenizer) -> str | None:
    """The end token of the generation configuration or the configuration; None if they name none."""
    try:
        generation = GenerationConfig.from_pretrained(model_source(model), revision=model.revision)
    except (OSError, ValueError):  # there is none, or it cannot be read
        generation = GenerationConfig()
    for ids in (generation.eos_token_id, getattr(config.get_text_config(), "eos_token_id", None)):
        first = ids[0] if isinstance(ids, list) and ids else ids
        if isinstance(first, int):
            token: str | None = tokenizer.convert_ids_to_tokens(first)
            return token
    return None


def local_token_ids(model: ModelConfig) -> Callable[[str], list[int]] | None:
    """The token ids of texts without a template; None if the tokenizer is not on this machine.

    Code that comes with the model is not run.
    """
    if model.trust_remote_code or not inspect_model(model).complete:
        return None
    try:
        tokenizer = load_tokenizer(model)
    except IdaError:
        return None
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_chat_template(model: ModelConfig, tokenizer: Tokenizer) -> None:
    """Render one message; a template is a program by the model's authors, which can fail in any way."""
    try:
        ids = ChatFormat(tokenizer, model).encode("Hello")
        problem = "" if ids else "it renders a message as nothing"
    except Exception as error:
        if out_of_memory_message(error):
            raise
        problem = short_text(error) or type(error).__name__
    if problem:
        repair = (
            "repair chat_template.jinja (or chat_template in tokenizer_config.json) in the model's"
            " folder,"
        )
        if model.chat_template is not None:
            repair = "repair the template in model.chat_template,"
        raise IdaError(
            f"the chat template of model {model.name or model.path} is broken: {problem}",
            f"{repair}\nor choose another model: model=NAME",
        )


def save_tokenizer(model: ModelConfig, folder: Path) -> None:
    """Write the model's tokenizer with the profile's chat template, without other settings from here.

    Raises:
        OSError: the tokenizer cannot be read or written.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model_source(model), revision=model.revision, trust_remote_code=model.trust_remote_code
    )
    if model.chat_template is not None:
        tokenizer.chat_template = model.chat_template
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only"):
        settings.pop(name, None)
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(
    model: ModelConfig, dtype: WeightFormat, tokenizer: Tokenizer, *, shards: int = 1
) -> Any:
    """Load a model in the given number format into host memory, prepared for generation with this tokenizer.

    Args:
        model: the model's profile.
        dtype: number format of the weights.
        tokenizer: the model's tokenizer.
        shards: number of processes that load a part each, onto their devices (torch's FSDP2).

    Raises:
        IdaError: the weights cannot be loaded, are incomplete, or do not belong to the tokenizer.
    """
    require_safe_files(model)
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(
            model_source(model),
            revision=model.revision,
            dtype=getattr(torch, dtype),
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,  # loading pickled weights can run arbitrary code
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `_find_mismatch` names them
            **loading_arguments(model),
            **({"distributed_config": DistributedConfig(fsdp_size=shards)} if shards > 1 else {}),
        )
        problem = _find_mismatch(loaded, report, tokenizer, model)
    except Exception as error:
        raise _cannot_load(model, error) from error
    if problem:
        raise _cannot_load(model, ValueError(problem))
    if model.quantization != "none":
        use_packed_layers(loaded, getattr(torch, dtype))
    if find_source(model.path).kind == "gguf":
        loaded.name_or_path = model.path  # PEFT writes it to adapter_config.json
    _name_untied_head(loaded)
    prepare_for_generation(loaded, tokenizer)
    return loaded


_UNUSED_TENSORS = re.compile(
    r"(?P<vision>(?:^|\.)(?:vision\w*|visual|audio\w*|image\w*|multi_?modal\w*|embed_vision|mm_\w+)\.)"
    r"|(?P<mtp>(?:^|\.)mtp\w*\.)"
    r"|(?P<buffer>rotary_emb\.\w+$|\.(?:attn|attention)\.(?:masked_)?bias$|\.position_ids$)"
)
"""Tensors of files that a causal language model does not need: other senses, draft heads, old buffers."""
_UNUSED_NAMES = {"vision": "of a picture or sound encoder", "mtp": "of a draft head (MTP)"}


def _sort_unexpected(names: Iterable[str], settings: Any) -> tuple[list[str], dict[str, int]]:
    """The tensors of a file that the model lacks: those that it should have, and counts of harmless ones."""
    layers = int(getattr(settings, "num_hidden_layers", None) or 0)
    drafts = int(getattr(settings, "num_nextn_predict_layers", None) or 0)
    refused: list[str] = []
    unused: dict[str, int] = {}
    for name in sorted(names):
        found = _UNUSED_TENSORS.search(name)
        layer = re.search(r"\blayers\.(\d+)\.", name)
        is_draft = layer is not None and layers <= int(layer[1]) < layers + drafts
        kind = "mtp" if is_draft else found.lastgroup if found else None
        if kind is None:
            refused.append(name)
        elif kind in _UNUSED_NAMES:
            unused[kind] = unused.get(kind, 0) + 1
    return refused, unused


def _find_mismatch(loaded: Any, report: Any, tokenizer: Tokenizer, model: ModelConfig) -> str:
    """How the weights differ from what config.json and the tokenizer say; empty if they agree."""
    # transformers fills absent weights with random numbers and only warns.
    if missing := sorted(report["missing_keys"]):
        return f"its files lack {format_count(len(missing), 'weight')}, such as {missing[0]}"
    if mismatched := sorted(str(row[0]) for row in report["mismatched_keys"]):
        return f"{mismatched[0]} has another shape than config.json says"
    refused, unused = _sort_unexpected(report["unexpected_keys"], loaded.config.get_text_config())
    if refused:
        return (
            f"its files have {format_count(len(refused), 'tensor')} that its configuration does not"
            f" describe, such as {refused[0]}"
        )
    for kind, count in unused.items():
        verb = "tensor %s is" if count == 1 else "tensors %s are"
        logger.warning(f"%d {verb} not loaded", count, _UNUSED_NAMES[kind])
    rows = loaded.get_input_embeddings().weight.shape[0]
    # A tokenizer may have more tokens that no text of the template contains, such as Gemma's for pictures.
    template = ChatFormat(tokenizer, model).encode("Hello")
    used = (tokenizer.vocab_size - 1, tokenizer.eos_token_id, tokenizer.pad_token_id, *template)
    if max(token or 0 for token in used) >= rows:
        return (
            f"its tokenizer has {len(tokenizer):,} tokens, but its weights are for {rows:,}"
            " (vocab_size)"
        )
    return ""


def _name_untied_head(loaded: Any) -> None:
    """Correct a configuration that ties the output layer, if the files have another one.

    transformers keeps both, but programs that read an export would drop the output layer.
    """
    settings = loaded.config.get_text_config()
    head = loaded.get_output_embeddings()
    if not getattr(settings, "tie_word_embeddings", False) or head is None:
        return
    if head.weight is not loaded.get_input_embeddings().weight:
        loaded.config.tie_word_embeddings = settings.tie_word_embeddings = False


def load_structure(model: ModelConfig) -> Any:
    """The model's layers without their weights, on the meta device, which has no memory.

    Raises:
        IdaError: config.json describes no model.
    """
    try:
        settings = _load_config(model)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                settings, trust_remote_code=model.trust_remote_code
            )
    except Exception as error:
        raise _cannot_load(model, error) from error


def _load_config(model: ModelConfig) -> Any:
    # Always pass this flag: without it transformers prompts on the terminal.
    return AutoConfig.from_pretrained(
        model_source(model), revision=model.revision, trust_remote_code=model.trust_remote_code
    )


def peft_config(lora: LoraConfig, model: ModelConfig) -> Any:
    """PEFT's configuration of the profile's adapter for this base model."""
    import peft

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,  # see `turn_off_dropout`
        target_modules=lora.target_modules,
        exclude_modules=lora.exclude_modules or None,
        target_parameters=lora.target_parameters or None,
        modules_to_save=lora.modules_to_save or None,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        bias=lora.bias,
        init_lora_weights=lora.init_lora_weights,
        task_type="CAUSAL_LM",
        revision=model.revision if model.folder() is None else None,
    )


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Number of parameters of the base model, and of trainable parameters."""

    base: int
    trainable: int


def count_parameters(model: torch.nn.Module) -> ParameterCounts:
    """Count parameters. Tied weights count once, and adapter weights do not count as base weights."""
    base = trainable = 0
    packed = {
        id(layer.weight): layer.in_features * layer.out_features
        for layer in model.modules()
        if isinstance(layer, PackedLinear)
    }
    for name, parameter in model.named_parameters():
        if "lora_" not in name and ".modules_to_save." not in name:
            base += packed.get(id(parameter), parameter.numel())
        if parameter.requires_grad:
            trainable += parameter.numel()
    return ParameterCounts(base, trainable)


def _cannot_load(model: ModelConfig, error: Exception) -> Exception:
    """The error to raise instead of the libraries' error, which may be of any type for damaged files."""
    if isinstance(error, IdaError) or out_of_memory_message(error):
        return error
    detail = short_text(error) or type(error).__name__
    if not isinstance(error, OSError | ValueError | ImportError):
        detail = f"its files are damaged or do not belong together ({detail})"
    if "does not support an attention implementation" in detail:
        return IdaError(
            f"cannot load {model.path}: {detail}",
            "use the model's own attention: model.attn_implementation=eager",
        )
    source = find_source(model.path)
    if source.kind == "gguf":
        return IdaError(
            f"cannot load {model.path}: {detail}",
            "choose another GGUF file, or the model's original: model=ORG/NAME",
        )
    folder = model.folder()
    if folder is not None:
        return IdaError(
            f"cannot load the model in {folder}: {find_damaged_weights(folder) or detail}",
            "the folder must contain config.json, tokenizer files and *.safetensors\n"
            "of a causal language model; copy or download them again",
        )
    return IdaError(
        f"cannot load {model.path}: {detail}",
        f"check the name and the network, or download the model first: hf download {model.path}\n"
        "model=embedded needs no download",
    )
