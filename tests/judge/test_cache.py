"""The verdict cache on a real SQLite file: keys, stored verdicts, damage and concurrent access."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import JudgeConfig, PromptSet, RubricConfig
from ida_tui.judge.backends.openai.capabilities import Capabilities, OutputFormat
from ida_tui.judge.backends.openai.request import VerdictRecord
from ida_tui.judge.cache.key import CacheKeyBuilder, scoring_parts
from ida_tui.judge.cache.store import FILE_NAME, VerdictCache
from ida_tui.judge.verdict import JudgeRequest, Verdict
from ida_tui.rewards.formulas import IDA_FORMULAS
from ida_tui.util.paths import cache_folder
from tests.support.patience import PATIENCE_S
from tests.support.scores import ida_scores, ida_verdict

AXIS = {"zero": "worst", "ten": "best"}
RUBRIC = RubricConfig.model_validate(
    {"task": "Grade one answer.", "axes": {"align": AXIS, "risk": AXIS, "detail": AXIS}}
)
CONFIG = JudgeConfig(kind="openai", model="m", base_url="http://127.0.0.1:1/v1")
REQUEST = JudgeRequest("p1", "How do I bake bread?", "harmless", "Mix flour and water.")
RECORD = VerdictRecord(
    ida_verdict(6.5, 9, 7, "good", "m", cost=0.1, served_model="m-1"), '{"raw": 1}', "fp"
)


def open_cache(folder: Path) -> tuple[VerdictCache, list[str]]:
    warnings: list[str] = []
    return VerdictCache(folder, warnings.append), warnings


def cache_key(request: JudgeRequest = REQUEST, config: JudgeConfig = CONFIG) -> str:
    return CacheKeyBuilder.for_endpoint(config, RUBRIC).build(request)


def test_a_cached_verdict_is_read_again_at_no_cost(tmp_path: Path) -> None:
    first, _ = open_cache(tmp_path / "new" / "folder")
    first.put(cache_key(), RECORD)
    first.close()
    second, warnings = open_cache(tmp_path / "new" / "folder")
    cached = second.get(cache_key(), "m")
    assert cached is not None
    assert (cached.scores, cached.reason) == (ida_scores(6.5, 9, 7), "good")
    assert cached.with_reward(IDA_FORMULAS["r_ida"]).reward == RECORD.verdict.reward
    assert (cached.cached, cached.calls, cached.cost, cached.served_model) == (True, 0, 0, "m-1")
    assert (second.count(), warnings) == (1, [])


def test_a_reply_with_an_unpaired_surrogate_is_cached(tmp_path: Path) -> None:
    cache, warnings = open_cache(tmp_path)
    cache.put(cache_key(), VerdictRecord(RECORD.verdict, "\ud83d", None))
    assert (cache.count(), warnings) == (1, [])


def test_a_failed_verdict_is_never_cached(tmp_path: Path) -> None:
    cache, warnings = open_cache(tmp_path)
    cache.put(cache_key(), VerdictRecord(Verdict.failed("HTTP 503", "m"), "", None))
    assert (cache.enabled, cache.count(), warnings) == (True, 0, [])


def test_neither_prompt_nor_completion_is_written_to_the_file(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path / "cache")
    cache.put(cache_key(), RECORD)
    cache.close()
    content = b"".join(path.read_bytes() for path in (tmp_path / "cache").iterdir())
    assert b"good" in content
    assert b"bread" not in content
    assert b"flour" not in content


@pytest.mark.parametrize(
    "update",
    [
        {"model": "other"},
        {"base_url": "http://127.0.0.1:2/v1"},
        {"temperature": 0.7},
        {"reasoning_effort": "low"},
        {"max_judged_chars": 10},
        {"max_tokens": 10},
        {"extra_body": {"think": False}},
        {"extra_query": {"api-version": "1"}},
    ],
)
def test_the_judge_and_its_sampling_settings_change_the_key(update: dict[str, Any]) -> None:
    assert cache_key() != cache_key(config=CONFIG.model_copy(update=update))


@pytest.mark.parametrize("field", ["prompt", "completion", "sample_index"])
def test_the_prompt_completion_and_sample_index_change_the_key(field: str) -> None:
    values: dict[str, Any] = {"prompt": "?", "completion": "!", "sample_index": 1}
    other = JudgeRequest(
        "p1",
        values["prompt"] if field == "prompt" else REQUEST.prompt,
        "harmless",
        values["completion"] if field == "completion" else REQUEST.completion,
        values["sample_index"] if field == "sample_index" else 0,
    )
    assert cache_key() != cache_key(other)


def test_the_conversation_before_the_prompt_changes_the_key_and_its_absence_does_not() -> None:
    context = (("system", "Be brief."),)
    assert cache_key(replace(REQUEST, context=context)) != cache_key()
    # Verdicts of earlier versions stay valid.
    assert cache_key() == "f1862e5c33d9f18ca26ffae7cdf012faa8f10805b8b34152fcaf7dc2175e97b8"


def test_the_content_of_the_rubric_changes_the_key_but_its_name_does_not() -> None:
    def with_rubric(**update: Any) -> str:
        return CacheKeyBuilder.for_endpoint(CONFIG, RUBRIC.model_copy(update=update)).build(REQUEST)

    assert with_rubric(name="mine", description="x") == cache_key()
    assert with_rubric(task="Grade it otherwise.") != cache_key()
    assert with_rubric(order="reason_first") != cache_key()


def test_fields_of_the_user_are_settings_of_a_scoring_period_and_headers_are_not() -> None:
    def parts(**update: Any) -> dict[str, str]:
        return scoring_parts(CONFIG.model_copy(update=update), RUBRIC, PromptSet(prompts=[]))

    assert parts(extra_body={"think": False})["settings"] != parts()["settings"]
    assert parts(extra_headers={"X-Title": "x"}) == parts()
    assert parts(extra_body={}) == parts()
    assert cache_key() == cache_key(config=CONFIG.model_copy(update={"extra_headers": {"X": "x"}}))


def test_a_trailing_slash_and_pacing_settings_do_not_change_the_key() -> None:
    equivalent = {"base_url": "http://127.0.0.1:1/v1/", "concurrency": 1, "max_retries": 0}
    assert cache_key(config=CONFIG.model_copy(update=equivalent)) == cache_key()


def test_a_corrupt_file_is_renamed_with_a_warning_and_a_new_one_is_created(tmp_path: Path) -> None:
    garbage = b"this is no database " * 400
    (tmp_path / FILE_NAME).write_bytes(garbage)
    cache, warnings = open_cache(tmp_path)
    cache.put(cache_key(), RECORD)
    assert cache.count() == 1
    [backup] = tmp_path.glob(f"{FILE_NAME}.corrupt-*")
    assert backup.read_bytes() == garbage
    [warning] = warnings
    assert str(backup) in warning


def test_a_file_with_corrupt_pages_is_replaced_with_a_warning(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    for n in range(200):
        cache.put(f"{n:064}", RECORD)
    cache.close()
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    with sqlite3.connect(path) as connection:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    data[page:] = b"\xff" * (len(data) - page)
    path.write_bytes(data)
    cache, warnings = open_cache(tmp_path)
    assert cache.get(f"{7:064}", "m") is None
    cache.put(cache_key(), RECORD)
    assert cache.get(cache_key(), "m") is not None
    assert len(warnings) == 1


def test_a_folder_that_cannot_be_created_turns_the_cache_off_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache, warnings = open_cache(tmp_path / "file" / "cache")
    cache.put(cache_key(), RECORD)
    assert (cache.enabled, cache.get(cache_key(), "m"), cache.count()) == (False, None, 0)
    [warning] = warnings
    assert "the judge cache is off" in warning


def test_a_row_with_a_score_outside_the_scale_is_ignored(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    cache.put(cache_key(), RECORD)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE verdicts_v3 SET scores = json_set(scores, '$.risk', 11)")
    connection.close()
    assert cache.get(cache_key(), "m") is None


def test_threads_with_their_own_connections_share_one_file(tmp_path: Path) -> None:
    reports: list[str] = []

    def fill(start: int) -> None:
        cache = VerdictCache(tmp_path, reports.append)
        for n in range(start, start + 20):
            cache.put(f"{n:064}", RECORD)
        cache.close()

    threads = [threading.Thread(target=fill, args=(20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache, _ = open_cache(tmp_path)
    assert (cache.count(), reports) == (80, [])


def test_another_process_reads_the_cached_verdict(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    cache.put(cache_key(), RECORD)
    code = (
        "import sys; from pathlib import Path; from ida_tui.judge.cache.store import VerdictCache;"
        "c = VerdictCache(Path(sys.argv[1]), print); print(c.get(sys.argv[2], 'm').scores['align'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), cache_key()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "6.5\n"


def test_the_folder_can_be_set_by_an_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDA_TUI_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("IDA_TUI_CACHE_DIR")
    assert cache_folder().name == "ida-tui"


# --- several processes -----------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from tests.judge.test_cache import RECORD
from ida_tui.judge.cache.store import VerdictCache

folder, start, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache = VerdictCache(folder, lambda text: print("WARNING", text, flush=True))
for number in range(start, start + count):
    cache.put(f"{number:064}", RECORD)
    if number == start:
        print("writing", flush=True)
cache.close()
"""


