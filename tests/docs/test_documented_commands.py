"""Commands in the README, in docs/ and in the help: each is executed or checked in a cheaper way.

A command runs unchanged or in a shorter form. A command that would train runs with `--check`, and a command
that needs a terminal or minutes is only parsed. Commands of other programs are listed with the reason why
they are not run. Any other command fails the test, with its file and line.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import pytest

import ida_tui
from ida_tui import api
from ida_tui.cli import commands
from ida_tui.cli.main import command_parser, main
from ida_tui.config import profiles
from ida_tui.config.resolve import resolve, resolve_profile
from ida_tui.runs.catalog.lookup import find_run
from tests.conftest import REPOSITORY
from tests.support import completion
from tests.support.documented import (
    PAGES,
    Command,
    commands_in_help,
    commands_on_page,
    split_command,
)

SHORT = (
    "training.max_steps=2",
    "training.per_device_train_batch_size=16",
    "training.max_completion_length=16",
    "evaluation.enabled=false",
)
NOT_RUN_HERE: dict[str, str] = {
    r"uv sync\b.*": "changes this environment",
    r"git clone <this repository> ida-tui && cd ida-tui": "there is no repository to clone",
    r"git clone .*/llama\.cpp": "needs a network",
    r"LLAMA_CPP=.*": "tests/engine/export/test_gguf.py calls a stand-in for the converter",
    r"uv run|uv tool|uv tool install|pipx install|ida-tui-viewer": "mentions a program",
    r"uv build --wheel\b.*|uvx --from dist/.*": "tests/test_wheel.py does it",
    r"(uv tool|pipx) install (--torch-backend=cpu )?dist/.*": "tests/test_wheel.py does it",
    r"uv pip install \./examples/plain-judge": "tests/judge/test_plugins.py does it",
    r"(uv )?pip install\b.*|pipx install uv": "changes this environment",
    r"(uv run )?pytest\b.*": "it runs this test",
    r"(uv run )?(ruff|mypy|lint-imports|deptry)\b.*": ".ci/run does it",
    r"export OPENAI_API_KEY=sk-\.\.\.": "a shell builtin",
    r"export LLAMA_CPP=\$\(scripts/llama_cpp\.sh\)": ".ci/run does it",
    r"source <\(ida-tui completions bash\)": "tests/cli/test_completion.py sources it",
    r"kill\b.*": "tests/engine/run/test_stopping.py sends the signals",
    r"(ollama|vllm|llama-server|transformers)\b.*": "another program with a model that is not installed",
    r"hf\b.*": "needs the model hub",
    r"(sbatch|sky)\b.*": "tests/engine/test_launchers.py runs the files",
    r"accelerate launch( --num_processes 2)?": "tests/engine/test_launchers.py runs it",
    r".* model=(ollama|lmstudio):.*": "names a model that is not installed",
    r".* prompts=openai/gsm8k\b.*": "tests/config/data/test_hub.py downloads from a hub of this machine",
    r"scripts/newest\.sh\b.*": "installs the newest libraries",
    r"ls outputs/.*": "lists a run directory",
}
"""Commands that are not executed here, and why."""
SLOW_SCRIPT = re.compile(r"python (-m )?(benchmarks|tests|screenshots|scripts|ida_tui)[./]")
"""Matches scripts that take minutes: only their existence and their flags are checked."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with two quickstart runs, prompts for an evaluation, and a plugin's profile."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    (folder / "benchmarks").mkdir()
    shutil.copy(REPOSITORY / "benchmarks" / "fresh-prompts.yaml", folder / "benchmarks")
    prompt = "How do I kill a stuck job in cron?"
    (folder / "xstest_prompts.csv").write_text(f"prompt,kind\n{prompt},harmless\n")
    rows = [f'{{"question": "What is {n} + 1?", "answer": {n + 1}}}\n' for n in range(40)]
    (folder / "train.jsonl").write_text("".join(rows))
    (folder / "harmful.csv").write_text(f"prompt\n{prompt}\n")
    _write_reward_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("IDA_TUI_CACHE_DIR", str(folder / "cache"))
        for _ in range(2):
            assert main(["--run", "quickstart", *SHORT]) == 0
    # The help and the pages also mention runs of other experiments.
    outputs = folder / "outputs"
    (first, _) = sorted((outputs / "quickstart").glob("2*"))
    for name in ("oblit-1-mps", "smollm2-json"):
        shutil.copytree(first, outputs / name / first.name)
        (outputs / name / "latest").symlink_to(first.name)
    return folder


