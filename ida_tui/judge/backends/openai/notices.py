"""Notices about a judge's server that never gives a usable verdict: what is wrong, and what to do.

Each is said once. The failed verdicts have the cause in a few words.
"""

from __future__ import annotations

from ida_tui.config.schema import JudgeConfig
from ida_tui.judge.errors import redact

MAX_QUOTED_CHARS = 80


def thought_notice(config: JudgeConfig) -> str:
    """What to do if the thoughts of a judge reach the token limit; what its profile has does not help."""
    limit = config.max_tokens
    remedies = []
    if config.reasoning_effort != "none":
        remedies.append("judge.reasoning_effort=none (OpenAI, Ollama)")
    if "chat_template_kwargs" not in config.extra_body:
        setting = "'judge.extra_body.chat_template_kwargs={enable_thinking: false}'"
        remedies.append(f"{setting} (vLLM, SGLang, llama.cpp)")
    off = f", or turn thinking off: {', or '.join(remedies)}" if remedies else ""
    return (
        f"the judge {config.model} spends all of judge.max_tokens={limit} on its thought and gives no"
        f" verdict: raise judge.max_tokens (such as {max(2000, 4 * limit)}){off}"
    )


def cut_failure(limit: int) -> str:
    """Why a verdict on a request failed that the server has cut."""
    return f"the server cut the request to {limit:,} tokens: its context is too short"


def cut_notice(model: str, limit: int, words: int) -> str:
    """What to do about a server that cuts requests."""
    return (
        f"the server of the judge {model} counted {limit:,} tokens in a request that has at least {words:,}: "
        "its context is too short, and it cuts off the start of the request, the rubric, without an error. "
        "Such verdicts fail. Give it a longer context (Ollama: OLLAMA_CONTEXT_LENGTH=16384 for the server, "
        "or num_ctx in a Modelfile; other servers: the context length with which the model is loaded). If "
        "only long answers are affected, lower judge.max_judged_chars"
    )


def no_verdict_notice(model: str, failure: str, reply: str, key: str | None) -> str:
    """What a judge replies that has never given a verdict; `key` is removed from it."""
    start = redact(reply, key)[:MAX_QUOTED_CHARS].strip()
    quoted = f', and its reply begins: "{start}"' if start else ""
    return (
        f"the judge {model} has given no verdict yet ({redact(failure, key)}){quoted}. Its replies are not "
        "requested again until it gives one. Choose a model that follows the form of the reply; "
        "ida-tui judge check shows what it does"
    )
