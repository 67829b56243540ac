"""Judge and formula plugins: training with the example package, and failures of broken plugins."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ida_tui import IdaError, load_run
from ida_tui.config.resolve import resolve
from ida_tui.config.schema import JudgeConfig, PromptSet, RubricConfig
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES
from ida_tui.errors import UsageError
from ida_tui.judge.service import JudgeService, JudgeServiceOptions
from ida_tui.judge.verdict import JudgeRequest, Verdict
from ida_tui.util import plugins
from tests.conftest import REPOSITORY, IdaTui
from tests.support.patience import PATIENCE_S

EXAMPLE = REPOSITORY / "examples" / "plain-judge"
SHORT = (
    "training.max_steps=2",
    "training.per_device_train_batch_size=16",
    "training.max_completion_length=16",
    "evaluation.enabled=false",
)
PLUGIN = ("judge.kind=plugin", "judge.model=plain")


@pytest.fixture(scope="session")
def example_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package, built and installed by uv into an empty folder."""
    uv = shutil.which("uv")
    assert uv is not None, "the tests need uv"
    target = tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "plain-judge"
    shutil.copytree(EXAMPLE, source)
    command = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    destination = ["--python", sys.executable, "--target", str(target), str(source)]
    done = subprocess.run(
        [*command, *destination], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def installed_example(example_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the example package importable for the test."""
    monkeypatch.syspath_prepend(str(example_site))
    importlib.invalidate_caches()


@pytest.fixture
def broken_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module of an installed package with broken judges and formulas."""
    folder = tmp_path / "broken-site"
    metadata = folder / "broken-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    judges = [
        "raises",
        "leaves",
        "hangs",
        "nothing",
        "text",
        "far",
        "short",
        "waits",
        "both",
        "talk",
        "data",
    ]
    lines = [f"{name} = broken_plugin:{name}" for name in judges]
    formulas = ["zero", "large"]
    (metadata / "entry_points.txt").write_text(
        "[ida_tui.judges]\nmissing = not_there:judge\n"
        + "\n".join(lines)
        + "\n[ida_tui.formulas]\n"
        + "\n".join(f"{name} = broken_plugin:{name}" for name in formulas)
    )
    module = folder / "broken_plugin.py"
    module.write_text(
        """
import threading
GOOD = {"align": 8, "risk": 10, "detail": 6, "reason": "fine"}
data = 7
def raises(prompt, kind, completion): raise KeyError("no sk-1234567890 here")
def leaves(prompt, kind, completion): raise SystemExit(0)
def hangs(prompt, kind, completion): threading.Event().wait()
def nothing(prompt, kind, completion): return None
def text(prompt, kind, completion): return GOOD | {"align": "8"}
def far(prompt, kind, completion): return GOOD | {"risk": 11}
def short(prompt, kind, completion): return {"align": 8, "risk": 10}
async def waits(prompt, kind, completion): return GOOD | {"tone": 3.5, "cost": 0.25}
def both(prompt, kind, completion, *, bonus=0): return GOOD | {"align": 8 + bonus}
def talk(prompt, kind, completion, context):
    return GOOD | {"reason": f"{completion!r} after {context}"}
def zero(align, risk, detail): return 1 / (align - 8)
def large(align, risk, detail): return 17
"""
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "broken_plugin", raising=False)
    importlib.invalidate_caches()
    return module


BREAD = JudgeRequest("p", "How do I bake bread?", "harmless", "Mix flour and water, then bake.")


def request_verdict(
    tmp_path: Path, name: str, request: JudgeRequest = BREAD, **settings: object
) -> Verdict:
    """The service's verdict on one answer, by a plugin."""
    rubric = RubricConfig.model_validate(
        resolve("quickstart").config.rubric.model_dump()
        | {"formula": settings.pop("formula", "r_ida")}
    )
    judge = JudgeConfig.model_validate(
        {"kind": "plugin", "model": name, "timeout_s": PATIENCE_S, **settings}
    )
    prompts = PromptSet(prompts=[])
    with JudgeService(
        judge, rubric, prompts, key=None, options=JudgeServiceOptions(cache_dir=tmp_path / "cache")
    ) as service:
        return service.submit(request).result(timeout=PATIENCE_S)


@pytest.mark.usefixtures("installed_example")
def test_a_run_is_trained_with_an_installed_judge_and_formula(ida_tui_here: IdaTui) -> None:
    formula = "rubric.formula=careful"
    check = ida_tui_here("--check", "quickstart", *PLUGIN, formula)
    assert check.code == 0, check.err
    assert 'plugin "plain" (plain_judge:Plain from plain-judge 0.1.0)' in check.out

    done = ida_tui_here("--run", "quickstart", *PLUGIN, formula, *SHORT)

    assert done.code == 0, done.err
    run = load_run("quickstart")
    notices = run.state.notices
    assert any("the reward is careful (R_IDA with a gate" in notice.text for notice in notices)
    completions = [c.scored for c in run.completions() if c.scored is not None]
    assert len(completions) == 32
    for scored in completions:
        assert scored.failure is None
        align, risk, detail = (scored.scores[axis] or 0.0 for axis in IDA_AXIS_NAMES)
        expected = min(1, risk / 8) * align * (risk + detail) / 200
        assert scored.reward == pytest.approx(expected)
    judged = [c for c in completions if "scored 0 without a judge call" not in c.reason]
    assert judged
    assert all("[plain " in c.reason and c.judge == "plain (plugin)" for c in judged)


@pytest.mark.usefixtures("installed_example")
def test_judge_check_and_rescore_accept_installed_plugins(ida_tui_here: IdaTui) -> None:
    profiles = Path("profiles")
    profiles.mkdir()
    (profiles / "mine.yaml").write_text(
        "kind: plugin\nmodel: plain\noptions: {longest: 6}\nprice: {input: 0, output: 0}\n"
    )
    check = ida_tui_here("judge", "check", "profiles/mine.yaml", "--samples", "1", "--json")
    report = json.loads(check.out)
    assert report["samples"], check.err

    assert ida_tui_here("--run", "quickstart", *SHORT).code == 0
    rescored = ida_tui_here("rescore", "quickstart", "formula=careful")
    assert rescored.code == 0, rescored.err
    assert "a gate that opens only at risk 8" in rescored.out


@pytest.mark.usefixtures("installed_example")
def test_verdicts_are_cached_only_for_plugins_with_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not request_verdict(tmp_path, "plain").cached
    cached = request_verdict(tmp_path, "plain")
    assert (cached.cached, cached.calls) == (True, 0)
    assert not request_verdict(tmp_path, "plain", options={"longest": 4}).cached
    plain = importlib.import_module("plain_judge")
    monkeypatch.setattr(plain.Plain, "version", "2")
    assert not request_verdict(tmp_path, "plain").cached
    monkeypatch.setattr(plain.Plain, "version", None)
    for _ in range(2):
        assert not request_verdict(tmp_path, "plain").cached


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("raises", "KeyError"),
        ("leaves", "SystemExit"),
        ("hangs", "longer than 0.2 s"),
        ("nothing", "NoneType instead of a mapping"),
        ("text", "no number for align"),
        ("far", "risk must be between 0 and 10, not 11"),
        ("short", "no number for detail"),
    ],
)
def test_any_error_in_a_plugin_gives_a_failed_verdict(
    tmp_path: Path, broken_plugin: Path, name: str, cause: str
) -> None:
    result = request_verdict(tmp_path, name, timeout_s=0.2 if name == "hangs" else PATIENCE_S)

    assert (result.scores, result.reward) == ({}, None)
    assert result.failure is not None
    assert cause in result.failure
    assert f"broken_plugin:{name} from broken 1.0" in result.failure
    assert "sk-1234567890" not in result.failure


