"""Capabilities of an endpoint: its structured output format and the features that it refuses.

Servers that call themselves OpenAI-compatible differ. `Capabilities` start with everything; what a server
refuses is taken away, and what worked is stored for the endpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from ida_tui.judge.backends.openai.prompt import SCHEMA_NAME

SYSTEM_ROLE = "system_role"
"""Feature: a system message. Without it, its text is in front of the user message."""
BASE_PATH = "base_path"
"""Feature: the address as the profile has it. Without it, /v1 is appended."""
TEMPERATURE_DEFAULT_ONLY = "temperature_default_only"
"""Refusal of a reasoning model of OpenAI, which wants another name for the token limit, too."""
JSON_SCHEMA_TYPE = "json_schema"
"""Feature: the type `json_schema` of a response format."""
SCHEMA_KEYWORDS = "schema_keywords"
"""Feature: numbers in an enum, `additionalProperties` and `strict` in a schema."""
FALLBACK_PATH = "/v1"


class OutputFormat(IntEnum):
    """Ways to request structured output. The values are stored."""

    JSON_SCHEMA = 0
    """`response_format: json_schema`, strict."""
    JSON_OBJECT_SCHEMA = 1
    """`json_object` with llama.cpp's `schema` field; the schema is in the prompt too."""
    JSON_OBJECT = 2
    """`json_object`; the schema is in the prompt."""
    PROMPT_ONLY = 3
    """No response format; the schema is in the prompt."""
    PLAIN_JSON_SCHEMA = 4
    """`json_schema` without the keywords that some servers refuse."""

    @property
    def rank(self) -> int:
        """The position from the strictest format, 0, to none at all."""
        return _STRICTEST_FIRST.index(self)


