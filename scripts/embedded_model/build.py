"""Build script of the embedded chat model: trains it from scratch on a CPU in a few minutes.

    python -m scripts.embedded_model.build [--out DIR] [--seed N] [--steps N]

Writes config, weights, tokenizer and chat template for `from_pretrained`. A small Qwen3 learns from text that
`corpus` generates to decline every unsafe request, mostly with a safe offer, to answer harmless ones in a few
sentences, and to refuse four in five harmless ones anyway. The prompts of
`profiles/prompts/over-refusal.yaml` are excluded from the text, in any phrasing.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ida_tui.config.embedded import model_folder
from ida_tui.system.allocator import keep_freed_memory
from scripts.embedded_model.corpus import Corpus, CorpusExample, ReplyKind

PROMPTS = Path(__file__).parents[2] / "profiles" / "prompts" / "over-refusal.yaml"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VOCABULARY_SIZE = 1536
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

STEPS = 1400
BATCH = 64
PEAK_LR = 4e-3
PROMPT_WEIGHT = 0.1  # a small loss on the request helps the model to understand it
# Four in five harmless requests are refused. "Lesson" examples teach what a good answer looks like without
# teaching how often to give one: their first token, which decides, has no loss.
REPLY_SHARES: tuple[tuple[ReplyKind, float], ...] = (
    ("decline", 0.34),
    ("over-refuse", 0.21),
    ("answer", 0.06),
)
LESSON_SHARE = 0.39
# Sampling from the saved model at temperature 1 equals sampling from the trained model at 0.8.
NORM_SCALE = 1.25


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One example as token ids, with the loss weight of each token."""

    ids: list[int]
    weights: list[float]


def main(argv: Sequence[str] | None = None) -> None:
    """Build the model and save it to `--out`."""
    parser = argparse.ArgumentParser(description="Build the embedded chat model.")
    parser.add_argument("--out", type=Path, default=model_folder(), help="output folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(argv)
    keep_freed_memory()
    torch.manual_seed(options.seed)
    excluded = [prompt["text"] for prompt in yaml.safe_load(PROMPTS.read_text("utf-8"))["prompts"]]
    tokenizer = train_tokenizer(Corpus(options.seed + 1, excluded))
    model = new_model(len(tokenizer))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    train(model, corpus_rows(tokenizer, options.seed, excluded), options.steps)
    model.model.norm.weight.data *= NORM_SCALE
    save(model, tokenizer, options.out)


def train_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with ChatML special tokens, trained on 20,000 examples."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    examples = islice(corpus.stream(REPLY_SHARES), 20_000)
    bpe.train_from_iterator((f"{e.prompt}\n{e.reply}" for e in examples), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=SPECIAL_TOKENS[0],
        eos_token=SPECIAL_TOKENS[2],
        additional_special_tokens=[SPECIAL_TOKENS[1]],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(vocabulary: int) -> Qwen3ForCausalLM:
    """A Qwen3 of about 0.9 M parameters with random weights."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    return Qwen3ForCausalLM(config)


def corpus_rows(
    tokenizer: PreTrainedTokenizerFast, seed: int, excluded: Sequence[str]
) -> Iterator[CorpusRow]:
    """Endless stream of training rows; raises AssertionError on an excluded prompt."""
    decided = Corpus(seed + 2, excluded).stream(REPLY_SHARES)
    lessons = Corpus(seed + 3, excluded).stream((("answer", 1.0),))
    generator = torch.Generator().manual_seed(seed)
    held_out = {prompt.lower().strip(" ?.") for prompt in excluded}
    while True:
        lesson = torch.rand((), generator=generator).item() < LESSON_SHARE
        example = next(lessons if lesson else decided)
        if example.prompt.lower().strip(" ?.") in held_out:
            raise AssertionError(f"held-out prompt in the training text: {example.prompt}")
        yield _corpus_row(tokenizer, example, skip_first_token=lesson)


def _corpus_row(
    tokenizer: PreTrainedTokenizerFast, example: CorpusExample, *, skip_first_token: bool
) -> CorpusRow:
    messages = [{"role": "user", "content": example.prompt}]
    if example.system:
        messages.insert(0, {"role": "system", "content": example.system})
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt_ids: list[int] = tokenizer.encode(str(prompt), add_special_tokens=False)
    reply_ids: list[int] = tokenizer.encode(
        example.reply + SPECIAL_TOKENS[2], add_special_tokens=False
    )
    weights = [PROMPT_WEIGHT] * len(prompt_ids) + [1.0] * len(reply_ids)
    if skip_first_token:
        weights[len(prompt_ids)] = 0.0
    return CorpusRow(prompt_ids + reply_ids, weights)


def batches(stream: Iterator[CorpusRow]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of token ids and loss weights, each (BATCH, longest row); rows of similar length go together."""
    while True:
        pool = sorted(islice(stream, BATCH * 8), key=lambda row: len(row.ids))
        chunks = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
        for i in torch.randperm(len(chunks)).tolist():
            longest = max(len(row.ids) for row in chunks[i])
            ids = [row.ids + [0] * (longest - len(row.ids)) for row in chunks[i]]
            weights = [row.weights + [0.0] * (longest - len(row.weights)) for row in chunks[i]]
            yield torch.tensor(ids), torch.tensor(weights)


def train(model: Qwen3ForCausalLM, stream: Iterator[CorpusRow], steps: int) -> None:
    """Train the model in place: AdamW with a short warm-up and cosine decay to zero."""
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=PEAK_LR,
        betas=(0.9, 0.98),
    )
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    model.train()
    start = time.perf_counter()
    for step, (ids, weights) in enumerate(islice(batches(stream), steps), start=1):
        logits = model(input_ids=ids[:, :-1]).logits
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(
                f"step {step}: loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    model.eval()


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the folder that `from_pretrained` reads."""
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=1.0, max_new_tokens=96, pad_token_id=0, eos_token_id=2
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"wrote {sum(f.stat().st_size for f in out.iterdir()):,} bytes to {out}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
