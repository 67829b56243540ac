"""Settings of group mode, of panels and of checks in a row: resolution, checks, consent and preview."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.config.checks import check_config
from ida_tui.config.listing import render_profile
from ida_tui.config.profiles import user_root
from ida_tui.config.resolve import resolve, resolve_profile, to_yaml
from ida_tui.config.schema import Config, JudgeConfig, Prompt
from ida_tui.config.trust.consent import ConsentRequired, consents_of_run
from ida_tui.errors import UsageError
from ida_tui.planning.preview import count_judge_calls, render_preview

PANEL = "judge.panel=[gpt-4o-mini, ollama]"


def config_of(*overrides: str) -> Config:
    return resolve("quickstart", overrides, uses=()).config


def save_judge(name: str, text: str) -> None:
    file = user_root() / "judges" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def save_experiment(text: str, name: str = "mine.yaml") -> str:
    Path(name).write_text(f"extends: quickstart\n{text}")
    return name


# --- panels -------------------------------------------------------------------------------------


def test_a_panel_on_the_command_line_replaces_the_judge_of_the_profile() -> None:
    judge = config_of(PANEL, "judge.panel_score=median").judge
    assert (judge.kind, judge.name, judge.panel_score) == ("panel", "panel", "median")
    assert [member.model for member in judge.members] == ["gpt-4o-mini", "gemma3:12b"]
    assert judge.members[1].concurrency == 2


def test_a_panel_in_a_profile_mixes_names_profiles_with_changes_and_values() -> None:
    save_judge(
        "mixed",
        "panel:\n"
        "- gpt-4o-mini\n"
        "- {extends: ollama, model: 'qwen3:8b'}\n"
        "- {kind: openai, model: m, base_url: 'http://127.0.0.1:1/v1', api_key_env: null}\n"
        "mode: group\n",
    )
    judge = resolve_profile("judges", "mixed").config
    assert isinstance(judge, JudgeConfig)
    assert [member.model for member in judge.members] == ["gpt-4o-mini", "qwen3:8b", "m"]
    assert {member.mode for member in judge.members} == {"group"}
    assert config_of("judge=mixed").judge == judge


def test_a_run_with_a_panel_can_be_started_again_from_its_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(PANEL, "judge.mode=group")
    Path("config.yaml").write_text(to_yaml(config))
    assert resolve("config.yaml", uses=()).config.judge == config.judge


def test_another_model_of_a_judge_in_a_panel_loses_the_price_of_the_old_one() -> None:
    changed = config_of(PANEL, "judge.panel.0.model=gpt-5", "judge.panel.1.samples=2").judge
    assert (changed.members[0].model, changed.members[0].price) == ("gpt-5", None)
    assert changed.members[1].price is not None


@pytest.mark.parametrize(
    "changes",
    ["model: gpt-6-luna", "base_url: https://gateway.example/v1"],
)
def test_a_judge_in_a_file_that_changes_the_model_has_not_the_price_of_the_old_one(
    changes: str,
) -> None:
    Path("mine.yaml").write_text(f"extends: gpt-4o-mini\n{changes}\n")
    Path("panel.yaml").write_text(
        f"kind: panel\npanel:\n- {{extends: gpt-4o-mini, {changes}}}\n- gpt-4o-mini\n"
    )
    Path("inline.yaml").write_text(
        f"extends: quickstart\njudge: {{extends: gpt-4o-mini, {changes}}}\n"
    )
    mine = resolve("quickstart", ["judge=mine.yaml"]).config.judge
    first, second = resolve("quickstart", ["judge=panel.yaml"]).config.judge.members
    inline = resolve("inline.yaml").config.judge

    assert (mine.price, first.price, inline.price) == (None, None, None)
    assert (mine.shutdown_date, second.shutdown_date) == (None, "2027-01-14")
    assert second.price is not None


@pytest.mark.parametrize(
    ("overrides", "is_free"),
    [
        (["judge=ollama", "judge.model=qwen3:8b"], True),
        (["judge=llama-cpp", "judge.base_url=http://127.0.0.1:8081/v1"], True),
        (["judge=vllm", "judge.base_url=https://judge.example/v1"], False),
        (["judge=gpt-4o-mini", "judge.base_url=http://127.0.0.1:8081/v1"], False),
        (["judge.panel=[ollama, vllm]", "judge.panel.0.model=qwen3:8b"], True),
        (["judge.panel=[ollama, vllm]", "judge.panel.0.base_url=https://judge.example/v1"], False),
    ],
)
def test_another_model_of_a_free_judge_on_this_machine_is_free(
    overrides: list[str], is_free: bool
) -> None:
    judge = config_of(*overrides).judge
    price = (judge.members[0] if judge.kind == "panel" else judge).price
    assert (price is not None) == is_free


@pytest.mark.parametrize(
    ("overrides", "title", "where"),
    [
        (["judge.panel=[gpt-4o-mini]"], "the panel has one judge", "judge.panel"),
        (["judge.kind=panel"], "the panel has no judges", "judge.panel"),
        (["judge.panel=[gpt-4o-min, ollama]"], "no judge profile named", "judge.panel.0"),
        ([PANEL, "judge.panel.1.modle=x"], "unknown key", "judge.panel.1.modle"),
        ([PANEL, "judge.panel.1.base_url=x"], "is not a URL", "judge.panel.1.base_url"),
        ([PANEL, "judge.panel.1.model=''"], "the judge has no model", "judge.panel.1.model"),
        ([PANEL, "judge.kind=offline"], "judge.kind is offline", "judge.panel"),
        ([PANEL, "judge.panel_score=max"], "is not", "judge.panel_score"),
        (
            ["judge.panel=[offline, gpt-4o-mini]", "judge.mode=group"],
            "of kind offline",
            "judge.mode",
        ),
        (["judge.mode=group"], "of kind offline scores one completion at a time", "judge.mode"),
        ([PANEL, "judge.panel.1.price=null", "budget=1"], "a budget needs a price", "budget"),
        ([f"judge.panel=[{', '.join(['ollama'] * 9)}]"], "", "judge.panel"),
    ],
)
def test_a_wrong_panel_is_one_error_that_names_the_key(
    overrides: list[str], title: str, where: str
) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(*overrides)
    assert title in caught.value.title
    assert caught.value.where.endswith(f": {where}")
    assert caught.value.hint


def test_a_panel_cannot_contain_a_panel() -> None:
    save_judge("pair", "panel: [gpt-4o-mini, ollama]\n")
    save_judge("nested", "panel: [ollama, pair]\n")
    for override in ("judge.panel=[pair, ollama]", "judge=nested"):
        with pytest.raises(UsageError, match="which is a panel itself"):
            config_of(override)


def test_settings_that_only_single_judges_have_are_named() -> None:
    config = config_of(PANEL)
    judge = config.judge.model_copy(update={"samples": 3})
    findings = check_config(config.model_copy(update={"judge": judge}))
    assert [f.text for f in findings if f.about == "judge.samples"] == [
        "judge.samples has no effect: each judge of the panel has its own"
    ]


def test_a_strangers_panel_gets_no_key_without_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "a-secret-value-1")
    member = (
        "{kind: openai, model: m, base_url: 'https://judge.example/v1', api_key_env: GITHUB_TOKEN}"
    )
    theirs = save_experiment(f"judge: {{kind: panel, panel: [ollama, {member}]}}\n")
    with pytest.raises(ConsentRequired) as caught:
        resolve(theirs)
    assert [item.subject for item in caught.value.missing] == [
        ("https://judge.example:443", "GITHUB_TOKEN")
    ]
    words = caught.value.hint.splitlines()[0].partition("command: ")[2].split()
    config = resolve(theirs, words).config
    assert {c.subject for c in consents_of_run(config, None) if c.use == "judge"} == {
        ("https://judge.example:443", "GITHUB_TOKEN")
    }
    save_judge("own", f"panel: [ollama, {member}]\n")
    assert resolve("quickstart", ["judge=own"]).config.judge.kind == "panel"


def test_a_value_that_may_be_a_key_is_not_shown_in_a_panel() -> None:
    save_judge("leaky", "panel: [ollama, {extends: ollama, api_key_env: sk-abc-123}]\n")
    text = render_profile("leaky")
    assert "sk-abc-123" not in text
    assert "hidden" in text


# --- calls and checks ---------------------------------------------------------------------------


def test_group_mode_makes_one_call_for_each_group() -> None:
    absolute, group = (
        count_judge_calls(config_of("judge=gpt-4o-mini", f"judge.mode={mode}"))
        for mode in ("absolute", "group")
    )
    assert absolute[0] == 8 * group[0]
    assert absolute[1] == group[1]
    assert count_judge_calls(config_of(PANEL, "judge.mode=group"))[0] == 2 * group[0]


def test_the_preview_shows_the_mode_the_calls_and_the_cost() -> None:
    text = render_preview(resolve("quickstart", [PANEL, "judge.mode=group"], uses=()))
    assert "panel   (mean of 2)" in text
    assert "group: one call ranks and scores 8 completions; 16 calls per step" in text
    assert "320 output tokens per call on 8 completions" in text
    absolute = render_preview(resolve("quickstart", ["judge=ollama"], uses=()))
    assert "absolute: one call scores one completion; 64 calls per step" in absolute
    assert "judge mode" not in render_preview(resolve("quickstart", uses=()))


def test_a_rubric_column_must_hold_texts() -> None:
    config = config_of("judge=ollama")
    prompt = Prompt(
        id="p", kind="harmless", text="Why?", columns={"rubric": ["names a cause"], "answer": "42"}
    )

    def with_prompt(prompt: Prompt) -> Config:
        prompts = config.prompts.model_copy(update={"prompts": [prompt]})
        return config.model_copy(update={"prompts": prompts})

    assert not [f for f in check_config(with_prompt(prompt)) if "rubric" in f.text]
    wrong = prompt.model_copy(update={"columns": {"rubric": [3]}})
    texts = [f.text for f in check_config(with_prompt(wrong)) if f.severity == "error"]
    assert any("neither a text nor a list of texts" in text for text in texts)
