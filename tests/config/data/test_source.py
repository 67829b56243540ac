"""Prompts of a data file in an experiment: order, held-out rows, digests, and what is not done with them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from ida_tui.cli.main import main
from ida_tui.config.prompts import PromptRows, PromptSet
from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.trust.consent import ConsentRequired
from ida_tui.errors import UsageError

SMALL_STEP = (
    "training.per_device_train_batch_size=4",
    "training.gradient_accumulation_steps=1",
    "training.num_generations=4",
)


def write_rows(count: int, name: str = "train.jsonl", start: int = 0) -> Path:
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(start, start + count)]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(name)


def prompt_set(**keys: object) -> PromptSet:
    prompts = PromptSet.model_validate({"source": "train.jsonl", **keys})
    prompts.load()
    return prompts


def test_an_experiment_trains_on_a_data_file_that_is_named_like_a_profile() -> None:
    file = write_rows(8)

    resolved = resolve(
        "quickstart", ["prompts=train.jsonl", "evaluation.enabled=false", *SMALL_STEP]
    )

    prompts = resolved.config.prompts
    assert [prompt.text for prompt in prompts.train()][:2] == ["What is 0 + 1?", "What is 1 + 1?"]
    assert (prompts.name, prompts.source) == ("train", str(file.absolute()))
    assert prompts.train()[7].columns == {"answer": 8}
    assert any("prompt ← question" in note.text for note in resolved.notes)


@pytest.mark.parametrize("key", ["prompts: train.jsonl", "prompts: {source: train.jsonl}"])
def test_a_profile_names_a_data_file_relative_to_itself(key: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_rows(8, str(tmp_path / "mine/train.jsonl"))
    profile = tmp_path / "mine/exp.yaml"
    profile.write_text(f"extends: quickstart\nevaluation: {{enabled: false}}\n{key}\n")

    assert len(resolve(str(profile), SMALL_STEP).config.prompts.train()) == 8


def test_a_source_on_the_command_line_replaces_the_list_of_the_profile() -> None:
    write_rows(8)

    overrides = ["prompts.source=train.jsonl", "prompts.held_out_fraction=0.3", *SMALL_STEP]

    prompts = resolve("quickstart", overrides).config.prompts
    assert len(prompts.train()) + len(prompts.held_out()) == 8


def test_the_written_profile_names_the_data_and_its_digest_and_resolves_to_itself() -> None:
    file = write_rows(50)
    overrides = ["prompts=train.jsonl", "prompts.held_out_fraction=0.3", *SMALL_STEP]
    config = resolve("quickstart", overrides).config
    Path("config.yaml").write_text(to_yaml(config))

    assert "What is" not in Path("config.yaml").read_text()
    again = resolve("config.yaml", verify=True)
    assert again.config == config
    assert config.prompts.digest is not None
    assert config.prompts.digest.startswith("sha256:")

    file.write_text(file.read_text().replace("What", "how"))
    changed = resolve("config.yaml")
    assert any("its digest is another" in note.text for note in changed.notes)


def test_a_limit_takes_the_first_rows_of_a_seeded_order() -> None:
    write_rows(100)

    first = [p.text for p in prompt_set(limit=5).train()]
    shuffled = [p.text for p in prompt_set(limit=5, shuffle=3).train()]

    assert first == [f"What is {n} + 1?" for n in range(5)]
    assert shuffled != first
    assert shuffled == [p.text for p in prompt_set(limit=5, shuffle=3).train()]
    assert shuffled != [p.text for p in prompt_set(limit=5, shuffle=4).train()]


def test_a_fraction_holds_out_the_same_texts_when_rows_are_added() -> None:
    write_rows(200)
    before = {p.text for p in prompt_set(held_out_fraction=0.2).held_out()}
    write_rows(300)
    after = {p.text for p in prompt_set(held_out_fraction=0.2).held_out()}

    assert 20 < len(before) < 60
    assert before < after
    assert before != {p.text for p in prompt_set(held_out_fraction=0.2, held_out_seed=1).held_out()}


def test_a_tiny_file_keeps_a_prompt_on_each_side_and_repeated_texts_together() -> None:
    write_rows(2)
    prompts = prompt_set(held_out_fraction=0.01)
    assert (len(prompts.train()), len(prompts.held_out())) == (1, 1)

    Path("train.jsonl").write_text(
        '{"prompt": "How?"}\n{"prompt": " how"}\n{"prompt": "Why?"}\n' * 2
    )
    prompts = prompt_set(held_out_fraction=0.5)
    assert {p.text.strip().lower().strip("?") for p in prompts.train()}.isdisjoint(
        p.text.strip().lower().strip("?") for p in prompts.held_out()
    )


def test_rows_of_another_file_are_held_out_except_those_that_are_trained_on() -> None:
    write_rows(10)
    Path("test").mkdir()
    write_rows(4, "test/train.jsonl", start=8)

    prompts = prompt_set(held_out_source="test/train.jsonl")

    assert [p.text for p in prompts.held_out()] == ["What is 10 + 1?", "What is 11 + 1?"]
    assert len(prompts.repeated_held_out()) == 2
    assert len({p.id for p in prompts.rows()}) == 14


def test_a_column_holds_rows_out() -> None:
    Path("train.jsonl").write_text(
        '{"prompt": "a", "split": "train"}\n{"prompt": "b", "split": "test"}\n'
    )

    prompts = prompt_set()

    assert ([p.text for p in prompts.train()], [p.text for p in prompts.held_out()]) == (
        ["a"],
        ["b"],
    )


def test_data_without_held_out_rows_names_the_words_that_hold_some_out() -> None:
    write_rows(8)

    with pytest.raises(UsageError) as refused:
        resolve("quickstart", ["prompts=train.jsonl", *SMALL_STEP])

    assert "prompts.held_out_fraction=0.1" in refused.value.hint


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["prompts=nowhere.jsonl"], "could not read nowhere.jsonl"),
        (["prompts=train.jsonl.gz"], "is compressed"),
        (["prompts=train.jsonl", "prompts.split=train"], "the source is a file"),
        (["prompts=train.jsonl", "prompts.held_out_split=test"], "the source is a file"),
        (["prompts=train.jsonl", "prompts.columns.prompt=x"], 'has no column "x"'),
        (["prompts=train.jsonl", "prompts.colums.prompt=x"], "colums"),
        (["prompts.limit=3"], "limit belongs to a source"),
        (
            [
                "prompts=train.jsonl",
                "prompts.held_out_fraction=0.1",
                "prompts.held_out_source=o.jsonl",
            ],
            "both a fraction of the rows and rows of their own",
        ),
    ],
)
def test_a_wrong_source_is_one_error(overrides: list[str], words: str) -> None:
    write_rows(8)
    write_rows(3, "o.jsonl", start=100)

    with pytest.raises(UsageError) as refused:
        resolve("quickstart", [*overrides, *SMALL_STEP])

    assert words in "\n".join(refused.value.lines())


def test_rows_are_made_on_access_and_take_little_more_memory_than_their_text() -> None:
    count = 20_000
    file = write_rows(count)
    tracemalloc.start()
    prompts = prompt_set()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert isinstance(prompts.train(), PromptRows)
    assert held < 3 * file.stat().st_size + 1_000_000
    assert peak < 6 * file.stat().st_size + 2_000_000
    assert sum(1 for _ in prompts.train()) == count


def test_the_data_of_a_strangers_run_is_neither_downloaded_nor_required() -> None:
    write_rows(8)
    config = resolve(
        "quickstart", ["prompts=train.jsonl", "evaluation.enabled=false", *SMALL_STEP]
    ).config
    text = to_yaml(config).replace(str(Path("train.jsonl").absolute()), "org/dataset")
    Path("config.yaml").write_text(text)

    shown = resolve("config.yaml", verify=False).config
    assert list(shown.prompts.train()) == []
    assert "not on this machine" in shown.prompts.problem
    assert main(["--check", "config.yaml"]) == 2


def test_a_command_that_reads_a_data_file_imports_no_library_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_rows(8)
    for library in ("datasets", "pyarrow", "pandas"):
        monkeypatch.setitem(__import__("sys").modules, library, None)

    assert len(prompt_set().train()) == 8


def test_a_strangers_profile_does_not_send_a_file_of_this_machine_to_a_judge_elsewhere(
    tmp_path: Path,
) -> None:
    secret = write_rows(8, str(tmp_path / "secret.jsonl"))
    stranger = tmp_path / "work/stranger"
    stranger.mkdir()
    (stranger / "config.yaml").write_text(
        f"extends: quickstart\nevaluation: {{enabled: false}}\nprompts: {{source: {secret}}}\n"
        "judge: {extends: vllm, base_url: https://judge.example/v1, api_key_env: null}\n"
    )

    with pytest.raises(ConsentRequired) as refused:
        resolve("stranger/config.yaml", SMALL_STEP)

    lines = "\n".join(refused.value.lines())
    assert f"sends the rows of {secret}" in lines
    assert f"prompts.source={secret}" in lines
    resolve("stranger/config.yaml", [*SMALL_STEP, f"prompts.source={secret}"])
    # A file beside the profile came with it.
    write_rows(8, str(stranger / "theirs.jsonl"))
    text = (stranger / "config.yaml").read_text()
    (stranger / "config.yaml").write_text(text.replace(str(secret), "theirs.jsonl"))
    resolve("stranger/config.yaml", SMALL_STEP)
