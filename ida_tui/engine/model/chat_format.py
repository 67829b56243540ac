"""Chat format of a model: conversations as token ids, and token ids as completions.

Training, evaluation, chat and exports all use it, so that a model sees the same prompt everywhere and its
thought is found everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase as Tokenizer

from ida_tui.config.conversation import ChatMessage, Context, chat_messages
from ida_tui.config.schema import ModelConfig
from ida_tui.errors import short_text
from ida_tui.util.thoughts import marker_tokens, opened_thought, split_thought

_PROBE_TEXT = "Hello"
_PROBE_SYSTEM = "Answer in one short sentence, please."


class ChatFormat:
    """The chat template and the special tokens of one model.

    Args:
        tokenizer: the model's tokenizer.
        model: gives the arguments of the chat template.
    """

    def __init__(self, tokenizer: Tokenizer, model: ModelConfig) -> None:
        self._tokenizer = tokenizer
        self._model = model

    # -- prompts ------------------------------------------------------------------------------

    def messages(self, text: str, context: Context = ()) -> list[ChatMessage]:
        """The messages of a conversation that ends with the user's text, as the template takes them."""
        has_system = any(role == "system" for role, _ in context)
        return chat_messages(text, context, merge_system=has_system and self.merges_system)

    def encode(self, text: str, context: Context = ()) -> list[int]:
        """Token ids of a conversation that ends with the user's text, up to where the answer starts."""
        ids: list[int] = self._apply_template(
            self.messages(text, context), tokenize=True, return_dict=True
        )["input_ids"]
        return ids

    def render(self, text: str, context: Context = ()) -> str:
        """The text of which `encode` gives the token ids."""
        return self._render(self.messages(text, context))

    def find_refused(self, contexts: Iterable[Context]) -> tuple[Context, str] | None:
        """The first of some contexts that the template cannot render, and why; None if there is none.

        One context of each sequence of roles is rendered.
        """
        by_roles = {tuple(role for role, _ in context): context for context in contexts if context}
        for context in by_roles.values():
            try:
                self.encode(_PROBE_TEXT, context)
            except Exception as error:
                return context, short_text(error) or type(error).__name__
        return None

    @cached_property
    def merges_system(self) -> bool:
        """Whether system prompts become a part of the user's message. Warns if they do.

        Some templates refuse a system message, and others drop it.
        """
        try:
            accepted = _PROBE_SYSTEM in self._render(
                chat_messages(_PROBE_TEXT, (("system", _PROBE_SYSTEM),))
            )
        except Exception:
            accepted = (
                False  # a template is a program by the model's authors, which can fail in any way
            )
        if not accepted:
            warnings.warn(
                "The model's chat template has no system role: the system prompt is put in front of the"
                " first user message",
                stacklevel=2,
            )
        return not accepted

    def _render(self, messages: list[ChatMessage]) -> str:
        text: str = self._apply_template(messages, tokenize=False)
        return text

    def _apply_template(self, messages: list[ChatMessage], **settings: Any) -> Any:
        return self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, **settings, **self._model.chat_template_kwargs
        )

    # -- completions --------------------------------------------------------------------------

    @cached_property
    def thought_opening(self) -> str:
        """The tag at the end of every prompt that opens a thought, with its line break; often empty."""
        return opened_thought(self._render(chat_messages(_PROBE_TEXT)))

    def decode(self, completion: Sequence[int]) -> str:
        """The text of a completion, with the tags of its thought, also if the prompt opened it."""
        return self.decode_all([completion])[0]

    def decode_all(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """The texts of completions; see `decode`."""
        if dropped := self._dropped_tokens:
            kept = [[token for token in row if token not in dropped] for row in completions]
            texts: list[str] = self._tokenizer.batch_decode(kept, skip_special_tokens=False)
        else:
            texts = self._tokenizer.batch_decode(completions, skip_special_tokens=True)
        return [self.thought_opening + text for text in texts] if self.thought_opening else texts

    @cached_property
    def _dropped_tokens(self) -> frozenset[int]:
        """Special tokens that no text contains; empty if no special token belongs to a thought."""
        special = {
            token_id: token.content
            for token_id, token in self._tokenizer.added_tokens_decoder.items()
            if token.special
        }
        markers = marker_tokens(frozenset(special.values()))
        if not markers:
            return frozenset()
        return frozenset(token_id for token_id, text in special.items() if text not in markers)

    def count_thought_tokens(self, text: str, tokens: int) -> int:
        """Length of a completion's thought, in tokens.

        Args:
            text: the completion, as `decode` returns it.
            tokens: its length in tokens.
        """
        parts = split_thought(text)
        if not parts.thought:
            return 0
        if parts.unfinished and not parts.answer:
            return tokens
        return min(
            tokens, len(self._tokenizer(parts.thought, add_special_tokens=False)["input_ids"])
        )
