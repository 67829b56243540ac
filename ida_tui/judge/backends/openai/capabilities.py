"""Capabilities of an endpoint: its structured output format and the parameters it refuses.

Servers that call themselves OpenAI-compatible differ. `Capabilities` start with the strictest output
format and step down when the server refuses; what worked is stored for the endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from ida_tui.judge.backends.openai.prompt import SCHEMA_NAME


class OutputFormat(IntEnum):
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
class Capabilities:
    """The request options that one endpoint accepts, besides the model and the messages."""

    output_format: OutputFormat = OutputFormat.JSON_SCHEMA
    token_limit_parameter: str | None = "max_tokens"
    """The name of the parameter that limits the reply's length; None sends no limit."""
    refused_parameters: frozenset[str] = frozenset()
    """Optional parameters that the endpoint refused."""

    @property
    def schema_in_prompt(self) -> bool:
        """Whether the prompt must contain the JSON schema."""
        return self.output_format is not OutputFormat.JSON_SCHEMA

    def describe(self) -> str:
        """The output format and the refused parameters, for display."""
        output_format = {
            OutputFormat.JSON_SCHEMA: "json_schema, strict",
            OutputFormat.JSON_OBJECT_SCHEMA: "json_object with a schema",
            OutputFormat.JSON_OBJECT: "json_object, with the schema in the prompt",
            OutputFormat.PROMPT_ONLY: "no response format, with the schema in the prompt",
        }[self.output_format]
        refused = sorted(self.refused_parameters)
        return output_format + (f" (refused: {', '.join(refused)})" if refused else "")

    def with_simpler_format(self) -> Capabilities | None:
        """The same with the next simpler output format; None if there is none."""
        if self.output_format is OutputFormat.PROMPT_ONLY:
            return None
        return replace(self, output_format=OutputFormat(self.output_format + 1))

    def without_parameter(self, parameter: str) -> Capabilities:
        """The same without `parameter`. max_tokens first becomes max_completion_tokens."""
        if parameter == "max_tokens":
            return replace(self, token_limit_parameter="max_completion_tokens")
        if parameter == "max_completion_tokens":
            return replace(self, token_limit_parameter=None)
        return replace(self, refused_parameters=self.refused_parameters | {parameter})

    def request_options(
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
        for parameter in self.refused_parameters:
            body.pop(parameter, None)
        if self.token_limit_parameter is not None:
            body[self.token_limit_parameter] = max_tokens
        match self.output_format:
            case OutputFormat.JSON_SCHEMA:
                body["response_format"] = {
                    "type": "json_schema",
                    "json_schema": {"name": SCHEMA_NAME, "strict": True, "schema": schema},
                }
            case OutputFormat.JSON_OBJECT_SCHEMA:
                body["response_format"] = {"type": "json_object", "schema": schema}
            case OutputFormat.JSON_OBJECT:
                body["response_format"] = {"type": "json_object"}
            case OutputFormat.PROMPT_ONLY:
                pass
        return body


class CapabilityStore(Protocol):
    """Storage of endpoint capabilities."""

    def load_capabilities(self, endpoint: str) -> Capabilities | None:
        """The stored capabilities of an endpoint; None if there are none."""

    def save_capabilities(self, endpoint: str, capabilities: Capabilities) -> None:
        """Store the capabilities of an endpoint, replacing earlier ones."""


class InMemoryCapabilityStore:
    """Storage of endpoint capabilities in memory, until the process ends."""

    def __init__(self) -> None:
        self._by_endpoint: dict[str, Capabilities] = {}

    def load_capabilities(self, endpoint: str) -> Capabilities | None:
        """The stored capabilities of an endpoint; None if there are none."""
        return self._by_endpoint.get(endpoint)

    def save_capabilities(self, endpoint: str, capabilities: Capabilities) -> None:
        """Store the capabilities of an endpoint, replacing earlier ones."""
        self._by_endpoint[endpoint] = capabilities
