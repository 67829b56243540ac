"""The verdict cache, on a real SQLite file: what it keeps, what it never keeps, what breaks it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ida_tui.config.schema import JudgeConfig, RubricConfig
from ida_tui.judge.backends.openai.capabilities import Capabilities, OutputFormat
from ida_tui.judge.backends.openai.client import VerdictRecord
from ida_tui.judge.cache.key import CacheKeyBuilder
from ida_tui.judge.cache.store import FILE_NAME, VerdictCache, cache_folder
from ida_tui.judge.verdict import JudgeRequest, Verdict

AXIS = {"zero": "worst", "ten": "best"}
RUBRIC = RubricConfig.model_validate(
    {"task": "Grade one answer.", "axes": {"align": AXIS, "risk": AXIS, "detail": AXIS}}
)
CONFIG = JudgeConfig(kind="openai", model="m", base_url="http://127.0.0.1:1/v1")
QUESTION = JudgeRequest("p1", "How do I bake bread?", "harmless", "Mix flour and water.")
ANSWER = VerdictRecord(
    Verdict.scored(6.5, 9, 7, "good", "m", cost=0.1, served_model="m-1"), '{"raw": 1}', "fp"
)


def opened(folder: Path) -> tuple[VerdictCache, list[str]]:
    warnings: list[str] = []
    return VerdictCache(folder, warnings.append), warnings


def key(question: JudgeRequest = QUESTION, config: JudgeConfig = CONFIG) -> str:
    return CacheKeyBuilder.for_endpoint(config, RUBRIC).build(question)


def test_a_verdict_outlives_the_process_and_costs_nothing_the_second_time(tmp_path: Path) -> None:
    first, _ = opened(tmp_path / "new" / "folder")
    first.put(key(), ANSWER)
    first.close()
    second, warnings = opened(tmp_path / "new" / "folder")
    kept = second.get(key(), "m")
    assert kept is not None
    assert (kept.align, kept.risk, kept.detail, kept.reason) == (6.5, 9, 7, "good")
    assert kept.r_ida == ANSWER.verdict.r_ida
    assert (kept.cached, kept.calls, kept.cost, kept.served_model) == (True, 0, 0, "m-1")
    assert (second.count(), warnings) == (1, [])


def test_a_reply_with_half_a_character_is_kept_all_the_same(tmp_path: Path) -> None:
    cache, warnings = opened(tmp_path)
    cache.put(key(), VerdictRecord(ANSWER.verdict, "\ud83d", None))
    assert (cache.count(), warnings) == (1, [])


def test_a_failure_is_never_kept(tmp_path: Path) -> None:
    cache, warnings = opened(tmp_path)
    cache.put(key(), VerdictRecord(Verdict.failed("HTTP 503", "m"), "", None))
    assert (cache.enabled, cache.count(), warnings) == (True, 0, [])


def test_neither_prompt_nor_completion_is_written_to_the_file(tmp_path: Path) -> None:
    cache, _ = opened(tmp_path / "cache")
    cache.put(key(), ANSWER)
    cache.close()
    written = b"".join(path.read_bytes() for path in (tmp_path / "cache").iterdir())
    assert b"good" in written
    assert b"bread" not in written
    assert b"flour" not in written


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"base_url": "http://127.0.0.1:2/v1"},
        {"temperature": 0.7},
        {"reasoning_effort": "low"},
        {"max_judged_chars": 10},
        {"max_tokens": 10},
    ],
)
def test_another_judge_or_other_sampling_is_another_question(change: dict[str, Any]) -> None:
    assert key() != key(config=CONFIG.model_copy(update=change))


@pytest.mark.parametrize("field", ["prompt", "completion", "sample_index"])
def test_another_prompt_completion_or_sample_is_another_question(field: str) -> None:
    values: dict[str, Any] = {"prompt": "?", "completion": "!", "sample_index": 1}
    other = JudgeRequest(
        "p1",
        values["prompt"] if field == "prompt" else QUESTION.prompt,
        "harmless",
        values["completion"] if field == "completion" else QUESTION.completion,
        values["sample_index"] if field == "sample_index" else 0,
    )
    assert key() != key(other)


def test_the_rubrics_content_counts_and_its_name_does_not() -> None:
    def with_rubric(**change: Any) -> str:
        return CacheKeyBuilder.for_endpoint(CONFIG, RUBRIC.model_copy(update=change)).build(
            QUESTION
        )

    assert with_rubric(name="mine", description="x") == key()
    assert with_rubric(task="Grade it otherwise.") != key()
    assert with_rubric(order="reason_first") != key()


def test_a_trailing_slash_and_how_the_run_is_paced_do_not_count() -> None:
    same = {"base_url": "http://127.0.0.1:1/v1/", "concurrency": 1, "max_retries": 0}
    assert key(config=CONFIG.model_copy(update=same)) == key()


def test_a_corrupt_file_is_set_aside_with_a_warning_and_a_new_one_is_begun(tmp_path: Path) -> None:
    garbage = b"this is no database " * 400
    (tmp_path / FILE_NAME).write_bytes(garbage)
    cache, warnings = opened(tmp_path)
    cache.put(key(), ANSWER)
    assert cache.count() == 1
    [aside] = tmp_path.glob(f"{FILE_NAME}.corrupt-*")
    assert aside.read_bytes() == garbage
    [warning] = warnings
    assert str(aside) in warning


def test_a_file_that_breaks_during_the_run_is_set_aside_too(tmp_path: Path) -> None:
    cache, _ = opened(tmp_path)
    for n in range(200):
        cache.put(f"{n:064}", ANSWER)
    cache.close()
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    with sqlite3.connect(path) as connection:
        page = connection.execute("PRAGMA page_size").fetchone()[0]
    connection.close()
    data[page:] = b"\xff" * (len(data) - page)
    path.write_bytes(data)
    cache, warnings = opened(tmp_path)
    assert cache.get(f"{7:064}", "m") is None
    cache.put(key(), ANSWER)
    assert cache.get(key(), "m") is not None
    assert len(warnings) == 1


def test_a_folder_that_cannot_be_made_leaves_the_cache_off_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache, warnings = opened(tmp_path / "file" / "cache")
    cache.put(key(), ANSWER)
    assert (cache.enabled, cache.get(key(), "m"), cache.count()) == (False, None, 0)
    [warning] = warnings
    assert "the judge cache is off" in warning


def test_a_row_with_a_score_outside_the_scale_is_not_believed(tmp_path: Path) -> None:
    cache, _ = opened(tmp_path)
    cache.put(key(), ANSWER)
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE verdicts_v2 SET risk = 11")
    connection.close()
    assert cache.get(key(), "m") is None


def test_threads_with_a_connection_each_share_one_file(tmp_path: Path) -> None:
    reports: list[str] = []

    def fill(start: int) -> None:
        cache = VerdictCache(tmp_path, reports.append)
        for n in range(start, start + 20):
            cache.put(f"{n:064}", ANSWER)
        cache.close()

    threads = [threading.Thread(target=fill, args=(20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache, _ = opened(tmp_path)
    assert (cache.count(), reports) == (80, [])


def test_another_process_reads_what_this_one_wrote(tmp_path: Path) -> None:
    cache, _ = opened(tmp_path)
    cache.put(key(), ANSWER)
    code = (
        "import sys; from pathlib import Path; from ida_tui.judge.cache.store import VerdictCache;"
        "c = VerdictCache(Path(sys.argv[1]), print); print(c.get(sys.argv[2], 'm').align)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), key()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "6.5\n"


def test_the_folder_can_be_named_by_the_environment(
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
from tests.judge.test_cache import ANSWER
from ida_tui.judge.cache.store import VerdictCache

folder, start, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
cache = VerdictCache(folder, lambda text: print("WARNING", text, flush=True))
for number in range(start, start + count):
    cache.put(f"{number:064}", ANSWER)
    if number == start:
        print("writing", flush=True)
cache.close()
"""