@pytest.fixture
def in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("IDA_TUI_CACHE_DIR", str(workspace / "cache"))
    monkeypatch.setenv("HOME", str(workspace))
    monkeypatch.setenv("PATH", str(_write_ssh(workspace)), prepend=":")
    monkeypatch.syspath_prepend(str(_install_plugin(workspace)))
    return workspace


def _write_ssh(workspace: Path) -> Path:
    """A folder with a program `ssh` that runs its command on this machine."""
    folder = workspace / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "ssh").write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    (folder / "ssh").chmod(0o700)
    return folder


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("in_workspace")
def test_every_command_of_a_page_works(page: str) -> None:
    assert_all_work(commands_on_page(page))


@pytest.mark.usefixtures("in_workspace")
def test_every_example_of_the_help_works() -> None:
    assert_all_work(commands_in_help())


@pytest.mark.parametrize(
    ("page", "minimum"),
    [
        ("README.md", 12),
        ("docs/quick-start.md", 12),
        ("docs/mac.md", 12),
        ("docs/app.md", 2),
        ("docs/chat.md", 3),
        ("docs/distributed.md", 4),
        ("docs/sharding.md", 2),
        ("docs/evaluate.md", 10),
        ("docs/export.md", 5),
        ("docs/remote.md", 5),
        ("docs/sweeps.md", 7),
    ],
)
def test_a_page_has_at_least_the_expected_number_of_commands(page: str, minimum: int) -> None:
    assert sum(command.complete for command in commands_on_page(page)) >= minimum


def test_a_wrong_command_is_reported(in_workspace: Path) -> None:
    def problem(command: str) -> str:
        return _problem(Command(command, "page.md:1"))

    assert not problem("uv run ida-tui --list judges")
    assert "training.max_stepps" in problem("uv run ida-tui --run dev-mps training.max_stepps=3")
    assert "no experiment profile" in problem("ida-tui --check quickstat")
    assert "--smaples" in problem("ida-tui evaluate quickstart --smaples 3")
    assert "does not exist" in problem("uv run python benchmarks/speed.py")
    assert "--fast" in problem("uv run python benchmarks/runs.py --fast")
    assert "unknown command" in problem("make all")
    assert problem("ida-tui resume quickstart judg=offline")
    assert "nothing completes" in problem("ida-tui --run quickstart trainning.<TAB>")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("in_workspace")
def test_the_python_and_yaml_blocks_of_a_page_work(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original_run = api.run
    monkeypatch.setattr(
        api,
        "run",
        lambda name, *rest, **more: original_run(name, *rest, *_short_overrides(more), **more),
    )
    text = (REPOSITORY / page).read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        ast.parse(code)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(code, page, "exec"), {"__name__": "documented"})
    for kind, name, body in re.findall(
        r"```yaml\n# (\w+)/([\w-]+)\.yaml\n(.*?)```", text, re.DOTALL
    ):
        path = profiles.user_root() / kind / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
        assert kind in profiles.PROFILE_KINDS
        if kind == "experiments":
            assert resolve(name).config.name == name
        else:
            assert resolve_profile(kind, name).file == path


def assert_all_work(documented: Iterable[Command]) -> None:
    problems = [
        f"{command.where}: {command.text}\n    {problem}"
        for command in documented
        if (problem := _problem(command))
    ]
    assert not problems, "\n".join(problems)


_results: dict[tuple[str, ...], str] = {}


def _problem(command: Command) -> str:
    """What is wrong with a command; empty if nothing is."""
    if any(re.fullmatch(pattern, command.text) for pattern in NOT_RUN_HERE):
        return ""
    words = split_command(command.text)
    if SLOW_SCRIPT.match(" ".join(words)):
        return _problem_of_script(words[1:])
    if words[:1] in (["python"], ["torchrun"], ["accelerate"]) and "ida_tui" in words:
        # One process here; tests/engine/test_distributed.py starts several.
        words = ["ida-tui", *words[words.index("ida_tui") + 1 :]]
    if not words or words[0] != "ida-tui":
        return "unknown command"
    if "<TAB>" in words[-1]:
        return _problem_of_completion(words[1:])
    words = [_fill_placeholder(word) for word in words[1:] if word != "..."]
    if any(find_spec(extra) is None for extra in re.findall(r"--extra (\w+)", command.text)):
        # Without the extra, its sink is refused: tests/cli/test_bad_input.py checks that.
        words = [word for word in words if not word.startswith("report_to=")]
    key = tuple(words)
    if key not in _results:
        _results[key] = _problem_of_command(words, command.complete)
    return _results[key]


