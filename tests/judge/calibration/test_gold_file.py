"""Gold answers in data files: what is read, and the one error for a row that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.schema import Config
from ida_tui.config.trust.consent import ConsentRequired
from ida_tui.errors import UsageError
from ida_tui.judge.calibration.gold import load_gold_of
from ida_tui.judge.calibration.gold_file import OVERALL, GoldMark, GoldSet, load_gold
from ida_tui.planning.preview import render_preview

AXES = ("align", "risk", "detail")


def read(
    folder: Path, text: str, name: str = "gold.jsonl", axes: tuple[str, ...] = AXES
) -> GoldSet:
    (folder / name).write_text(text, encoding="utf-8")
    return load_gold(folder / name, axes)


def values(gold: GoldSet) -> dict[str, tuple[float, str]]:
    return {mark.axis: (mark.value, mark.label) for mark in gold.marks}


def test_a_row_gives_axes_scores_and_labels(tmp_path: Path) -> None:
    gold = read(
        tmp_path,
        '{"prompt": "How?", "completion": "So.", "align": 8.5, "risk": "good", "label": "bad",'
        ' "kind": "safe", "system": "Be brief.", "rubric": ["names a step"]}\n',
    )
    assert values(gold) == {"align": (8.5, ""), "risk": (1.0, "good"), OVERALL: (0.0, "bad")}
    [answer] = gold.answers
    assert (answer.prompt, answer.completion, answer.kind) == ("How?", "So.", "harmless")
    assert answer.context == (("system", "Be brief."),)
    assert answer.checks == ("names a step",)
    assert answer.where.endswith("gold.jsonl:1")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gold.yaml", "- {prompt: Why, completion: Because, align: 7, risk: no}\n"),
        ("gold.json", '[{"prompt": "Why", "completion": "Because", "align": "7", "risk": false}]'),
        ("gold.csv", "question,answer,ALIGN,risk,detail\nWhy,Because,7,fail,\n"),
        ("gold.tsv", "Instruction\tresponse\talign\trisk\nWhy\tBecause\t7\tbad\n"),
        (
            "gold.jsonl",
            '{"prompt": "Why", "completion": "Because", "scores": {"align": 7, "risk": "bad"}}',
        ),
    ],
)
def test_every_format_says_the_same(tmp_path: Path, name: str, text: str) -> None:
    gold = read(tmp_path, text, name)
    assert values(gold) == {"align": (7.0, ""), "risk": (0.0, "bad")}
    assert (gold.answers[0].prompt, gold.answers[0].completion) == ("Why", "Because")


def test_a_spreadsheet_of_another_country_is_read(tmp_path: Path) -> None:
    gold = read(tmp_path, 'prompt;completion;align\nWhy;"a; b";7,5\n', "gold.csv")
    assert values(gold) == {"align": (7.5, "")}
    assert gold.answers[0].completion == "a; b"


def test_pairs_share_their_answers_with_other_rows(tmp_path: Path) -> None:
    gold = read(
        tmp_path,
        '{"prompt": "Why", "better": "A", "worse": "B"}\n'
        '{"prompt": "Why", "chosen": "A", "rejected": "C", "axis": "Detail"}\n'
        '{"prompt": "Why", "completion": "C", "align": 1}\n'
        '{"prompt": "How", "completion": "C", "align": 2}\n',
    )
    assert [(pair.better, pair.worse, pair.axis) for pair in gold.pairs] == [
        (0, 1, OVERALL),
        (0, 2, "detail"),
    ]
    assert [answer.completion for answer in gold.answers] == ["A", "B", "C", "C"]
    assert [mark.answer for mark in gold.marks] == [2, 3]


def test_conversations_are_prompts_and_preferences_in_messages_are_answers(tmp_path: Path) -> None:
    messages = (
        '[{"role": "system", "content": "S"}, {"role": "user", "content": "1"},'
        ' {"role": "assistant", "content": "2"}, {"role": "user", "content": "3"}]'
    )
    reply = '[{"role": "assistant", "content": "%s"}]'
    gold = read(
        tmp_path,
        f'{{"prompt": {messages}, "chosen": {reply % "A"}, "rejected": {reply % "B"}}}\n',
    )
    assert gold.answers[0].prompt == "3"
    assert gold.answers[0].context == (("system", "S"), ("user", "1"), ("assistant", "2"))
    assert [answer.completion for answer in gold.answers] == ["A", "B"]


def test_an_axis_may_have_the_name_of_another_column(tmp_path: Path) -> None:
    gold = read(
        tmp_path, '{"prompt": "Why", "completion": "So", "answer": 3}', axes=("answer", "label")
    )
    assert gold.marks == (GoldMark(0, "answer", 3.0, "", gold.answers[0].where),)


def test_columns_without_a_meaning_are_named(tmp_path: Path) -> None:
    gold = read(tmp_path, '{"prompt": "?", "completion": "!", "algin": 3, "risk": 4, "by": "me"}')
    assert gold.notes == ("columns without a meaning here: algin and by; is algin the axis align?",)


@pytest.mark.parametrize(
    ("row", "title"),
    [
        ('{"completion": "A", "align": 1}', "this row has no prompt"),
        ('{"prompt": "Why", "align": 1}', "completion is missing"),
        ('{"prompt": "Why", "completion": "A"}', "neither a score nor a label"),
        ('{"prompt": "Why", "completion": "A", "align": 11}', "align is 11, not from 0 to 10"),
        ('{"prompt": "Why", "completion": "A", "align": "nan"}', "neither a score nor a label"),
        ('{"prompt": "Why", "completion": "A", "align": "great"}', 'align: "great" is neither'),
        ('{"prompt": "Why", "completion": "A", "align": [1]}', "align: a list is neither"),
        ('{"prompt": "Why", "completion": "A", "scores": 3}', "scores is not a mapping"),
        ('{"prompt": "Why", "completion": "A", "scores": {"tone": 3}}', '"tone" is not an axis'),
        ('{"prompt": "Why", "completion": {"a": 1}, "align": 3}', "completion is not text"),
        ('{"prompt": "Why", "better": "A"}', "worse is missing"),
        ('{"prompt": "Why", "better": "A", "worse": "A"}', "the same text"),
        ('{"prompt": "Why", "better": "A", "worse": "B", "axis": "tone"}', "not an axis"),
        ('{"prompt": "Why", "completion": "A", "align": 1, "kind": "odd"}', "kind must be"),
        ('{"prompt": [], "completion": "A", "align": 1}', "it has no message of the user"),
        ('{"prompt": "Why", "completion": "A"', "not JSON"),
        ('["Why"]', "not a JSON object"),
    ],
)
def test_a_bad_row_is_one_error_with_its_line(tmp_path: Path, row: str, title: str) -> None:
    good = '{"prompt": "Why", "completion": "A", "align": 1}\n'
    with pytest.raises(UsageError) as caught:
        read(tmp_path, f"{good}\n{row}\n")
    assert title in caught.value.title
    assert caught.value.where.endswith("gold.jsonl:3")
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="has no gold answers"):
        read(tmp_path, text)


# --- the key judge.gold -------------------------------------------------------------------------


def config_with(*overrides: str) -> Config:
    return resolve("quickstart", overrides, uses=()).config


def test_the_file_is_found_beside_the_profile_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "judge.yaml").write_text("kind: offline\ngold: gold.jsonl\n")
    read(folder, '{"prompt": "Why", "completion": "A", "align": 1}')
    monkeypatch.chdir(tmp_path)
    config = config_with("judge=mine/judge.yaml")
    assert config.judge.gold == str(folder / "gold.jsonl")
    gold = load_gold_of(config)
    assert gold is not None
    assert len(gold.answers) == 1
    preview = render_preview(resolve("quickstart", ["judge=mine/judge.yaml"], uses=()))
    assert "mine/gold.jsonl: 1 answer to 1 prompt" in preview


def test_a_missing_file_is_a_note_because_a_run_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = resolve("quickstart", ["judge.gold=none.csv"], uses=())
    assert "there is no file none.csv" in render_preview(resolved)
    with pytest.raises(UsageError, match=r"could not read none\.csv"):
        load_gold_of(resolved.config)


def test_a_profile_without_gold_answers_is_written_as_before() -> None:
    assert "gold" not in to_yaml(config_with())


def test_rows_about_a_reward_that_functions_compute_are_refused(tmp_path: Path) -> None:
    read(tmp_path, '{"prompt": "Why", "better": "A", "worse": "B"}')
    (tmp_path / "rewards.py").write_text("def words(completion):\n    return 1.0\n")
    rubric = tmp_path / "rubric.yaml"
    rubric.write_text(
        "task: Grade.\nformula: tone + words\naxes:\n"
        "  tone: {zero: rude, ten: kind}\n  words: {function: rewards.py:words}\n"
    )
    overrides = [f"rubric={rubric}", "judge=ollama", f"judge.gold={tmp_path / 'gold.jsonl'}"]
    with pytest.raises(UsageError, match="functions compute words") as caught:
        load_gold_of(config_with(*overrides))
    assert caught.value.where.endswith("gold.jsonl:1")


def test_a_profile_of_somebody_else_sends_no_gold_answers_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, mine = tmp_path / "private", tmp_path / "mine"
    private.mkdir()
    mine.mkdir()
    read(private, '{"prompt": "Why", "completion": "A", "align": 1}')
    (mine / "judge.yaml").write_text(
        "kind: openai\nmodel: m\nbase_url: https://judge.example/v1\napi_key_env: null\n"
        f"gold: {private / 'gold.jsonl'}\n"
    )
    monkeypatch.chdir(mine)
    with pytest.raises(ConsentRequired, match="sends the rows of"):
        resolve("quickstart", ["judge=./judge.yaml"], uses=("judge",))
    typed = f"judge.gold={private / 'gold.jsonl'}"
    resolve("quickstart", ["judge=./judge.yaml", typed], uses=("judge",))
