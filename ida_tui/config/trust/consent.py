"""Consent to what a profile of somebody else asks for: send a key or a message, run code, write elsewhere.

The person's own words are those on the command line, in a shipped profile and in a profile in the user's
folder. Any other file, such as the `config.yaml` of a run directory, may come from a stranger: its judge
gets no key, its model, its reward functions and its command for messages run no code, its webhook gets
nothing and its runs are not written outside of the working directory, unless the person agrees. An
agreement is kept in `consent.json` in the user's configuration; a run that starts keeps what it was started
with, so that it can be resumed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import platformdirs

from ida_tui.config import profiles
from ida_tui.config.data.source import is_hub_id
from ida_tui.config.schema import MAX_PANEL, Config, JudgeConfig
from ida_tui.config.scoring.reward_files import parse_reference
from ida_tui.config.trust.endpoint import (
    EnvironmentEndpoint,
    base_url_problem,
    dotenv_value,
    endpoint_of,
    environment_endpoint,
    is_local,
    may_get_variable,
    normalize_base_url,
)
from ida_tui.config.trust.headers import header_variables
from ida_tui.config.trust.webhook import webhook_variables
from ida_tui.config.yaml_tree import COMMAND_LINE_ORIGIN, Node, Origin, to_plain
from ida_tui.errors import IdaError, UsageError
from ida_tui.util.paths import display_path, expand_home

Use = Literal["judge", "code", "functions", "output", "data", "notify"]
"""What a command does with a profile: send the judge its key, load the model, call the reward functions,
create a run directory, send the judge the rows of a data file (whoever may call the judge may do that), send
messages about a run."""
ALL_USES: tuple[Use, ...] = ("judge", "code", "functions", "output", "notify")
RESUME_USES: tuple[Use, ...] = ("judge", "code", "functions", "notify")
"""Uses of the profile of an existing run, which writes only into its own directory."""
CONSENT_KEYS = (
    "judge.base_url",
    "judge.api_key_env",
    "model.trust_remote_code",
    "prompts.source",
    "prompts.held_out_source",
    "judge.gold",
    "notify.webhook",
    "notify.command",
    *(f"judge.panel.{n}.{key}" for n in range(MAX_PANEL) for key in ("base_url", "api_key_env")),
)
"""Keys that a person types to agree; also accepted by commands that change nothing else."""
SHIPPED_FUNCTIONS = "ida_tui.rewards.shipped."
"""Start of the names of the modules with reward functions that ship with ida-tui."""

_MAX_FILE_BYTES = 1_000_000
_FUNCTION_KEY = re.compile(r"rubric\.axes\.\w+\.(function|options\.\w+)")
_HEADER_KEY = re.compile(r"judge\.(panel\.\d\.)?extra_headers\.[\w-]+")


@dataclass(frozen=True, slots=True)
class Consent:
    """One thing that a person can agree to."""

    use: Use
    subject: tuple[str, ...]
    """Endpoint and environment variable of a key; source of a model's code; function; output folder;
    endpoint and data file; `webhook` and its address, or `command` and its words."""

    def description(self) -> str:
        """What would happen, as the end of a sentence that starts with the profile."""
        if self.use == "judge":
            endpoint, variable = self.subject
            return f"sends the environment variable {variable} to {endpoint}"
        if self.use == "code":
            return f"runs the Python code of the model in {self.subject[0]}"
        if self.use == "functions":
            return f"runs the Python function {self.subject[0]}"
        if self.use == "data":
            endpoint, file = self.subject
            return f"sends the rows of {file} to {endpoint}"
        if self.use == "notify":
            kind, *words = self.subject
            if kind == "command":
                return f"runs the command {shlex.join(words)}"
            named = webhook_variables(words[0])
            filled = f" with the environment variable {' and '.join(named)} in it" if named else ""
            return f"sends messages about its runs to {words[0]}{filled}"
        return f"writes its runs to {self.subject[0]}"


class ConsentRequired(UsageError):
    """A profile of somebody else asks for something that the person has not agreed to. Exit code 2.

    Args:
        missing: what the person has to agree to.
        words: what to type to agree, as `key=value` arguments.
        where: location of the first value.
    """

    def __init__(self, missing: Collection[Consent], words: Iterable[str], where: str) -> None:
        self.missing = tuple(missing)
        super().__init__(
            f"this profile {' and '.join(item.description() for item in self.missing)},"
            " to which you have not agreed",
            # Quoted: a stranger chose the values, and a person pastes them into a shell.
            f"if you trust it, add to the command: {' '.join(map(shlex.quote, words))}\n"
            "on a terminal, ida-tui asks once and remembers the answer",
            where=where,
        )


def require_consent(
    config: Config, origins: Mapping[str, Origin], file: Path, uses: Collection[Use]
) -> None:
    """Check that the person agreed to everything that a profile asks for.

    Args:
        config: the resolved experiment.
        origins: origin of every value by dotted key.
        file: file of the experiment.
        uses: what the command does with the profile.

    Raises:
        ConsentRequired: an agreement is missing.
    """
    asked = [entry for entry in _asked(config, origins, file) if _is_used(entry[0], uses)]
    given = read_consents() if asked else frozenset()
    missing = [entry for entry in asked if entry[0] not in given]
    if missing:
        words = dict.fromkeys(word for _, entry_words, _ in missing for word in entry_words)
        key = missing[0][2]
        raise ConsentRequired([entry[0] for entry in missing], words, f"{origins[key]}: {key}")


def consents_of_run(
    config: Config, directory: Path | None, uses: Collection[Use] = ALL_USES
) -> set[Consent]:
    """What a run that the person has started may do when it is resumed.

    Args:
        config: the resolved experiment, for which `require_consent` has passed.
        directory: the run directory; None for a run that has none yet.
        uses: the uses for which `require_consent` has passed.
    """
    consents = {Consent("code", (source,)) for source in _code_sources(config, directory)}
    consents |= {Consent("functions", (source,)) for _, source in _function_sources(config)}
    known = frozenset(_known_pairs())
    for judge in config.judge.members:
        consents |= {sent for sent, _ in _sent_variables(judge)} - known
    if outside := _outside_folder(config):
        consents.add(outside)
    consents |= {consent for consent, _ in _sent_files(config)}
    consents |= {consent for consent, _, _ in _messages(config)}
    return {consent for consent in consents if _is_used(consent, uses)}


def remember_run(config: Config, directory: Path | None, uses: Collection[Use] = ALL_USES) -> None:
    """Keep what a run was started with; without a writable configuration, it is asked again."""
    with contextlib.suppress(OSError):
        remember(consents_of_run(config, directory, uses))


def remember(consents: Collection[Consent]) -> None:
    """Add agreements to the user's configuration, in a file that only its owner can read.

    Raises:
        OSError: the file cannot be written.
    """
    known = read_consents()
    if known.issuperset(consents):
        return
    file = consent_file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    rows = sorted([item.use, *item.subject] for item in known.union(consents))
    temporary = file.with_name(f".{file.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(json.dumps({"v": 1, "agreed": rows}, indent=1) + "\n")
    temporary.replace(file)


def remember_answer(required: ConsentRequired) -> None:
    """Keep the person's yes to everything that is missing.

    Raises:
        IdaError: it cannot be written.
    """
    try:
        remember(required.missing)
    except OSError as error:
        raise IdaError(
            f"could not remember the answer in {display_path(consent_file())}: {error.strerror or error}",
            required.hint.splitlines()[0],
        ) from None


def consent_file() -> Path:
    """The file of the agreements."""
    return Path(platformdirs.user_config_dir("ida-tui")) / "consent.json"


def read_consents() -> frozenset[Consent]:
    """The agreements in the user's configuration; empty if its file is not the user's own or is damaged."""
    try:
        descriptor = os.open(consent_file(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            others_can_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid() or others_can_write:
                return frozenset()
            rows = json.loads(stream.read(_MAX_FILE_BYTES))["agreed"]
        return frozenset(
            Consent(row[0], tuple(map(str, row[1:]))) for row in rows if row[0] in get_args(Use)
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return frozenset()


# --- what a profile asks for ---------------------------------------------------------------------


def _asked(
    config: Config, origins: Mapping[str, Origin], file: Path
) -> Iterator[tuple[Consent, list[str], str]]:
    """What somebody else's values ask for, with the words that agree and the key to show."""
    for number, judge in enumerate(config.judge.members):
        place = f"judge.panel.{number}" if config.judge.kind == "panel" else "judge"
        for sent, own_key in _sent_variables(judge):
            keys = (f"{place}.base_url", f"{place}.{own_key}")
            foreign = _foreign_keys(origins, keys)
            if _is_from_dotenv(origins.get(keys[0]), sent.subject[1]):
                foreign = [key for key in foreign if key != keys[0]]
            if foreign and sent not in _known_pairs(environment_endpoint()):
                words = [
                    f"{keys[0]}={judge.base_url or 'null'}",
                    f"{keys[1]}={_value_of(judge, own_key)}",
                ]
                yield sent, words, foreign[0]
    trust = "model.trust_remote_code"
    if origins.get(trust) != COMMAND_LINE_ORIGIN:
        run = None if is_own(Origin(file)) or file.name != "config.yaml" else file.parent
        foreign = _foreign_keys(origins, (trust, "model.path", "model.revision"))
        for source in _code_sources(config, run):
            if foreign or (run and source == str(run.resolve())):
                yield (
                    Consent("code", (source,)),
                    [f"{trust}=true"],
                    foreign[0] if foreign else trust,
                )
    # A profile that the person names is theirs to run; one that a run or a sweep has left behind is not.
    if is_left_behind(file) and not is_own(Origin(file)):
        for name, source in _function_sources(config):
            axis, key_of_axis = config.rubric.axes[name], f"rubric.axes.{name}"
            words = [f"{key_of_axis}.function={axis.function}"]
            words += [f"{key_of_axis}.options.{k}={json.dumps(v)}" for k, v in axis.options.items()]
            typed = [origins.get(word.partition("=")[0]) == COMMAND_LINE_ORIGIN for word in words]
            if not all(typed):
                yield Consent("functions", (source,)), words, f"{key_of_axis}.function"
    for consent, key_of_file in _sent_files(config):
        if _foreign_keys(origins, (key_of_file,)):
            folder = origins[key_of_file].file
            if folder is None or not Path(consent.subject[1]).is_relative_to(
                folder.parent.resolve()
            ):
                yield consent, [f"{key_of_file}={consent.subject[1]}"], key_of_file
    for consent, word, key_of_receiver in _messages(config):
        parts = [key for key in origins if f"{key}.".startswith(f"{key_of_receiver}.")]
        if foreign := _foreign_keys(origins, parts):
            yield consent, [word], foreign[0]
    outside = _outside_folder(config)
    if outside is not None and _foreign_keys(origins, ("output_dir",)):
        yield outside, [f"output_dir={config.output_dir}"], "output_dir"