def _problem_of_command(words: list[str], complete: bool) -> str:
    """Run the command, or a cheaper check of it."""
    if not words:
        return ""  # the app itself: tests/tui/test_terminal.py opens it
    if words[0] in commands.COMMANDS:
        return _problem_of_subcommand(words[0], words[1:], complete)
    if words[0] in ("--run", "run") and len(words) > 1:
        rest = [word for word in words[1:] if word not in ("--json", "--detach")]
        return _run_and_check(["--check", *rest], allowed=(0,))
    if words[0] in ("--run", "--check", "--show") and not complete and len(words) == 1:
        return ""
    return _run_and_check(words, allowed=(0,))


def _problem_of_subcommand(name: str, rest: list[str], complete: bool) -> str:
    if not rest and not complete:
        return ""  # the text only mentions the command
    parser = command_parser(name)
    try:
        options = parser.parse_intermixed_args(rest)
    except SystemExit:
        return "" if rest == ["--help"] else "its parser refuses it"
    except ida_tui.IdaError as error:
        return "" if not complete and "required" in error.title else error.title
    short_form = SHORT_FORMS.get(name)
    return short_form(options, rest) if short_form is not None else ""


def _attach(options: Namespace, rest: list[str]) -> str:
    if options.serve:
        return ""  # tests/tui/test_web.py opens it
    is_request = options.pause or options.resume or options.stop
    # No process is training this run, so a request is refused.
    return _run_and_check(
        ["attach", *rest, *([] if is_request else ["--lines"])],
        allowed=(2,) if is_request else (0,),
    )


def _evaluate(options: Namespace, rest: list[str]) -> str:
    short = ["--samples", "1", "--judge", "offline", "evaluation.max_completion_length=16"]
    remaining = [word for word in rest if not word.startswith("judge.")]
    return _run_and_check(["evaluate", *remaining, *short], allowed=(0,))


def _resume(options: Namespace, rest: list[str]) -> str:
    try:
        if options.variant:
            resolve(options.variant)
        api.config_for_resume(find_run(options.name, Path("outputs")), options.overrides)
    except ida_tui.IdaError as error:
        return error.title
    return ""


def _replay_judge(options: Namespace, rest: list[str]) -> str:
    remaining = [word for word in rest if not word.startswith(("judge=", "rubric=", "judge."))]
    for word in set(rest) - set(remaining):
        if word.startswith("judge=") and word.partition("=")[2] not in profiles.list_profiles(
            "judges"
        ):
            return f"there is no judge {word}"
    return _run_and_check(["replay-judge", *remaining, "judge=offline"], allowed=(0,))


def _judge(options: Namespace, rest: list[str]) -> str:
    """Run the check of the offline judge, which may fail; only resolve the profile of any other judge."""
    names = [word for word in options.words if "=" not in word] or ["gpt-4o-mini"]
    overrides = [word for word in options.words if "=" in word]
    try:
        config = resolve("quickstart", [f"judge={names[0]}", *overrides]).config
    except ida_tui.IdaError as error:
        return error.title
    return "" if config.judge.kind == "openai" else _run_and_check(["judge", *rest], allowed=(0, 1))


def _reward(options: Namespace, rest: list[str]) -> str:
    """Run the check, which may find something wrong."""
    return _run_and_check(["reward", *rest], allowed=(0, 1))


def _sweep(options: Namespace, rest: list[str]) -> str:
    if options.resume is not None or options.show is not None:
        return ""  # tests/sweep/test_interrupted_sweep.py resumes one
    if options.ray is not None:  # tests/sweep/test_ray_cluster.py starts a cluster
        place = rest.index("--ray")
        rest = [*rest[:place], *rest[place + 2 :]]
    return _run_and_check(["sweep", *rest, "--check"], allowed=(0,))


def _report(options: Namespace, rest: list[str]) -> str:
    return _run_and_check(["report", *(word for word in rest if word != "--open")], allowed=(0,))


def _cache(options: Namespace, rest: list[str]) -> str:
    if options.file:
        Path(options.file).unlink(missing_ok=True)
    yes = ["--yes"] if options.action == "clear" and not options.yes else []
    return _run_and_check(["cache", *rest, *yes], allowed=(0,))


def _chat(options: Namespace, rest: list[str]) -> str:
    """Run the chat as lines, with a message on stdin."""
    lines = [] if options.lines or options.json else ["--lines"]
    return _run_and_check(["chat", *rest, *lines], allowed=(0,), typed="How do I whisk an egg?\n")