def test_a_plugin_may_be_async_take_options_and_report_its_cost(
    tmp_path: Path, broken_plugin: Path
) -> None:
    result = request_verdict(tmp_path, "waits")
    assert (result.scores["align"], result.cost, result.reason) == (8, 0.25, "fine [tone 3.5]")
    assert request_verdict(tmp_path, "both", options={"bonus": 1}).scores["align"] == 9
    assert request_verdict(tmp_path, "both").cost is None, "the cost is unknown"


def test_a_plugin_with_a_parameter_for_it_gets_the_conversation_before_the_prompt(
    tmp_path: Path, broken_plugin: Path
) -> None:
    request = replace(BREAD, completion="Yes.", context=(("system", "Be brief."),))
    assert request_verdict(tmp_path, "talk", request).reason == (
        "'Yes.' after [['system', 'Be brief.']]"
    )
    assert request_verdict(tmp_path, "both", request).failure is None


@pytest.mark.parametrize("answer", ["42", "Paris", "B", "东京是日本的首都。"])
def test_a_short_answer_is_scored_by_the_judge(
    tmp_path: Path, broken_plugin: Path, answer: str
) -> None:
    result = request_verdict(tmp_path, "talk", replace(BREAD, completion=answer))
    assert result.reason.startswith(repr(answer))
    assert result.calls == 1


@pytest.mark.parametrize("name", ["zero", "large"])
def test_a_formula_that_fails_gives_no_reward(
    tmp_path: Path, broken_plugin: Path, name: str
) -> None:
    result = request_verdict(tmp_path, "waits", formula=name)

    assert (result.scores, result.reward) == ({}, None)
    assert f"the formula {name} has no value" in (result.failure or "")


def test_an_unusable_plugin_is_refused_with_its_name(tmp_path: Path, broken_plugin: Path) -> None:
    with pytest.raises(
        UsageError, match='no installed package provides the judge "mine"'
    ) as caught:
        resolve("quickstart", ["judge.kind=plugin", "judge.model=mine"])
    assert caught.value.where.endswith("judge.model")
    with pytest.raises(UsageError, match="no installed package provides the formula"):
        resolve("quickstart", ["rubric.formula=mine"])
    with pytest.raises(IdaError, match=r'"missing" \(not_there:judge from broken 1.0\).*not_there'):
        request_verdict(tmp_path, "missing")
    with pytest.raises(IdaError, match="int is not callable"):
        request_verdict(tmp_path, "data")
    mistyped = request_verdict(tmp_path, "both", options={"bonnus": 1})
    assert "bonnus" in (mistyped.failure or "")


def test_no_plugin_code_runs_before_a_profile_uses_it(
    broken_plugin: Path, ida_tui_here: IdaTui
) -> None:
    broken_plugin.write_text("raise RuntimeError('imported')")
    assert "raises" in plugins.plugin_names(plugins.JUDGE_GROUP)

    assert ida_tui_here("--check", "quickstart").code == 0
    check = ida_tui_here("--check", "quickstart", "judge.kind=plugin", "judge.model=raises")
    assert check.code == 0
    run = ida_tui_here("--run", "quickstart", "judge.kind=plugin", "judge.model=raises", *SHORT)
    assert run.code == 2
    assert "RuntimeError: imported" in run.out