def is_left_behind(file: Path) -> bool:
    """Whether a run or a sweep has written this profile."""
    in_sweep = file.parent.name == "configs" and file.stem.isdecimal()
    return file.name == "config.yaml" or in_sweep


def _foreign_keys(origins: Mapping[str, Origin], keys: Iterable[str]) -> list[str]:
    return [key for key in keys if key in origins and not is_own(origins[key])]


def is_own(origin: Origin) -> bool:
    """Whether a value is the person's: typed, a default, in a shipped profile or in the user's folder."""
    if origin.file is None:
        return True
    # Without resolving links: a person may link a profile into the folder.
    file = Path(os.path.abspath(origin.file))  # noqa: PTH100
    roots = (profiles.user_root(), profiles.shipped_root())
    return any(file.is_relative_to(os.path.abspath(root)) for root in roots)  # noqa: PTH100


def _sent_variables(judge: JudgeConfig) -> Iterator[tuple[Consent, str]]:
    """The environment variables that a judge's server would get, each with the key that names it."""
    if judge.kind != "openai" or (judge.base_url is not None and base_url_problem(judge.base_url)):
        return  # a wrong address is refused before a variable is read
    named = [(judge.api_key_env, "api_key_env")]
    named += [
        (variable, f"extra_headers.{name}")
        for name, text in judge.extra_headers.items()
        for variable in header_variables(text)
    ]
    for variable, key in named:
        if variable and _is_set(variable) and may_get_variable(judge.base_url, variable):
            yield Consent("judge", (endpoint_of(judge.base_url), variable)), key


