"""Printed profile lists, values with their origins, and the preview of a run."""

from pathlib import Path

import pytest

from ida_tui.config import devices, profiles
from ida_tui.config.listing import list_entries, render_list, render_profile
from ida_tui.config.resolve import ResolvedExperiment, resolve
from ida_tui.errors import UsageError
from ida_tui.planning import preview
from ida_tui.planning.preview import count_judge_calls, key_source, render_preview


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of user profiles; the working directory is empty and no key is set."""
    root = tmp_path / "mine"
    work = tmp_path / "here"
    work.mkdir()
    for kind in profiles.PROFILE_KINDS:
        (root / kind).mkdir(parents=True)
    monkeypatch.setenv("IDA_TUI_PROFILES", str(root))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(work)
    return root


@pytest.fixture
def linux(user: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with neither Apple silicon nor an NVIDIA driver."""
    monkeypatch.setattr(devices, "guess_device", lambda: "cpu")
    monkeypatch.setattr(preview, "guess_device", lambda: "cpu")
    return user


def line(resolved: ResolvedExperiment, label: str) -> str:
    return next(ln for ln in render_preview(resolved).splitlines() if ln.startswith(label))


# --- lists ---


def test_every_shipped_profile_is_listed_with_its_description(user):
    text = render_list()
    for kind in profiles.PROFILE_KINDS:
        assert f"\n{kind}\n" in f"\n{text}"
        for entry in list_entries(kind):
            assert entry.name in text
            assert entry.description in text
            assert not entry.is_user_profile
            assert not entry.error


def test_no_line_of_the_list_is_wider_than_a_wide_terminal(user):
    lines = render_list().splitlines()
    assert max(len(ln) for ln in lines if "Your profiles" not in ln) <= 110


def test_a_single_kind_can_be_listed_by_its_singular_or_plural(user):
    assert render_list("model") == render_list("models")
    assert "gpt-4o-mini" not in render_list("models")
    with pytest.raises(UsageError, match="unknown profile kind"):
        render_list("horses")


def test_a_users_profile_is_marked_and_the_folder_is_named(user):
    (user / "models" / "embedded.yaml").write_text("extends: embedded", encoding="utf-8")
    (user / "models" / "new.yaml").write_text("path: a/b\ndescription: Mine", encoding="utf-8")
    text = render_list("models")
    assert "[yours, overrides the shipped one]" in text
    assert "Mine  [yours]" in text
    assert str(user) in text


def test_an_experiment_does_not_inherit_a_description_and_is_summed_up_without_one(user):
    (user / "experiments" / "mine.yaml").write_text(
        "extends: quickstart\njudge: gpt-4o-mini\n", encoding="utf-8"
    )
    text = render_list("experiments")
    assert "Model embedded, judge gpt-4o-mini, prompts over-refusal." in text
    assert resolve("mine", verify=False).config.description == ""


def test_a_broken_user_profile_is_listed_with_its_error_next_to_all_others(user):
    (user / "models" / "broken.yaml").write_text("a: [", encoding="utf-8")
    (user / "judges" / "odd.yaml").write_text("kind: offline\nmoodle: x", encoding="utf-8")
    (user / "experiments" / "lost.yaml").write_text("model: nowhere", encoding="utf-8")
    text = render_list()
    assert "cannot be used" in text
    assert "broken.yaml:1: this is not valid YAML" in text
    assert 'odd.yaml:2: moodle: unknown key "moodle"' in text
    assert "lost.yaml:1: model: there is no model profile" in text
    assert "quickstart" in text


# --- values and origins ---


def test_each_value_is_shown_next_to_its_origin(user):
    rows = render_profile("dev-mps", ["lora.r=8"]).splitlines()
    by_key = {row.split(" = ")[0].strip(): row for row in rows if " = " in row}
    assert by_key["lora.r"].endswith("# command line")
    assert by_key["training.save_steps"].endswith("# default")
    assert "dev-mps.yaml:" in by_key["training.max_grad_norm"]
    assert "= 1e-5 " in by_key["training.learning_rate"]
    assert len({row.index(" = ") for row in rows if row}) == 1
    assert len({row.index("  # ") for row in rows if row}) == 1


def test_prompts_are_shown_as_a_count_and_a_few_examples(user):
    rows = [r for r in render_profile("dev-mps").splitlines() if r.startswith("prompts.prompts")]
    assert len(rows) == 5
    assert "for training" in rows[0]


