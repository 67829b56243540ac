"""Capabilities of an endpoint: its structured output format and the parameters it refuses.

Servers that call themselves OpenAI-compatible differ. A `Dialect` starts with the strictest output
format and steps down when the server refuses; what worked is stored for the endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from ida_tui.judge.backends.openai.prompt import SCHEMA_NAME


class Rung(IntEnum):
    """Ways to request structured output, strictest first."""

    JSON_SCHEMA = 0
    """`response_format: json_schema`, strict."""
    JSON_OBJECT_SCHEMA = 1
    """`json_object` with llama.cpp's `schema` field; the schema is in the prompt too."""
    JSON_OBJECT = 2
    """`json_object`; the schema is in the prompt."""
    PROMPT_ONLY = 3
    """No response format; the schema is in the prompt."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The request options that one endpoint accepts, besides the model and the messages."""

    rung: Rung = Rung.JSON_SCHEMA
    token_limit: str | None = "max_tokens"
    """The name of the parameter that limits the reply's length; None sends no limit."""
    dropped: frozenset[str] = frozenset()
    """Optional parameters that the endpoint refused."""

    @property
    def schema_in_prompt(self) -> bool:
        """Whether the prompt must contain the JSON schema."""
        return self.rung is not Rung.JSON_SCHEMA

    def words(self) -> str:
        """The output format and the refused parameters, for display."""
        output_format = {
            Rung.JSON_SCHEMA: "json_schema, strict",
            Rung.JSON_OBJECT_SCHEMA: "json_object with a schema",
            Rung.JSON_OBJECT: "json_object, with the schema in the prompt",
            Rung.PROMPT_ONLY: "no response format, with the schema in the prompt",
        }[self.rung]
        refused = sorted(self.dropped)
        return output_format + (f" (refused: {', '.join(refused)})" if refused else "")

    def lower(self) -> Dialect | None:
        """The same with the next simpler output format; None if there is none."""
        if self.rung is Rung.PROMPT_ONLY:
            return None
        return replace(self, rung=Rung(self.rung + 1))

    def without(self, parameter: str) -> Dialect:
        """The same without `parameter`. max_tokens first becomes max_completion_tokens."""
        if parameter == "max_tokens":
            return replace(self, token_limit="max_completion_tokens")
        if parameter == "max_completion_tokens":
            return replace(self, token_limit=None)
        return replace(self, dropped=self.dropped | {parameter})

    def body(
        self,
        schema: Mapping[str, object],
        *,
        max_tokens: int,
        temperature: float,
        reasoning_effort: str | None,
    ) -> dict[str, object]:
        """The options of a request body, without the model and the messages."""
        body: dict[str, object] = {"temperature": temperature}
        if reasoning_effort is not None:
            body["reasoning_effort"] = reasoning_effort
        for parameter in self.dropped:
            body.pop(parameter, None)
        if self.token_limit is not None:
            body[self.token_limit] = max_tokens
        match self.rung:
            case Rung.JSON_SCHEMA:
                body["response_format"] = {
                    "type": "json_schema",
                    "json_schema": {"name": SCHEMA_NAME, "strict": True, "schema": schema},
                }
            case Rung.JSON_OBJECT_SCHEMA:
                body["response_format"] = {"type": "json_object", "schema": schema}
            case Rung.JSON_OBJECT:
                body["response_format"] = {"type": "json_object"}
            case Rung.PROMPT_ONLY:
                pass
        return body


class DialectMemory(Protocol):
    """Storage of endpoint capabilities."""

    def recall(self, endpoint: str) -> Dialect | None:
        """The stored capabilities of an endpoint; None if there are none."""

    def remember(self, endpoint: str, dialect: Dialect) -> None:
        """Store the capabilities of an endpoint, replacing earlier ones."""


class InMemoryDialects:
    """Storage of endpoint capabilities in memory, until the process ends."""

    def __init__(self) -> None:
        self._known: dict[str, Dialect] = {}

    def recall(self, endpoint: str) -> Dialect | None:
        """The stored capabilities of an endpoint; None if there are none."""
        return self._known.get(endpoint)

    def remember(self, endpoint: str, dialect: Dialect) -> None:
        """Store the capabilities of an endpoint, replacing earlier ones."""
        self._known[endpoint] = dialect