def _value_of(judge: JudgeConfig, key: str) -> str:
    """The value of `api_key_env` or of a header, as it is typed."""
    name = key.removeprefix("extra_headers.")
    return judge.extra_headers[name] if name != key else judge.api_key_env or "null"


def _is_set(variable: str) -> bool:
    return bool(os.environ.get(variable) or dotenv_value(variable))


def _is_from_dotenv(origin: Origin | None, variable: str) -> bool:
    """Whether the working directory's `.env` has both the address and the variable that is sent there."""
    if origin is None or origin.file != Path.cwd() / ".env":
        return False
    return not os.environ.get(variable) and bool(dotenv_value(variable))


def _known_pairs(named: EnvironmentEndpoint | None = None) -> Iterator[Consent]:
    """The variables that shipped profiles and those in the user's folder send, each to its server.

    Args:
        named: the address of the profiles that have none; None is OpenAI's.
    """
    fields = JudgeConfig.model_fields
    default = named.base_url if named is not None and named.file is None else None
    for name in profiles.list_profiles("judges"):
        with contextlib.suppress(UsageError, ValueError):
            node = profiles.load_profile("judges", name)
            for judge in _judge_nodes(node):
                entries = {key: judge.get(key) for key in ("base_url", "api_key_env")}
                headers = judge.get("extra_headers")
                own_headers = headers.value if headers and isinstance(headers.value, dict) else {}
                given = [*entries.values(), headers, *own_headers.values()]
                if not all(entry is None or is_own(entry.origin) for entry in given):
                    continue
                base_url, variable = (
                    to_plain(entry) if isinstance(entry, Node) else fields[key].default
                    for key, entry in entries.items()
                )
                if not isinstance(base_url, str | None):
                    continue
                endpoint = endpoint_of(normalize_base_url(base_url) if base_url else default)
                variables = [variable]
                for text in own_headers.values():
                    variables += header_variables(str(text.value))
                yield from (
                    Consent("judge", (endpoint, v)) for v in variables if isinstance(v, str)
                )