def test_profiles_of_every_kind_can_be_shown(user):
    assert "models/embedded.yaml" in render_profile("embedded")
    assert "openai" in render_profile("gpt-4o-mini")
    assert "axes.risk.ten" in render_profile("rubrics/ida")
    assert "held out" in render_profile("over-refusal")
    with pytest.raises(UsageError, match="no profile named"):
        render_profile("dev-mp")
    with pytest.raises(UsageError, match="overrides apply only to an experiment"):
        render_profile("embedded", ["lora.r=8"])


def test_neither_a_key_nor_credentials_in_an_address_are_shown(user):
    text = "kind: openai\nmodel: m\napi_key_env: sk-abc\nbase_url: http://me:secret@host/v1\n"
    (user / "judges" / "careless.yaml").write_text(text, encoding="utf-8")
    shown = render_profile("careless")
    assert "sk-abc" not in shown
    assert "secret" not in shown
    assert "http://host/v1" in shown


# --- the preview ---


def test_the_preview_counts_steps_completions_and_judge_calls(linux):
    resolved = resolve("oblit-1-mps", [])
    assert "10 (max_steps), each 1 × 8 = 8 completions" in line(resolved, "steps")
    assert count_judge_calls(resolved.config) == (80, 0)
    assert "80 (80 for completions, 0 for drift checks)" in render_preview(resolved)
    assert "about $0.0" in render_preview(resolved)


def test_the_preview_for_mps_says_that_this_machine_has_none(linux):
    resolved = resolve("dev-mps", [])
    assert "this machine has no MPS; the plan below is for mps" in line(resolved, "device")
    precision = line(resolved, "precision")
    assert "float16 base, float32 adapter, fp16 autocast with a gradient scaler" in precision
    assert precision.endswith("adamw_torch")


def test_the_cpu_uses_float32_for_everything(linux):
    resolved = resolve("quickstart", ["device=cpu"])
    assert line(resolved, "precision").split(maxsplit=1)[1].startswith("float32 base")


def test_the_automatic_device_is_shown_as_the_likely_one_of_this_machine(linux):
    assert "auto: probably cpu" in line(resolve("quickstart", ["device=auto"]), "device")


def test_the_offline_judge_makes_no_calls(linux):
    text = render_preview(resolve("quickstart", []))
    assert "offline heuristic: no calls" in text
    assert "$" not in text


def test_an_unknown_price_gives_no_cost(linux):
    text = render_preview(resolve("dev-mps", ["judge.model=other"]))
    assert "cost unknown" in text
    assert "$" not in text


def test_the_key_is_reported_as_set_or_not_set_and_never_printed(linux, monkeypatch):
    resolved = resolve("dev-mps", [])
    assert "is not set: export OPENAI_API_KEY=" in line(resolved, "key")
    Path(".env").write_text("OPENAI_API_KEY=sk-secret\n", encoding="utf-8")
    assert key_source(resolved.config.judge) == ".env"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "is set (environment)" in line(resolved, "key")
    assert "sk-secret" not in render_preview(resolved)
    Path(".env").write_bytes(b"\xff\xfe\x00")
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "not set" in line(resolved, "key")


def test_a_judge_on_this_machine_needs_no_key(linux):
    local = resolve("dev-mps", ["judge.base_url=http://localhost:9000/v1"])
    assert "not needed" in line(local, "key")
    assert "not needed" in line(resolve("dev-mps", ["judge=ollama"]), "key")


def test_missing_weights_are_shown_with_their_download_size(linux):
    weights = line(resolve("dev-mps", []), "weights")
    assert "not on this machine" in weights
    assert "8.05 GB" in weights
    unknown = line(resolve("dev-mps", ["model=Some-Org/Some-Model"]), "weights")
    assert "size unknown" in unknown


def test_the_preview_shows_the_run_folder_and_the_memory_limit(linux):
    resolved = resolve("dev-mps", ["output_dir=elsewhere"])
    assert "elsewhere/dev-mps/" in line(resolved, "run folder")
    assert "48 GB" in line(resolved, "memory limit")


def test_the_preview_ends_with_notes_and_their_location(linux):
    text = render_preview(resolve("dev-mps", ["training.fp16=true", "training.bf16=false"]))
    assert "problem" not in text
    assert "note: fp16" not in text  # the preview is for mps, where fp16 takes effect
    on_cpu = render_preview(resolve("dev-mps", ["training.fp16=true", "device=cpu"]))
    assert "at:  command line: training.fp16" in on_cpu
