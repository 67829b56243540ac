"""A tiny model for real model servers, which answers every request with the same verdict."""

from __future__ import annotations

from pathlib import Path


def save_verdict_model(folder: Path, verdict: str) -> None:
    """Write a Qwen3 model that answers with `verdict`, one token of its tokenizer, and ends.

    Attention and MLP add nothing, so that the next token follows from the last one alone: the verdict from
    any token, the end from the verdict.
    """
    import torch
    from tokenizers import AddedToken
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from ida_tui.config import embedded

    tokenizer = AutoTokenizer.from_pretrained(embedded.model_folder())
    tokenizer.add_tokens([AddedToken(verdict, normalized=False)])
    answer, end = tokenizer.convert_tokens_to_ids(verdict), tokenizer.eos_token_id
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, head_dim=16, max_position_embeddings=8192,
            tie_word_embeddings=False, eos_token_id=end, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.model.norm.weight.fill_(1)
        embedded_tokens, scores = model.model.embed_tokens.weight, model.lm_head.weight
        embedded_tokens[:, 0] = 1
        embedded_tokens[answer, 0], embedded_tokens[answer, 1] = 0, 1
        scores[answer, 0] = scores[end, 1] = 100
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