def _judge_nodes(profile: Node) -> Iterator[Mapping[str, Node]]:
    """The values of a judge profile; for a panel, those of each of its judges."""
    assert isinstance(profile.value, dict)
    panel = profile.value.get("panel")
    if panel is None or not isinstance(panel.value, list) or not panel.value:
        yield profile.value
        return
    yield from (member.value for member in panel.value if isinstance(member.value, dict))


def _code_sources(config: Config, run: Path | None) -> Iterator[str]:
    """Folders and Hugging Face models whose Python code would run."""
    model = config.model
    if not model.trust_remote_code:
        return
    if model.path != "embedded":
        folder = model.folder()
        yield str(folder.resolve()) if folder else f"{model.path}@{model.revision or 'main'}"
    if run is not None and config.training.method == "full":
        yield str(run.resolve())


def _function_sources(config: Config) -> Iterator[tuple[str, str]]:
    """The axes computed by functions that do not ship with ida-tui, each with its function and options."""
    for name, axis in config.rubric.computed_axes.items():
        if _is_shipped(axis.function):
            continue
        options = f" with {json.dumps(axis.options, sort_keys=True)}" if axis.options else ""
        yield name, f"{axis.function}{options}"


def _is_shipped(function: str) -> bool:
    """Whether a reference names a module of ida-tui; a file or an entry point may have a similar name."""
    try:
        return parse_reference(function).module.startswith(SHIPPED_FUNCTIONS)
    except UsageError:
        return False


def is_consent_key(key: str) -> bool:
    """Whether a person can type this key to agree to something."""
    patterns = (_FUNCTION_KEY, _HEADER_KEY)
    return key in CONSENT_KEYS or any(pattern.fullmatch(key) for pattern in patterns)


def _is_used(consent: Consent, uses: Collection[Use]) -> bool:
    return consent.use in uses or (consent.use == "data" and "judge" in uses)


def _sent_files(config: Config) -> Iterator[tuple[Consent, str]]:
    """Data files outside of the working directory that a judge elsewhere would see, each with its key."""
    elsewhere = [
        judge
        for judge in config.judge.members
        if judge.kind == "openai" and not is_local(judge.base_url)
    ]
    files = {
        "prompts.source": config.prompts.source,
        "prompts.held_out_source": config.prompts.held_out_source,
        "judge.gold": config.judge.gold,
    }
    for judge, (key, source) in itertools.product(elsewhere, files.items()):
        if source is not None and (key == "judge.gold" or not is_hub_id(source)):
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                file = expand_home(source).resolve()
                if not file.is_relative_to(Path.cwd().resolve()):
                    endpoint = endpoint_of(judge.base_url)
                    yield Consent("data", (endpoint, str(file))), key


def _messages(config: Config) -> Iterator[tuple[Consent, str, str]]:
    """Who gets messages about a run: each with the words that name it and their key."""
    notify = config.notify
    if notify.events and notify.webhook is not None:
        consent = Consent("notify", ("webhook", notify.webhook))
        yield consent, f"notify.webhook={notify.webhook}", "notify.webhook"
    if notify.events and notify.command:
        consent = Consent("notify", ("command", *notify.command))
        yield consent, f"notify.command={json.dumps(notify.command)}", "notify.command"


def _outside_folder(config: Config) -> Consent | None:
    """The output folder, if it is outside of the working directory."""
    try:
        folder = expand_home(config.output_dir).resolve()
        inside = folder.is_relative_to(Path.cwd().resolve())
    except (OSError, ValueError, RuntimeError):
        return None  # it cannot be created either
    return None if inside else Consent("output", (str(folder),))
