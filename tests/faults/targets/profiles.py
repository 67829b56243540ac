"""Hostile profiles and command lines: shown, checked, listed, or refused with an error of the program."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import yaml

from ida_tui.cli.main import main
from ida_tui.config.resolve import resolve, to_yaml
from tests.faults import hostile
from tests.faults.targets.output import Defect, checked_output


def profile(rng: Random) -> bool:
    """Show, check or list a profile of any kind."""
    kind, data = _profile(rng)
    choice = rng.random()
    folder = Path("mine") / kind if choice < 0.7 else Path(os.environ["IDA_TUI_PROFILES"]) / kind
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mine.yaml"
    file.write_bytes(data)
    name = str(file) if choice < 0.7 else "mine"
    section = {"models": "model", "judges": "judge", "rubrics": "rubric", "prompts": "prompts"}
    arguments: list[str] = (
        [name] if kind == "experiments" else ["quickstart", f"{section[kind]}={name}"]
    )
    try:
        with checked_output():
            kinds = ("--check", "--check", "--show") if choice < 0.95 else ("--list",)
            flag = rng.choice(kinds)
            code = main([flag, kind] if flag == "--list" else [flag, *arguments])
        if code not in (0, 2):
            raise Defect(f"exit code {code}")
        if code == 0 and flag == "--check":
            _check_resolves_to_itself(arguments)
    finally:
        file.unlink()
    return code == 0


def _profile(rng: Random) -> tuple[str, bytes]:
    kind, data = rng.choice(hostile.profiles())
    choice = rng.random()
    if choice < 0.03:
        return kind, rng.choice(hostile.BOMBS).encode("utf-8", "surrogatepass")
    if choice < 0.35:
        return kind, hostile.mutate_bytes(data, rng)
    tree = _parse_cached(data)
    if choice < 0.4:
        return kind, _dump(hostile.value(rng), rng)
    if kind == "experiments" and choice < 0.7:
        tree = {"extends": "quickstart", **_sample_keys(_keys(), rng)}
    if "prompts" in tree and isinstance(tree["prompts"], list):
        tree = {**tree, "prompts": tree["prompts"][:4]}
    for _ in range(rng.randint(1, 2)):
        tree = hostile.mutate_tree(tree, rng)
    return kind, _dump(tree, rng)


def _parse_cached(data: bytes) -> Any:
    if data not in _PARSED:
        _PARSED[data] = yaml.safe_load(data)
    return _PARSED[data]


_PARSED: dict[bytes, Any] = {}


def _keys() -> dict[str, Any]:
    """Every key of an experiment with its value in quickstart."""
    if not _KEYS:
        _KEYS.update(resolve("quickstart").config.model_dump())
        _KEYS["prompts"] = {**_KEYS["prompts"], "prompts": _KEYS["prompts"]["prompts"][:6]}
    return _KEYS


_KEYS: dict[str, Any] = {}


def _sample_keys(tree: dict[str, Any], rng: Random) -> dict[str, Any]:
    keys = rng.sample(list(tree), k=min(len(tree), 3))
    return {key: tree[key] for key in keys}


def _dump(tree: Any, rng: Random) -> bytes:
    """A tree as YAML or JSON, which is also YAML and preserves every escape."""
    if rng.random() < 0.7:
        with contextlib.suppress(RecursionError, ValueError):
            return json.dumps(tree, default=str, ensure_ascii=rng.random() < 0.7).encode(
                "utf-8", "surrogatepass"
            )
    with contextlib.suppress(RecursionError, ValueError, yaml.YAMLError):
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    return b"a: b\n"


def _check_resolves_to_itself(arguments: list[str]) -> None:
    """Check that the config.yaml of an accepted experiment resolves to the same configuration."""
    config = resolve(arguments[0], arguments[1:]).config
    file = Path("again.yaml")
    file.write_text(to_yaml(config), encoding="utf-8")
    if resolve(str(file)).config != config:
        raise Defect("its config.yaml resolves to something else")


def override(rng: Random) -> bool:
    """Run a command line with any key, value and name."""
    values = _keys()
    path: list[str] = []
    while isinstance(values, dict) and values:
        path.append(rng.choice(list(values)))
        values = values[path[-1]]
    key = ".".join(path) if rng.random() < 0.85 else hostile.text(rng)
    value = hostile.value(rng) if rng.random() < 0.7 else hostile.text(rng)
    if not isinstance(value, str):
        with contextlib.suppress(RecursionError, ValueError):
            value = json.dumps(value)
    name = "quickstart" if rng.random() < 0.9 else hostile.text(rng)
    arguments = [rng.choice(("--check", "--show")), name, f"{key}={value}"]
    if rng.random() < 0.03:
        arguments[0] = hostile.text(rng)
    if arguments[0] not in ("--check", "--show") or name.startswith("-"):
        arguments.insert(0, "--check")
    with checked_output():
        try:
            code = main(arguments)
        except SystemExit as exit_request:  # --help, --version
            code = int(exit_request.code or 0)
    if code not in (0, 2):
        raise Defect(f"exit code {code}")
    return code == 0