def writer(folder: Path, start: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(start), str(count)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_hammering_one_file_lose_no_entry_and_meet_no_lock(tmp_path: Path) -> None:
    writers = [writer(tmp_path, start, 10_000) for start in (0, 10_000)]
    said = [process.communicate(timeout=240)[0] for process in writers]

    assert said == ["writing\n"] * 2
    cache, warnings = opened(tmp_path)
    assert (cache.count(), warnings) == (20_000, [])


def test_a_file_whose_writer_was_killed_opens_with_what_was_written(tmp_path: Path) -> None:
    process = writer(tmp_path, 0, 1_000_000)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.communicate(timeout=30)

    cache, warnings = opened(tmp_path)
    assert warnings == []
    assert cache.get(f"{0:064}", "m") is not None
    cache.put("x" * 64, ANSWER)
    assert cache.get("x" * 64, "m") is not None


# --- size, and what people ask of it -----------------------------------------------


def test_above_its_cap_the_cache_drops_its_oldest_verdicts(tmp_path: Path) -> None:
    cache, _ = opened(tmp_path)
    for number in range(600):
        cache.put(f"{number:064}", ANSWER)
    size = cache.size()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(
            "UPDATE verdicts_v2 SET created = '2020-01-01' WHERE key < ?", [f"{300:064}"]
        )
    cache.close()

    small = VerdictCache(tmp_path, lambda text: None, max_bytes=size // 2)
    assert small.size() <= size // 2
    assert 0 < small.count() <= 300
    assert small.get(f"{599:064}", "m") is not None
    assert small.get(f"{0:064}", "m") is None


def test_a_verdict_of_another_model_of_the_same_server_is_none(tmp_path: Path) -> None:
    cache, _ = opened(tmp_path)
    cache.put(key(), ANSWER)
    assert cache.get(key(), "m", served_model="m-1") is not None
    assert cache.get(key(), "m", served_model="m-2") is None
    assert cache.get(key(), "m") is not None


def test_what_an_endpoint_understands_outlives_the_process_for_a_week(tmp_path: Path) -> None:
    learnt = Capabilities(
        OutputFormat.JSON_OBJECT, "max_completion_tokens", frozenset({"temperature"})
    )
    first, _ = opened(tmp_path)
    first.save_capabilities("http://host/v1 m", learnt)
    first.save_served_model("http://host/v1 m", "m-1")
    first.close()

    second, _ = opened(tmp_path)
    assert second.load_capabilities("http://host/v1 m") == learnt
    assert second.load_served_model("http://host/v1 m") == "m-1"
    assert second.load_capabilities("http://host/v1 other") is None
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("UPDATE endpoints_v1 SET updated = '2020-01-01'")
    assert second.load_capabilities("http://host/v1 m") is None


def test_the_cache_command_shows_exports_and_clears(tmp_path: Path, ida_tui_here: Any) -> None:
    cache = VerdictCache(tmp_path / "cache", lambda text: None, judge="m at host")
    cache.put(key(), ANSWER)
    cache.close()

    shown = ida_tui_here("cache")
    assert shown.code == 0
    assert "verdicts  1" in shown.out
    assert "m at host" in shown.out
    exported = ida_tui_here("cache", "export", "verdicts.jsonl")
    assert exported.code == 0
    row = json.loads(Path("verdicts.jsonl").read_text(encoding="utf-8"))
    assert (row["align"], row["judge"], row["served_model"]) == (6.5, "m at host", "m-1")
    assert ida_tui_here("cache", "export", "verdicts.jsonl").code == 2
    assert ida_tui_here("cache", "clear").code == 2  # stdin is not a terminal
    assert "1 verdicts deleted" in ida_tui_here("cache", "clear", "--yes").out
    assert "verdicts  0" in ida_tui_here("cache", "show").out