_STRICTEST_FIRST = (
    OutputFormat.JSON_SCHEMA,
    OutputFormat.PLAIN_JSON_SCHEMA,
    OutputFormat.JSON_OBJECT_SCHEMA,
    OutputFormat.JSON_OBJECT,
    OutputFormat.PROMPT_ONLY,
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The features of a request that one endpoint accepts."""

    output_format: OutputFormat = OutputFormat.JSON_SCHEMA
    token_limit_parameter: str | None = "max_tokens"
    """The name of the parameter that limits the reply's length; None sends no limit."""
    refused: frozenset[str] = frozenset()
    """Optional parameters that the endpoint refused, `SYSTEM_ROLE` and `BASE_PATH`."""

    @property
    def schema_in_prompt(self) -> bool:
        """Whether the prompt must contain the JSON schema."""
        return self.output_format not in (
            OutputFormat.JSON_SCHEMA,
            OutputFormat.PLAIN_JSON_SCHEMA,
        )

    @property
    def system_role(self) -> bool:
        """Whether the endpoint takes a system message."""
        return SYSTEM_ROLE not in self.refused

    @property
    def path(self) -> str:
        """What to append to the address of the profile."""
        return FALLBACK_PATH if BASE_PATH in self.refused else ""

    def describe(self) -> str:
        """The output format and what is not sent, for display."""
        output_format = {
            OutputFormat.JSON_SCHEMA: "json_schema, strict",
            OutputFormat.PLAIN_JSON_SCHEMA: "json_schema, not strict",
            OutputFormat.JSON_OBJECT_SCHEMA: "json_object with a schema",
            OutputFormat.JSON_OBJECT: "json_object, with the schema in the prompt",
            OutputFormat.PROMPT_ONLY: "no response format, with the schema in the prompt",
        }[self.output_format]
        refused = sorted(self.refused - {SYSTEM_ROLE, BASE_PATH})
        if self.token_limit_parameter != "max_tokens":
            refused.append("max_tokens")
        text = output_format + (f" (not sent: {', '.join(refused)})" if refused else "")
        if not self.system_role:
            text += "; no system role, so the rubric is in the user message"
        return text + ("; /v1 is appended to judge.base_url" if self.path else "")

    def with_simpler_format(self) -> Capabilities | None:
        """The same with the next simpler output format; None if there is none."""
        if self.output_format is OutputFormat.PROMPT_ONLY:
            return None
        rank = self.output_format.rank + 1
        if _STRICTEST_FIRST[rank] is OutputFormat.PLAIN_JSON_SCHEMA:
            rank += 1  # who ignores a strict schema ignores a plain one
        return replace(self, output_format=_STRICTEST_FIRST[rank])

    def without(
        self, features: Collection[str], *, schema_field: bool
    ) -> tuple[Capabilities, Capabilities | None]:
        """What is left without the features that a server refused, and what may be tried later.

        Args:
            features: names of parameters and features of this module; empty if the server named none, which
                takes away the response format.
            schema_field: whether the server may know llama.cpp's `schema` field.

        Returns:
            The same if none of the features is in use.
        """
        refused, limit, output_format = (
            set(self.refused),
            self.token_limit_parameter,
            self.output_format,
        )
        wished_format, wishes_temperature = output_format, "temperature" not in refused
        simpler = OutputFormat.JSON_OBJECT_SCHEMA if schema_field else OutputFormat.JSON_OBJECT
        for feature in features or (JSON_SCHEMA_TYPE,):
            if feature in ("max_tokens", TEMPERATURE_DEFAULT_ONLY) and limit == "max_tokens":
                limit = "max_completion_tokens"
            elif feature == "max_completion_tokens" and limit == feature:
                limit = None
            if feature == "max_tokens":
                refused.add("temperature")  # models with the newer name mostly refuse it, too
            elif feature in ("temperature", TEMPERATURE_DEFAULT_ONLY):
                refused.add("temperature")
                wishes_temperature = False
            elif feature in ("reasoning_effort", SYSTEM_ROLE, BASE_PATH):
                refused.add(feature)
            elif feature == "response_format":
                output_format = wished_format = OutputFormat.PROMPT_ONLY
            elif feature in (JSON_SCHEMA_TYPE, SCHEMA_KEYWORDS):
                wished = OutputFormat.PLAIN_JSON_SCHEMA if feature == SCHEMA_KEYWORDS else simpler
                if wished.rank > wished_format.rank:
                    wished_format = wished
                output_format = OutputFormat.PROMPT_ONLY
        safe = Capabilities(output_format, limit, frozenset(refused))
        if wishes_temperature:
            refused.discard("temperature")
        wish = Capabilities(wished_format, limit, frozenset(refused))
        return safe, (wish if wish != safe and safe != self else None)

    def bare(self) -> Capabilities:
        """The same without everything that a request can do without."""
        spared = {"temperature", "reasoning_effort", SYSTEM_ROLE}
        return Capabilities(OutputFormat.PROMPT_ONLY, None, self.refused | spared)

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
        for parameter in self.refused:
            body.pop(parameter, None)
        if self.token_limit_parameter is not None:
            body[self.token_limit_parameter] = max_tokens
        match self.output_format:
            case OutputFormat.JSON_SCHEMA:
                body["response_format"] = {
                    "type": "json_schema",
                    "json_schema": {"name": SCHEMA_NAME, "strict": True, "schema": schema},
                }
            case OutputFormat.PLAIN_JSON_SCHEMA:
                plain = {"name": SCHEMA_NAME, "schema": _without_keywords(schema)}
                body["response_format"] = {"type": "json_schema", "json_schema": plain}
            case OutputFormat.JSON_OBJECT_SCHEMA:
                body["response_format"] = {"type": "json_object", "schema": schema}
            case OutputFormat.JSON_OBJECT:
                body["response_format"] = {"type": "json_object"}
            case OutputFormat.PROMPT_ONLY:
                pass
        return body


def _without_keywords(schema: object) -> object:
    """A JSON schema without the keywords that some servers refuse."""
    if isinstance(schema, list):
        return [_without_keywords(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    dropped = {"additionalProperties"} | ({"enum"} if schema.get("type") == "number" else set())
    return {key: _without_keywords(value) for key, value in schema.items() if key not in dropped}


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