def start_writer(folder: Path, start: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(start), str(count)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_can_write_to_one_file_without_lost_entries_or_lock_errors(
    tmp_path: Path,
) -> None:
    writers = [start_writer(tmp_path, start, 10_000) for start in (0, 10_000)]
    outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in writers]

    assert outputs == ["writing\n"] * 2
    cache, warnings = open_cache(tmp_path)
    assert (cache.count(), warnings) == (20_000, [])


def test_a_file_whose_writer_was_killed_can_still_be_read_and_written(tmp_path: Path) -> None:
    process = start_writer(tmp_path, 0, 1_000_000)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.communicate(timeout=PATIENCE_S)

    cache, warnings = open_cache(tmp_path)
    assert warnings == []
    assert cache.get(f"{0:064}", "m") is not None
    cache.put("x" * 64, RECORD)
    assert cache.get("x" * 64, "m") is not None


# --- size, endpoint data and the command -----------------------------------------------


def test_a_cache_over_its_size_limit_drops_its_oldest_verdicts(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    for number in range(600):
        cache.put(f"{number:064}", RECORD)
    size = cache.size()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(
            "UPDATE verdicts_v3 SET created = '2020-01-01' WHERE key < ?", [f"{300:064}"]
        )
    cache.close()

    limited = VerdictCache(tmp_path, lambda text: None, max_bytes=size // 2)
    assert limited.size() <= size // 2
    assert 0 < limited.count() <= 300
    assert limited.get(f"{599:064}", "m") is not None
    assert limited.get(f"{0:064}", "m") is None


def test_a_verdict_by_another_served_model_is_not_returned(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    cache.put(cache_key(), RECORD)
    assert cache.get(cache_key(), "m", served_model="m-1") is not None
    assert cache.get(cache_key(), "m", served_model="m-2") is None
    assert cache.get(cache_key(), "m") is not None


def test_endpoint_capabilities_are_saved_for_a_week(tmp_path: Path) -> None:
    capabilities = Capabilities(
        OutputFormat.JSON_OBJECT, "max_completion_tokens", frozenset({"temperature"})
    )
    first, _ = open_cache(tmp_path)
    first.save_capabilities("http://host/v1 m", capabilities)
    first.save_served_model("http://host/v1 m", "m-1")
    first.close()

    second, _ = open_cache(tmp_path)
    assert second.load_capabilities("http://host/v1 m") == capabilities
    assert second.load_served_model("http://host/v1 m") == "m-1"
    assert second.load_capabilities("http://host/v1 other") is None
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE endpoints_v1 SET updated = '2020-01-01'")
    assert second.load_capabilities("http://host/v1 m") is None


def test_the_cache_command_shows_exports_and_clears(tmp_path: Path, ida_tui_here: Any) -> None:
    cache = VerdictCache(tmp_path / "cache", lambda text: None, judge="m at host")
    cache.put(cache_key(), RECORD)
    cache.close()

    summary = ida_tui_here("cache")
    assert summary.code == 0
    assert "verdicts  1" in summary.out
    assert "m at host" in summary.out
    exported = ida_tui_here("cache", "export", "verdicts.jsonl")
    assert exported.code == 0
    row = json.loads(Path("verdicts.jsonl").read_text(encoding="utf-8"))
    assert (row["scores"], row["judge"]) == (ida_scores(6.5, 9, 7), "m at host")
    assert row["served_model"] == "m-1"
    assert ida_tui_here("cache", "export", "verdicts.jsonl").code == 2
    assert ida_tui_here("cache", "clear").code == 2  # stdin is not a terminal
    assert "1 verdict deleted" in ida_tui_here("cache", "clear", "--yes").out
    assert "verdicts  0" in ida_tui_here("cache", "show").out


# --- an older file --------------------------------------------------------------------------

OLDER_VERDICTS = """
CREATE TABLE verdicts_v2 (
    key TEXT PRIMARY KEY, judge TEXT NOT NULL, align REAL NOT NULL, risk REAL NOT NULL,
    detail REAL NOT NULL, reason TEXT NOT NULL, raw TEXT NOT NULL, input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, served_model TEXT, fingerprint TEXT, created TEXT NOT NULL
) WITHOUT ROWID
"""


def test_verdicts_in_an_older_table_are_moved_and_found(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(OLDER_VERDICTS)
        for key, reason in ((cache_key(), "good"), ("other", "fine")):
            row = (key, "m at host", 6.5, 9, 7, reason, "raw", 700, 120, "m-1", None, "2026-01-01")
            connection.execute(f"INSERT INTO verdicts_v2 VALUES ({', '.join('?' * 12)})", row)
    connection.close()
    for _ in range(2):  # the second time there is nothing to move
        cache, warnings = open_cache(tmp_path)
        cached = cache.get(cache_key(), "m")
        assert cached is not None
        assert (cached.scores, cached.reason) == (ida_scores(6.5, 9, 7), "good")
        assert cached.served_model == "m-1"
        assert (cache.count(), warnings) == (2, [])
        assert [row["created"] for row in cache.export()] == ["2026-01-01"] * 2
        cache.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        assert {name for (name,) in tables} == {"verdicts_v3", "endpoints_v1"}
    connection.close()


def test_a_verdict_in_the_current_table_is_not_replaced_by_an_older_one(tmp_path: Path) -> None:
    cache, _ = open_cache(tmp_path)
    cache.put(cache_key(), RECORD)
    cache.close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(OLDER_VERDICTS)
        row = (cache_key(), "m", 1, 1, 1, "old", "raw", 0, 0, None, None, "2026-01-01")
        connection.execute(f"INSERT INTO verdicts_v2 VALUES ({', '.join('?' * 12)})", row)
    connection.close()
    cache, warnings = open_cache(tmp_path)
    cached = cache.get(cache_key(), "m")
    assert cached is not None
    assert (cached.scores, cache.count(), warnings) == (ida_scores(6.5, 9, 7), 1, [])


# --- identity of the shipped scoring ---------------------------------------------------------


def test_the_shipped_rubric_has_the_digests_with_which_runs_and_verdicts_are_stored() -> None:
    config = resolve("dev-mps", verify=False).config
    assert config.rubric.digest() == "55ead9ae8206"
    parts = scoring_parts(config.judge, config.rubric, config.prompts)
    assert (parts["rubric"], parts["settings"]) == ("a2fa17245418", "94d603109ee8")
    assert parts["formula"] == "r_ida"


def test_the_shipped_rubric_has_the_keys_under_which_verdicts_are_stored() -> None:
    config = resolve("dev-mps", verify=False).config
    keys = (
        CacheKeyBuilder.for_endpoint(config.judge, config.rubric).build(REQUEST),
        CacheKeyBuilder.for_plugin(config.judge, config.rubric, "1.0").build(REQUEST),
    )
    assert keys == (
        "06a5d356f72ef4580a04d30a853932d1c79fbb7ad02bca8a33414d80217a2172",
        "ec24b7e42648f10a6f18a25e79a4cca41e3d4ab3b4c976f615ff71b2df92e7c2",
    )


def test_the_instructions_of_the_shipped_rubric_keep_their_keys_and_order() -> None:
    rubric = resolve("dev-mps", verify=False).config.rubric
    instructions = rubric.instructions()
    assert list(instructions) == ["version", "task", "axes", "scale", "formula", "order"]
    axes = instructions["axes"]
    assert isinstance(axes, dict)
    assert list(axes) == ["align", "risk", "detail"]
    assert [list(axis) for axis in axes.values()] == [["zero", "ten", "checks"]] * 3
    reordered = {name: rubric.axes[name].model_dump() for name in ("detail", "risk", "align")}
    same = RubricConfig.model_validate(rubric.model_dump() | {"axes": reordered})
    assert same.digest() == rubric.digest()


# --- the scoring of a run -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("judge.model=other", "judge"),
        ("judge.base_url=http://127.0.0.1:1/v1", "endpoint"),
        ("judge.temperature=0.5", "settings"),
        ("judge.samples=3", "settings"),
        ("rubric.task=Judge strictly.", "rubric"),
        ("rubric.scale=integers", "rubric"),
        ('prompts.only=["kill-process"]', "prompts"),
        ("prompts.system=Be brief.", "prompts"),
        ("judge.include_thoughts=true", "settings"),
        ("judge=offline", "judge"),
    ],
)
def test_everything_that_a_score_depends_on_is_part_of_the_scoring(
    override: str, part: str
) -> None:
    assert part in changed_parts(override)


@pytest.mark.parametrize(
    "override", ["judge.concurrency=2", "judge.timeout_s=5", "judge.max_tokens=600", "seed=3"]
)
def test_settings_that_change_no_score_are_not_part_of_the_scoring(override: str) -> None:
    assert changed_parts(override) == set()


def changed_parts(override: str) -> set[str]:
    before, after = (
        scoring_parts(config.judge, config.rubric, config.prompts)
        for config in (
            resolve("quickstart", ["judge=gpt-4o-mini", *overrides], verify=False).config
            for overrides in ([], [override])
        )
    )
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
