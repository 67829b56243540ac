"""JSON objects in the text of a judge's reply, and the names of their keys as models write them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_FENCED = re.compile(r"```[\w-]*[ \t]*\n?(.*?)\n?[ \t]*```", re.DOTALL)


class JsonObject(dict[str, object]):
    """A JSON object that knows which of its keys were given more than once."""

    repeated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class JsonPart:
    """An outermost pair of braces in a text."""

    value: JsonObject | None
    """The object; None if the text between the braces is not valid JSON."""
    start: int
    end: int
    """Position after the closing brace; the length of the text if there is none."""


def _build_object(pairs: list[tuple[str, object]]) -> JsonObject:
    result = JsonObject(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        result.repeated = frozenset(name for name in result if names.count(name) > 1)
    return result


_DECODER = json.JSONDecoder(object_pairs_hook=_build_object)


def find_parts(text: str) -> list[JsonPart]:
    """The outermost pairs of braces in a text, in order.

    An object inside of braces that are not valid JSON is no part: it may be a quotation in a verdict that
    the judge did not escape.
    """
    parts: list[JsonPart] = []
    start = text.find("{")
    while start != -1:
        value: JsonObject | None = None
        try:
            decoded, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = _closing_brace(text, start)
        else:
            assert isinstance(decoded, JsonObject)
            value = decoded
        parts.append(JsonPart(value, start, end))
        start = text.find("{", end)
    return parts


def _closing_brace(text: str, start: int) -> int:
    """The position after the brace that closes the one at `start`; strings are not told apart."""
    depth = 0
    for match in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.end()
    return len(text)


def unfenced(text: str) -> str:
    """A text without the code fence around all of it."""
    text = text.strip()
    match = _FENCED.fullmatch(text)
    return match[1].strip() if match else text


def is_one_object(text: str) -> bool:
    """Whether a text is a JSON object and nothing else, apart from a code fence around it."""
    text = unfenced(text)
    if not text.startswith("{"):
        return False
    [first, *_] = find_parts(text)
    return first.value is not None and first.end == len(text)


def match_name(
    key: str, names: Collection[str], *, before: Sequence[str] = (), after: Sequence[str] = ()
) -> str | None:
    """The name that a key stands for: capitals, spaces, quotes and punctuation do not matter.

    Args:
        key: the key as the model wrote it.
        names: the possible names.
        before: plain words that may stand before the name, such as `answer`.
        after: plain words that may stand after the name, such as `score`.

    Returns:
        One of the names; None if the key stands for none of them, or for more than one.
    """
    if key in names:
        return key
    plain = _plain(key)
    forms = {plain, *(plain.removesuffix(word) for word in after)}
    forms |= {form.removeprefix(word) for form in tuple(forms) for word in before}
    found = [name for name in names if _plain(name) in forms]
    return found[0] if len(found) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def index_by_name(
    items: Sequence[object],
    name_keys: Collection[str],
    names: Collection[str],
    *,
    before: Sequence[str] = (),
) -> JsonObject | None:
    """A list of objects that name what they are about, as one object by those names.

    Args:
        items: objects such as `{"axis": "align", "score": 7}`.
        name_keys: keys of which each object has exactly one, such as `axis`.
        names: the possible names.
        before: plain words that may stand before a name.

    Returns:
        An object by name, which knows names that were given more than once; None if an item is no object
        or does not name one of `names`.
    """
    pairs: list[tuple[str, object]] = []
    for item in items:
        if not isinstance(item, JsonObject):
            return None
        given = [value for key, value in item.items() if match_name(key, name_keys)]
        if len(given) != 1 or not isinstance(given[0], str):
            return None
        name = match_name(given[0], names, before=before)
        if name is None:
            return None
        pairs.append((name, item))
    return _build_object(pairs) if pairs else None


def compact(value: str | Mapping[str, object]) -> str:
    """A text, or an object as JSON, without any spaces; empty if the object is nested too deeply."""
    return re.sub(r"\s+", "", value if isinstance(value, str) else to_json(value))


def to_json(value: object) -> str:
    """A value as JSON; empty if it is nested too deeply."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return ""
