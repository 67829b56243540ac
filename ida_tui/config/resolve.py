"""Resolution of an experiment: profiles and overrides merged into one checked `Config` with origins.

    resolved = resolve("dev-mps", ["model=embedded", "device=cpu", "training.learning_rate=1e-5"])

Overrides that select a profile (`experiment= model= judge= rubric= prompts=`) apply first, then
dotted keys set single values. Any error, in a file or on the command line, raises one `UsageError`
with location and fix. `to_yaml` writes the result as a profile that can run again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from ida_tui.config import profiles
from ida_tui.config.checks import check_config
from ida_tui.config.data.records import COMPRESSED_SUFFIXES, DATA_SUFFIXES
from ida_tui.config.data.source import HUB_ID_PATTERN, is_hub_id
from ida_tui.config.models.source import missing_folder, names_model_file
from ida_tui.config.panel import stale_judge_facts, with_panel, without_stale_member_facts
from ida_tui.config.profiles import SECTIONS, ProfileKind, extend
from ida_tui.config.schema import Config, JudgeConfig, ModelConfig, PromptSet, RubricConfig
from ida_tui.config.scoring.reward_files import is_function_key, locate_file, rubric_of_file
from ida_tui.config.templates.override import with_template_text
from ida_tui.config.trust.consent import ALL_USES, Use, is_left_behind, is_own, require_consent
from ida_tui.config.trust.environment_address import with_environment_address
from ida_tui.config.validation import more_problems_hint, origin_of, validate
from ida_tui.config.yaml_tree import (
    COMMAND_LINE_ORIGIN,
    DEFAULT_ORIGIN,
    Node,
    Origin,
    Value,
    dump_yaml,
    merge,
    parse_yaml,
    to_plain,
)
from ida_tui.errors import UsageError
from ida_tui.util.finding import Finding, note_finding
from ida_tui.util.paths import expand_home, is_directory, is_file
from ida_tui.util.text import quoted, short_key

CONFIG_CLASSES: Mapping[ProfileKind, type[BaseModel]] = {
    "models": ModelConfig,
    "experiments": Config,
    "judges": JudgeConfig,
    "rubrics": RubricConfig,
    "prompts": PromptSet,
}


_REPLACED_BY_SOURCE = (
    "description", "version", "prompts", "only", "subset", "split", "revision", "columns",
    "held_out_split", "held_out_source", "digest",
)  # fmt: skip
"""Keys of a prompt set that another source makes meaningless."""
DataUse = Literal["download", "download_own", "local", "optional"]
"""How the source of the prompts is read: it must be readable, and a Hugging Face dataset is downloaded, or
downloaded if the person named it, or not downloaded; or it is noted that it cannot be read."""


@dataclass(frozen=True, slots=True)
class ResolvedExperiment:
    """A resolved experiment, with the origin of every value."""

    config: Config
    origins: Mapping[str, Origin]
    """Dotted key → origin, for every leaf including defaults."""
    raw_values: Mapping[str, Value]
    """The explicitly set values, without defaults."""
    file: Path
    """File of the experiment profile."""
    notes: tuple[Finding, ...] = ()
    """Notes that do not prevent the run."""


@dataclass(frozen=True, slots=True)
class ResolvedProfile:
    """A single resolved profile of any kind except experiments."""

    kind: ProfileKind
    config: BaseModel
    origins: Mapping[str, Origin]
    file: Path


def resolve(
    experiment: str | None,
    overrides: Sequence[str] = (),
    *,
    verify: bool = True,
    uses: tuple[Use, ...] | None = None,
    data: DataUse | None = None,
) -> ResolvedExperiment:
    """The experiment for a profile name and a list of overrides.

    Args:
        experiment: a profile's name or a path ending in .yaml; None if an override names it.
        overrides: `key=value` items; later ones win.
        verify: also run the cross-checks of `ida_tui.config.checks` and raise their first error.
        uses: what the caller does with the experiment, for which the person must have agreed to the values
            of somebody else's file; by default everything if `verify`, otherwise nothing.
        data: how the source of the prompts is read, with `verify`; by default it is downloaded if the caller
            may do everything with the experiment, otherwise optional.

    Raises:
        UsageError: a profile does not exist, a value is invalid, or values are inconsistent.
        ConsentRequired: somebody else's file asks for something that the person has not agreed to.
    """
    pairs = [_split_override(item) for item in overrides]
    names = [value for key, value in pairs if key == "experiment"]
    if names and experiment is not None and names[-1] != experiment:
        raise UsageError(
            f"two experiments are given: {quoted(experiment)} and {quoted(names[-1])}",
            "use only one of the two",
            where="command line: experiment",
        )
    experiment = names[-1] if names else experiment
    if not experiment:
        raise UsageError(
            "no experiment is given",
            "choose one, such as dev-mps; list the experiments with: ida-tui --list experiments",
            where="command line: experiment",
        )
    file = profiles.find_profile("experiments", experiment, COMMAND_LINE_ORIGIN, "experiment")
    tree = profiles.load_profile("experiments", experiment, COMMAND_LINE_ORIGIN, "experiment")
    tree = _load_sections(tree, {key: value for key, value in pairs if key in SECTIONS})
    dotted = {key: value for key, value in pairs if key not in SECTIONS and key != "experiment"}
    tree = _without_stale_facts(tree, dotted)
    tree = without_stale_member_facts(with_panel(tree), dotted, _is_same_value)
    for key, text in dotted.items():
        tree = _set_value(tree, key.split("."), _parse_value(key, text), key)
        if key == "judge.panel":
            tree = without_stale_member_facts(with_panel(tree), dotted, _is_same_value)
    tree = _without_needless_judge(tree)
    if verify or uses or not is_left_behind(file):  # a run that is only read keeps its judge
        tree = with_environment_address(tree)
    config, raw, origins = validate(Config, _with_located_sources(tree))
    assert isinstance(config, Config)
    config = _with_located_functions(config, origins)
    config = _with_located_gold(config, origins)
    config = with_template_text(config, origin_of(origins, "model.chat_template"))
    if uses is None:
        uses = ALL_USES if verify else ()
    findings: list[Finding] = []
    data = data or ("download" if "output" in uses else "optional")
    if verify and config.prompts.source is not None and data != "optional":
        config, findings = _load_source(config, origins, data)
    if verify:
        findings = sorted([*check_config(config), *findings], key=lambda found: found.severity)
        if "functions" not in uses:
            # The functions are not called: their files may be gone.
            findings = [found for found in findings if not is_function_key(found.about)]
    errors = [f for f in findings if f.severity == "error"]
    if errors:
        error = errors[0]
        # Among the inconsistent values, report the one from the command line.
        from_command_line = [
            k for k in (error.about, *error.related_keys) if origins.get(k) == COMMAND_LINE_ORIGIN
        ]
        key = from_command_line[0] if from_command_line else error.about
        raise UsageError(
            error.text,
            error.fix + more_problems_hint([f.about for f in errors[1:]]),
            where=f"{origin_of(origins, key)}: {key}",
        )
    require_consent(config, origins, file, uses)
    return ResolvedExperiment(config, origins, raw, file, tuple(findings))


def _load_source(
    config: Config, origins: Mapping[str, Origin], data: DataUse
) -> tuple[Config, list[Finding]]:
    """The experiment with its data read, and with the digest and commit of the data."""
    prompts = config.prompts
    own = is_own(origins.get("prompts.source", DEFAULT_ORIGIN))
    try:
        loaded = prompts.load(download=data == "download" or (data == "download_own" and own))
    except UsageError as error:
        if not error.where.startswith("prompts."):
            raise
        place = f"{origin_of(origins, error.where)}: {error.where}"
        raise UsageError(error.title, error.hint, where=place) from None
    digest, findings = loaded.digest(), []
    if prompts.digest not in (None, digest):
        findings.append(
            note_finding(
                "prompts.source",
                "the data is not the one that this profile was written with: its digest is another",
                "use the earlier data, or remove prompts.digest",
            )
        )
    update: dict[str, object] = {"digest": digest}
    if loaded.files[0].commit is not None:
        update["revision"] = loaded.files[0].commit
    prompts = prompts.model_copy(update=update)
    return config.model_copy(update={"prompts": prompts}), findings


def resolve_profile(kind: ProfileKind, name: str) -> ResolvedProfile:
    """One model, judge, rubric or prompts profile.

    Raises:
        UsageError: the profile does not exist or contains an invalid value.
    """
    file = profiles.find_profile(kind, name)
    tree = profiles.load_profile(kind, name)
    if kind == "prompts":
        tree = _locate_sources(tree)
    config, _, origins = validate(CONFIG_CLASSES[kind], tree)
    return ResolvedProfile(kind, config, origins, file)


def to_yaml(config: Config) -> str:
    """The full experiment as YAML with every value written out; the file can be run again."""
    head = (
        f"# {config.name}: all resolved values. Run it again with:\n"
        "#   ida-tui --run PATH/TO/THIS/config.yaml\n"
    )
    return head + dump_yaml(config.model_dump(mode="python"))


# --- overrides and sections ---------------------------------------------------------------------


def _split_override(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    key = key.strip().removeprefix("--")
    if not equals or not all(key.split(".")):
        raise UsageError(
            f"{quoted(item)} is not key=value",
            "write overrides as model=NAME or training.learning_rate=1e-5",
            where="command line",
        )
    if (key in SECTIONS or key == "experiment") and not value.strip():
        raise UsageError(f"{key}= needs a name", f"write {key}=NAME", where=f"command line: {key}")
    return key, value.strip() if key in SECTIONS or key == "experiment" else value


def _parse_value(key: str, text: str) -> Node:
    try:
        return parse_yaml(text, COMMAND_LINE_ORIGIN)
    except UsageError as error:
        raise UsageError(
            f"{quoted(text)} is not a valid value: {error.title}",
            f"put it in quotes for YAML and for the shell: {short_key(key)}='\"…\"'",
            where=f"command line: {short_key(key)}",
        ) from error


def _without_needless_judge(root: Node) -> Node:
    """The experiment without its judge, if functions compute all axes of its rubric."""
    assert isinstance(root.value, dict)
    rubric = root.value.get("rubric")
    axes = (
        rubric.value.get("axes") if rubric is not None and isinstance(rubric.value, dict) else None
    )
    if axes is None or not isinstance(axes.value, dict) or not axes.value:
        return root
    if not all(_has_function(axis) for axis in axes.value.values()):
        return root
    origin = axes.origin
    entries = {"name": Node("none", origin), "kind": Node("none", origin)}
    return Node({**root.value, "judge": Node(entries, origin)}, root.origin)


def _has_function(axis: Node) -> bool:
    """Whether an axis names a function; one with an empty name, as in a resolved profile, does not."""
    function = axis.value.get("function") if isinstance(axis.value, dict) else None
    return function is not None and function.value not in ("", None)


def _with_located_functions(config: Config, origins: Mapping[str, Origin]) -> Config:
    """The experiment with absolute paths of its reward files, which are relative to the naming file."""
    axes = {}
    for name, axis in config.rubric.axes.items():
        place, colon, function = axis.function.rpartition(".py:")
        origin = origins.get(f"rubric.axes.{name}.function")
        if colon:
            path = locate_file(f"{place}.py", origin.file if origin is not None else None)
            axis = axis.model_copy(update={"function": f"{path}:{function}"})
        axes[name] = axis
    rubric = config.rubric.model_copy(update={"axes": axes})
    return config.model_copy(update={"rubric": rubric})


def _with_located_gold(config: Config, origins: Mapping[str, Origin]) -> Config:
    """The experiment with the absolute path of its gold answers, which is relative to the naming file."""
    if config.judge.gold is None:
        return config
    path = locate_file(config.judge.gold, origin_of(origins, "judge.gold").file)
    judge = config.judge.model_copy(update={"gold": str(path)})
    return config.model_copy(update={"judge": judge})


def _load_sections(root: Node, selected: Mapping[str, str]) -> Node:
    assert isinstance(root.value, dict)
    entries = dict(root.value)
    for section, kind in SECTIONS.items():
        if section in selected:
            entries[section] = Node(selected[section], COMMAND_LINE_ORIGIN)
        node = entries.get(section)
        if node is None or node.value is None:
            entries.pop(section, None)
        elif isinstance(node.value, str):
            entries[section] = _load_section(section, kind, node.value, node.origin)
        elif isinstance(node.value, dict) and "extends" in node.value:
            values = dict(node.value)
            parent = values.pop("extends")
            if not isinstance(parent.value, str):
                raise UsageError(
                    "extends must be the name of one profile",
                    f"write extends: NAME; list names with: ida-tui --list {kind}",
                    where=f"{parent.origin}: {section}.extends",
                )
            base = _load_section(section, kind, parent.value, parent.origin)
            if section == "prompts" and "source" in values:
                base = _without_keys(base, _REPLACED_BY_SOURCE)
                values = {"name": _source_name(values["source"]), **values}
            if section == "rubric" and _has_other_axes(base, values):
                base = Node({}, base.origin)
            entries[section] = extend(kind, base, Node(values, node.origin))
    return Node(entries, root.origin)


def _source_name(source: Node) -> Node:
    return Node(_data_name(str(source.value)), source.origin)


def _has_other_axes(base: Node, values: Mapping[str, Node]) -> bool:
    """Whether a rubric names axes that the extended one does not have, so that nothing of it fits."""
    axes = values.get("axes")
    if axes is None or not isinstance(axes.value, dict):
        return False
    assert isinstance(base.value, dict)
    known = base.value.get("axes")
    return not (
        known is not None
        and isinstance(known.value, dict)
        and axes.value.keys() <= known.value.keys()
    )


def _load_section(section: str, kind: ProfileKind, name: str, origin: Origin) -> Node:
    """A section given by profile name.

    A model can also be any `model.path`, a rubric also a Python file of reward functions, and
    prompts a data file or a dataset.
    """
    if kind == "prompts" and names_data(name):
        entries = {"name": Node(_data_name(name), origin), "source": Node(name, origin)}
        return Node(entries, origin)
    if kind == "rubrics" and (name.endswith(".py") or ".py:" in name):
        return parse_yaml(json.dumps(rubric_of_file(name, origin.file)), origin)
    if kind != "models" or name.endswith((".yaml", ".yml")) or name in profiles.list_profiles(kind):
        return profiles.load_profile(kind, name, origin, section)
    if HUB_ID_PATTERN.fullmatch(name) or names_model_file(name) or is_directory(expand_home(name)):
        path = str(expand_home(name))
        entries = {"name": Node(_path_name(path), origin), "path": Node(path, origin)}
        return Node(entries, origin)
    if name.startswith((".", "~")) or "/" in name:
        raise UsageError(*missing_folder(name), where=f"{origin}: {section}")
    try:
        return profiles.load_profile(kind, name, origin, section)
    except UsageError as error:
        error.hint += (
            "\na folder, a .gguf file, ollama:NAME or an id such as Qwen/Qwen3-0.6B also works"
        )
        raise


def _without_keys(node: Node, keys: Collection[str]) -> Node:
    assert isinstance(node.value, dict)
    return Node({k: child for k, child in node.value.items() if k not in keys}, node.origin)


def _data_name(source: str) -> str:
    return source.partition("/")[2] if is_hub_id(source) else Path(source).stem


def names_data(name: str) -> bool:
    """Whether the prompts of an experiment name a data file or a dataset, not a profile."""
    path = Path(name.lower())
    if path.suffix in COMPRESSED_SUFFIXES:
        path = path.with_suffix("")
    if path.suffix in DATA_SUFFIXES:
        return True
    return is_hub_id(name) and not name.endswith((".yaml", ".yml"))


def _with_located_sources(root: Node) -> Node:
    """The tree with the data files of its prompts as absolute paths.

    A relative path starts at the folder of the file that contains it, or else at the working directory.
    """
    assert isinstance(root.value, dict)
    prompts = root.value.get("prompts")
    if prompts is None or not isinstance(prompts.value, dict):
        return root
    return Node({**root.value, "prompts": _locate_sources(prompts)}, root.origin)


def _locate_sources(prompts: Node) -> Node:
    assert isinstance(prompts.value, dict)
    entries = dict(prompts.value)
    for key in ("source", "held_out_source"):
        node = entries.get(key)
        if node is not None and isinstance(node.value, str) and "\0" not in node.value:
            folder = node.origin.file.parent if node.origin.file else Path.cwd()
            path = expand_home(node.value)
            candidates = (folder / path, Path.cwd() / path)
            if found := next((file for file in candidates if is_file(file)), None):
                entries[key] = Node(os.path.abspath(found), node.origin)  # noqa: PTH100 - keeps links
    return Node(entries, prompts.origin)


def _path_name(path: str) -> str:
    return Path(path).resolve().name if path.startswith(".") else Path(path).name


def _without_stale_facts(root: Node, overrides: Mapping[str, str]) -> Node:
    """Drop profile facts about a model, a judge or prompts that an override replaces.

    A parameter count, download size, price or column is only valid for the original.
    """
    overrides = {
        key: text for key, text in overrides.items() if not _is_same_value(root, key, text)
    }
    stale: dict[str, list[str]] = {}
    if "prompts.source" in overrides:
        stale["prompts"] = list(_REPLACED_BY_SOURCE)
    if "model.path" in overrides:
        stale["model"] = [
            "description", "revision", "trust_remote_code", "parameters", "context_length",
            "download_gb", "licence",
        ]  # fmt: skip
    if "judge.model" in overrides or "judge.base_url" in overrides:
        judge = root.value.get("judge") if isinstance(root.value, dict) else None
        stale["judge"] = stale_judge_facts(judge, overrides.get("judge.base_url"))
    labels = {
        "prompts": _data_name(overrides.get("prompts.source", "")),
        "model": _path_name(overrides.get("model.path", "")),
        "judge": overrides.get("judge.model"),
    }
    assert isinstance(root.value, dict)
    entries = dict(root.value)
    for section, keys in stale.items():
        node = entries.get(section)
        if node is None or not isinstance(node.value, dict):
            continue
        remaining = {key: child for key, child in node.value.items() if key not in keys}
        if label := labels[section]:
            remaining["name"] = Node(label, COMMAND_LINE_ORIGIN)
        entries[section] = Node(remaining, node.origin)
    return Node(entries, root.origin)


def _is_same_value(root: Node, key: str, text: str) -> bool:
    """Whether an override repeats the value that the profile has."""
    node: Node | None = root
    for part in key.split("."):
        if node is not None and isinstance(node.value, list) and part.isdecimal():
            node = node.value[int(part)] if int(part) < len(node.value) else None
        else:
            node = node.value.get(part) if node and isinstance(node.value, dict) else None
    current = None if node is None else to_plain(node)
    return current == to_plain(_parse_value(key, text))


def _set_value(node: Node, path: Sequence[str], value: Node, full_key: str) -> Node:
    """A copy of `node` with `value` set at a path; mappings are merged, other values replaced."""
    if not path:
        return merge(node, value, SECTIONS)
    head, rest = path[0], path[1:]
    if isinstance(node.value, list) and head.isdecimal() and int(head) < len(node.value):
        items = list(node.value)
        items[int(head)] = _set_value(items[int(head)], rest, value, full_key)
        return Node(items, node.origin)
    if isinstance(node.value, dict) or node.value is None:
        entries = dict(node.value or {})
        entries[head] = _set_value(
            entries.get(head, Node(None, COMMAND_LINE_ORIGIN)), rest, value, full_key
        )
        return Node(entries, node.origin)
    parents = full_key.split(".")[: -len(path)]
    raise UsageError(
        f"{short_key('.'.join(parents))} has no entry {quoted(head)}",
        f"set the full value: {short_key('.'.join(parents))}=…",
        where=f"command line: {short_key(full_key)}",
    )
