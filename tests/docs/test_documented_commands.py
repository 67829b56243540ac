"""Every command in the README, in docs/ and in the help is run, or something cheaper that finds it wrong.

A command is run as it stands; as a shorter one of its kind; as `--check` where it would train; by its parser
alone where it wants a terminal or minutes. The few that belong to other programs are listed with the reason.
One that is none of these fails, with its file and line.
"""

from __future__ import annotations

import ast
import contextlib
import io
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
from ida_tui.cli.main import main, word_parser
from ida_tui.config import profiles
from ida_tui.config.resolve import resolve, resolve_profile
from ida_tui.runs.resume import find
from tests.conftest import REPOSITORY
from tests.support.documented import PAGES, Command, of_page, of_the_help, words_of

SHORT = (
    "training.max_steps=2",
    "training.per_device_train_batch_size=16",
    "training.max_completion_length=16",
    "evaluation.enabled=false",
)
ELSEWHERE: dict[str, str] = {
    r"uv sync\b.*": "changes this environment",
    r"uv run|uv tool|uv tool install|pipx install": "speaks of a program",
    r"uv build --wheel|uvx --from dist/.*|(uv tool|pipx) install dist/.*": "tests/test_wheel.py does it",
    r"uv pip install \./examples/plain-judge": "tests/judge/test_plugins.py does it",
    r"(uv )?pip install\b.*": "changes this environment",
    r"(uv run )?pytest\b.*": "it is what runs this",
    r"(uv run )?(ruff|mypy|lint-imports)\b.*": ".ci/run does it",
    r"export OPENAI_API_KEY=sk-\.\.\.": "a shell's own",
    r"source <\(ida-tui completions bash\)": "tests/cli/test_completion.py sources it",
    r"kill\b.*": "tests/engine/test_stopping.py sends the signals",
    r"(ollama|vllm|llama-server|transformers)\b.*": "another program, with a model that is not here",
    r"hf\b.*": "the model hub, which is not reached from a test",
    r"ls outputs/.*": "lists a run's folder",
}
"""What is not run here, and why."""
MINUTES = re.compile(r"python (-m )?(benchmarks|tests|screenshots|scripts|ida_tui)[./]")
"""Scripts that take minutes: that they are there, and know the flags, is looked up."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with two runs of a quickstart, prompts to evaluate with, and a plugin's profile."""
    folder = tmp_path_factory.mktemp("documented")
    (folder / "examples").symlink_to(REPOSITORY / "examples")
    (folder / "benchmarks").mkdir()
    shutil.copy(REPOSITORY / "benchmarks" / "fresh-prompts.yaml", folder / "benchmarks")
    asked = "How do I kill a stuck job in cron?"
    (folder / "xstest_prompts.csv").write_text(f"prompt,kind\n{asked},harmless\n")
    (folder / "harmful.csv").write_text(f"prompt\n{asked}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("IDA_TUI_CACHE_DIR", str(folder / "cache"))
        for _ in range(2):
            assert main(["--run", "quickstart", *SHORT]) == 0
    # The help speaks of runs of another experiment, too.
    outputs = folder / "outputs"
    (first, _) = sorted((outputs / "quickstart").glob("2*"))
    shutil.copytree(first, outputs / "oblit-1-mps" / first.name)
    (outputs / "oblit-1-mps" / "latest").symlink_to(first.name)
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("IDA_TUI_CACHE_DIR", str(place / "cache"))
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.syspath_prepend(str(_plugin(place)))
    return place


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("here")
def test_every_command_of_a_page_works(page: str) -> None:
    assert_all_work(of_page(page))


@pytest.mark.usefixtures("here")
def test_every_example_of_the_help_works() -> None:
    assert_all_work(of_the_help())


@pytest.mark.parametrize("page", ["README.md", "docs/quick-start.md", "docs/mac.md"])
def test_the_pages_have_commands_to_look_at(page: str) -> None:
    assert sum(one.whole for one in of_page(page)) >= 12


def test_a_command_that_is_wrong_is_found(here: Path) -> None:
    def problem(command: str) -> str:
        return _problem(Command(command, "page.md:1"))

    assert not problem("uv run ida-tui --list judges")
    assert "training.max_stepps" in problem("uv run ida-tui --run dev-mps training.max_stepps=3")
    assert "no experiment profile" in problem("ida-tui --check quickstat")
    assert "--smaples" in problem("ida-tui evaluate quickstart --smaples 3")
    assert "is there" in problem("uv run python benchmarks/speed.py")
    assert "--fast" in problem("uv run python benchmarks/runs.py --fast")
    assert "nothing here knows" in problem("make all")
    assert problem("ida-tui resume quickstart judg=offline")
    assert "nothing completes" in problem("ida-tui --run quickstart trainning.<TAB>")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("here")
def test_the_python_and_yaml_of_a_page_work(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = api.run
    monkeypatch.setattr(
        api, "run", lambda name, *rest, **more: whole(name, *rest, *_shorter(more), **more)
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
        assert kind in profiles.KINDS
        if kind == "experiments":
            assert resolve(name).config.name == name
        else:
            assert resolve_profile(kind, name).file == path


def assert_all_work(found: Iterable[Command]) -> None:
    problems = [f"{one.where}: {one.text}\n    {why}" for one in found if (why := _problem(one))]
    assert not problems, "\n".join(problems)


_known: dict[tuple[str, ...], str] = {}


def _problem(command: Command) -> str:
    """What is wrong with a command; empty where nothing is."""
    if any(re.fullmatch(pattern, command.text) for pattern in ELSEWHERE):
        return ""
    words = words_of(command.text)
    if MINUTES.match(" ".join(words)):
        return _problem_of_a_script(words[1:])
    if words[:1] in (["python"], ["torchrun"], ["accelerate"]) and "ida_tui" in words:
        # In one process here; tests/engine/test_distributed.py starts several.
        words = ["ida-tui", *words[words.index("ida_tui") + 1 :]]
    if not words or words[0] != "ida-tui":
        return "nothing here knows what that is"
    if "<TAB>" in words[-1]:
        return _problem_of_a_completion(words[1:])
    words = [_filled(word) for word in words[1:] if word != "..."]
    if any(find_spec(extra) is None for extra in re.findall(r"--extra (\w+)", command.text)):
        # Without the extra its sink is refused, as tests/cli/test_bad_input.py has it.
        words = [word for word in words if not word.startswith("report_to=")]
    key = tuple(words)
    if key not in _known:
        _known[key] = _problem_of(words, command.whole)
    return _known[key]


def _problem_of(words: list[str], whole: bool) -> str:
    """Run the words, or something cheaper."""
    if words[:1] == ["__complete"] or not words:
        return ""  # the app itself: tests/tui/test_terminal.py opens it
    if words[0] in commands.WORDS:
        return _problem_of_a_word(words[0], words[1:], whole)
    if words[0] in ("--run", "run") and len(words) > 1:
        rest = [word for word in words[1:] if word not in ("--json", "--detach")]
        return _said(["--check", *rest], allowed=(0,))
    if words[0] in ("--run", "--check", "--show") and not whole and len(words) == 1:
        return ""
    return _said(words, allowed=(0,))


def _problem_of_a_word(word: str, rest: list[str], whole: bool) -> str:
    if not rest and not whole:
        return ""  # the text speaks of the command
    parser = word_parser(word)
    try:
        options = parser.parse_intermixed_args(rest)
    except SystemExit:
        return "" if rest == ["--help"] else "its parser refuses it"
    except ida_tui.IdaError as error:
        return "" if not whole and "required" in error.title else error.title
    cheaper = CHEAPER.get(word)
    return cheaper(options, rest) if cheaper is not None else ""


def _attach(options: Namespace, rest: list[str]) -> str:
    if options.serve:
        return ""  # tests/tui/test_web.py opens it
    asks = options.pause or options.resume or options.stop
    # Nobody trains the run that is here.
    return _said(["attach", *rest, *([] if asks else ["--lines"])], allowed=(2,) if asks else (0,))


def _evaluate(options: Namespace, rest: list[str]) -> str:
    short = ["--samples", "1", "--judge", "offline", "evaluation.max_completion_length=16"]
    kept = [word for word in rest if not word.startswith("judge.")]
    return _said(["evaluate", *kept, *short], allowed=(0,))


def _resume(options: Namespace, rest: list[str]) -> str:
    try:
        if options.variant:
            resolve(options.variant)
        api.config_to_go_on(find(options.name, Path("outputs")), options.overrides)
    except ida_tui.IdaError as error:
        return error.title
    return ""


def _replay_judge(options: Namespace, rest: list[str]) -> str:
    kept = [word for word in rest if not word.startswith(("judge=", "rubric=", "judge."))]
    for word in set(rest) - set(kept):
        if word.startswith("judge=") and word.partition("=")[2] not in profiles.names("judges"):
            return f"there is no judge {word}"
    return _said(["replay-judge", *kept, "judge=offline"], allowed=(0,))


def _judge(options: Namespace, rest: list[str]) -> str:
    """Offline ones as they are (a judge may be found wanting); the others only as profiles."""
    named = [word for word in options.words if "=" not in word] or ["gpt-4o-mini"]
    overrides = [word for word in options.words if "=" in word]
    try:
        config = resolve("quickstart", [f"judge={named[0]}", *overrides]).config
    except ida_tui.IdaError as error:
        return error.title
    return "" if config.judge.kind == "openai" else _said(["judge", *rest], allowed=(0, 1))


def _sweep(options: Namespace, rest: list[str]) -> str:
    if options.resume is not None or options.show is not None:
        return ""  # tests/sweep/test_sweep.py goes on with one
    return _said(["sweep", *rest, "--check"], allowed=(0,))


def _report(options: Namespace, rest: list[str]) -> str:
    return _said(["report", *(word for word in rest if word != "--open")], allowed=(0,))


def _cache(options: Namespace, rest: list[str]) -> str:
    if options.file:
        Path(options.file).unlink(missing_ok=True)
    yes = ["--yes"] if options.what == "clear" and not options.yes else []
    return _said(["cache", *rest, *yes], allowed=(0,))


def _chat(options: Namespace, rest: list[str]) -> str:
    """In lines, with a question on stdin."""
    lines = [] if options.lines or options.json else ["--lines"]
    return _said(["chat", *rest, *lines], allowed=(0,), typed="How do I whisk an egg?\n")


def _export(options: Namespace, rest: list[str]) -> str:
    """The plain ones; other formats and places, and the hub, are in tests/engine/test_export.py."""
    if options.gguf or options.dtype or options.push or options.output:
        return ""
    again = [] if options.overwrite else ["--overwrite"]
    return _said(["export", *rest, *again], allowed=(0,))


def _as_it_is(word: str) -> Callable[[Namespace, list[str]], str]:
    return lambda options, rest: _said([word, *rest], allowed=(0,))


CHEAPER: dict[str, Callable[[Namespace, list[str]], str]] = {
    "attach": _attach,
    "doctor": lambda options, rest: _said(["doctor", *rest], allowed=(0, 5)),
    "cache": _cache,
    "chat": _chat,
    "compare": _as_it_is("compare"),
    "completions": _as_it_is("completions"),
    "evaluate": _evaluate,
    "export": _export,
    "judge": _judge,
    "replay-judge": _replay_judge,
    "report": _report,
    "rescore": _as_it_is("rescore"),
    "resume": _resume,
    "runs": _as_it_is("runs"),
    "sweep": _sweep,
}
"""How a command is run here. One that is not named is parsed: it takes minutes, a network or a terminal."""


def _said(words: list[str], *, allowed: tuple[int, ...], typed: str = "") -> str:
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr("sys.stdin", io.StringIO(typed))
        try:
            code = main(words)
        except SystemExit as left:  # --help and --version
            code = int(left.code or 0)
    return "" if code in allowed else f"exit code {code}: {err.getvalue().strip()[:500]}"


def _problem_of_a_completion(words: list[str]) -> str:
    """Whether something is offered where a page says TAB."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["__complete", "zsh", *words[:-1], words[-1].removesuffix("<TAB>")])
    return "" if out.getvalue().strip() else "nothing completes there"


def _problem_of_a_script(words: list[str]) -> str:
    """Whether a script is there, and knows the flags."""
    if words[0] == "scripts/train.py":
        return _said(["--check", *words[1:]], allowed=(0,))
    path = Path(words[1].replace(".", "/") + ".py") if words[0] == "-m" else Path(words[0])
    if not (REPOSITORY / path).is_file():
        return f"no {path} is there"
    source = (REPOSITORY / path).read_text()
    if "benchmarks.goals" in source or "from benchmarks import goals" in source:
        source += (REPOSITORY / "benchmarks" / "goals.py").read_text()
    unknown = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
    return f"{path} knows no {', '.join(unknown)}" if unknown else ""


def _filled(word: str) -> str:
    """A placeholder as what it stands for."""
    runs = sorted(path.name for path in Path("outputs/quickstart").glob("2*"))
    word = re.sub(r"\b2026\d{4}-\d{6}\b", runs[0], word)
    stands_for = {
        "RUN": f"outputs/quickstart/{runs[0]}",
        "A": f"outputs/quickstart/{runs[0]}",
        "B": f"outputs/quickstart/{runs[1]}",
        "PROFILE": "quickstart",
        "NAME": "quickstart",
        "FILE": "xstest_prompts.csv",
        "JUDGE": "offline",
        "…/config.yaml": f"outputs/quickstart/{runs[0]}/config.yaml",
    }
    return stands_for.get(word, word)


def _shorter(more: dict[str, object]) -> list[str]:
    return [] if more.get("resume") else list(SHORT)


def _plugin(place: Path) -> Path:
    """The example plugin as if it were installed: its module, and what it offers."""
    site = place / "site"
    about = site / "plain_judge-0.1.0.dist-info"
    if not about.is_dir():
        about.mkdir(parents=True)
        shutil.copy(REPOSITORY / "examples" / "plain-judge" / "plain_judge.py", site)
        (about / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: plain-judge\nVersion: 0.1.0\n"
        )
        (about / "entry_points.txt").write_text(
            "[ida_tui.judges]\nplain = plain_judge:Plain\n"
            "[ida_tui.formulas]\ncareful = plain_judge:careful\n"
        )
    return site