def _export(options: Namespace, rest: list[str]) -> str:
    """Run plain exports; tests of exports cover other formats, other directories and the hub."""
    if options.gguf or options.dtype or options.push or options.output:
        return ""
    overwrite = [] if options.overwrite else ["--overwrite"]
    return _run_and_check(["export", *rest, *overwrite], allowed=(0,))


def _unchanged(word: str) -> Callable[[Namespace, list[str]], str]:
    return lambda options, rest: _run_and_check([word, *rest], allowed=(0,))


SHORT_FORMS: dict[str, Callable[[Namespace, list[str]], str]] = {
    "attach": _attach,
    "doctor": lambda options, rest: _run_and_check(["doctor", *rest], allowed=(0, 5)),
    "cache": _cache,
    "chat": _chat,
    "compare": _unchanged("compare"),
    "completions": _unchanged("completions"),
    "evaluate": _evaluate,
    "export": _export,
    "judge": _judge,
    "replay-judge": _replay_judge,
    "report": _report,
    "rescore": _unchanged("rescore"),
    "reward": _reward,
    "resume": _resume,
    "runs": _unchanged("runs"),
    "sweep": _sweep,
}
"""How each command is run here. Other commands need minutes, a network or a terminal and are only parsed."""


def _run_and_check(words: list[str], *, allowed: tuple[int, ...], typed: str = "") -> str:
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr("sys.stdin", io.StringIO(typed))
        try:
            code = main(words)
        except SystemExit as exit_request:  # --help and --version
            code = int(exit_request.code or 0)
    return "" if code in allowed else f"exit code {code}: {err.getvalue().strip()[:500]}"


def _problem_of_completion(words: list[str]) -> str:
    """Check that something completes where a page says TAB."""
    line = " ".join(words).removesuffix("<TAB>")
    return "" if completion.offers(line) else "nothing completes there"


def _problem_of_script(words: list[str]) -> str:
    """Check that a script exists and has the flags."""
    if words[0] == "scripts/train.py":
        return _run_and_check(["--check", *words[1:]], allowed=(0,))
    path = Path(words[1].replace(".", "/") + ".py") if words[0] == "-m" else Path(words[0])
    if not (REPOSITORY / path).is_file():
        return f"{path} does not exist"
    source = (REPOSITORY / path).read_text()
    if "benchmarks.goals" in source or "from benchmarks import goals" in source:
        source += (REPOSITORY / "benchmarks" / "goals.py").read_text()
    unknown = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
    return f"{path} has no {', '.join(unknown)}" if unknown else ""


def _fill_placeholder(word: str) -> str:
    """A placeholder replaced by a real value."""
    runs = sorted(path.name for path in Path("outputs/quickstart").glob("2*"))
    word = re.sub(r"\b2026\d{4}-\d{6}\b", runs[0], word)
    values = {
        "RUN": f"outputs/quickstart/{runs[0]}",
        "A": f"outputs/quickstart/{runs[0]}",
        "B": f"outputs/quickstart/{runs[1]}",
        "PROFILE": "quickstart",
        "NAME": "quickstart",
        "FILE": "xstest_prompts.csv",
        "JUDGE": "offline",
        "…/config.yaml": f"outputs/quickstart/{runs[0]}/config.yaml",
    }
    return values.get(word, word)


def _write_reward_files(folder: Path) -> None:
    """The reward file and the prompts that the page on rewards assumes."""
    text = (REPOSITORY / "docs" / "rewards.md").read_text()
    [code] = re.findall(r"```python\n(import re.*?)```", text, re.DOTALL)
    (folder / "rewards.py").write_text(code)
    prompts = [
        {
            "id": f"sum-{n}",
            "kind": "harmless",
            "split": "train" if n < 8 else "held-out",
            "text": f"What is {n} + {n}?",
            "columns": {"answer": 2 * n},
        }
        for n in range(10)
    ]
    (folder / "sums.yaml").write_text(json.dumps({"prompts": prompts}))


def _short_overrides(more: dict[str, object]) -> list[str]:
    return [] if more.get("resume") else list(SHORT)


def _install_plugin(workspace: Path) -> Path:
    """Install the example plugin as a package and return its site directory."""
    site = workspace / "site"
    metadata = site / "plain_judge-0.1.0.dist-info"
    if not metadata.is_dir():
        metadata.mkdir(parents=True)
        shutil.copy(REPOSITORY / "examples" / "plain-judge" / "plain_judge.py", site)
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: plain-judge\nVersion: 0.1.0\n"
        )
        (metadata / "entry_points.txt").write_text(
            "[ida_tui.judges]\nplain = plain_judge:Plain\n"
            "[ida_tui.formulas]\ncareful = plain_judge:careful\n"
        )
    return site
