"""Consent: which keys, which code and which folders a profile of somebody else gets without a question."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.config.trust import consent
from ida_tui.config.trust.consent import Consent, ConsentRequired
from ida_tui.config.trust.endpoint import base_url_problem, endpoint_of
from ida_tui.errors import UsageError

HOST = "https://judge.example/v1"
KEY = "GITHUB_TOKEN"
JUDGE = f"judge: {{kind: openai, model: m, base_url: '{HOST}', api_key_env: {KEY}}}\n"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "a-secret-value-1")
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-value-2")


def profile(text: str, path: str = "theirs/config.yaml") -> str:
    """A profile by somebody else, in a folder that is not the user's."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("extends: quickstart\n" + text)
    return str(file)


def missing(experiment: str, *overrides: str) -> set[tuple[str, ...]]:
    """What the person would have to agree to."""
    try:
        resolve(experiment, overrides)
    except ConsentRequired as required:
        return {item.subject for item in required.missing}
    return set()


PAIR = ("https://judge.example:443", KEY)


@pytest.mark.parametrize(
    "judge",
    [
        f"kind: openai, model: m, base_url: '{HOST}', api_key_env: {KEY}",
        f"extends: gpt-4o-mini, base_url: '{HOST}', api_key_env: {KEY}",
    ],
)
def test_a_strangers_profile_gets_no_key_for_its_host(judge: str) -> None:
    with pytest.raises(ConsentRequired) as caught:
        resolve(profile(f"judge: {{{judge}}}\n"))

    text = "\n".join(caught.value.lines())
    assert f"sends the environment variable {KEY} to https://judge.example:443" in text
    assert f"judge.base_url={HOST} judge.api_key_env={KEY}" in text
    assert "config.yaml:2: judge.base_url" in text
    assert "a-secret-value" not in text


@pytest.mark.parametrize(
    ("judge", "pair"),
    [
        (f"{{extends: vllm, api_key_env: {KEY}}}", ("http://127.0.0.1:8000", KEY)),
        (f"{{extends: gpt-4o-mini, api_key_env: {KEY}}}", ("https://api.openai.com:443", KEY)),
        (
            "{extends: gpt-4o-mini, base_url: 'http://api.openai.com/v1'}",
            ("http://api.openai.com:80", "OPENAI_API_KEY"),
        ),
        (
            "{extends: gpt-4o-mini, base_url: 'https://api.openai.com:8443/v1'}",
            ("https://api.openai.com:8443", "OPENAI_API_KEY"),
        ),
        ("judge.yaml", PAIR),
    ],
)
def test_neither_half_of_a_known_pair_is_enough(judge: str, pair: tuple[str, ...]) -> None:
    Path("theirs").mkdir()
    Path("theirs/judge.yaml").write_text(
        f"kind: openai\nmodel: m\nbase_url: {HOST}\napi_key_env: {KEY}\n"
    )

    assert missing(profile(f"judge: {judge}\n")) == {pair}


def test_typing_only_one_half_is_not_consent() -> None:
    theirs = profile(JUDGE)

    assert missing(theirs, f"judge.base_url={HOST}") == {PAIR}
    assert missing(theirs, f"judge.api_key_env={KEY}") == {PAIR}
    assert not missing(theirs, f"judge.base_url={HOST}", f"judge.api_key_env={KEY}")


def test_typing_the_values_of_a_profile_again_keeps_its_price() -> None:
    theirs = profile(JUDGE.replace("}", ", price: {input: 1, output: 2}}"))

    typed = resolve(theirs, [f"judge.base_url={HOST}", f"judge.api_key_env={KEY}", "budget=1"])

    assert typed.config.judge.price is not None


def test_pairs_that_the_person_has_named_need_no_question(tmp_path: Path) -> None:
    assert not missing("quickstart", "judge=gpt-4o-mini")
    assert not missing(profile("judge: gpt-4o-mini\n"))
    openai = "{kind: openai, model: m, base_url: 'https://API.openai.com.:443/v1/'}"
    assert not missing(profile(f"judge: {openai}\n"))

    judges = tmp_path / "user-profiles/judges"
    judges.mkdir(parents=True)
    (judges / "mine.yaml").write_text(
        f"kind: openai\nmodel: m\nbase_url: {HOST}\napi_key_env: {KEY}\n"
    )
    assert not missing("quickstart", "judge=mine")
    assert not missing(profile(JUDGE))


@pytest.mark.parametrize(
    "judge",
    [
        "{extends: vllm, base_url: 'http://127.0.0.1:9/v1', api_key_env: UNSET_KEY}",
        "{kind: openai, model: m, base_url: 'http://localhost:9/v1'}",
        f"{{kind: openai, model: m, base_url: '{HOST}', api_key_env: null}}",
        f"{{kind: offline, base_url: '{HOST}', api_key_env: {KEY}}}",
    ],
)
def test_a_judge_that_gets_no_key_needs_no_question(judge: str) -> None:
    assert not missing(profile(f"judge: {judge}\n"))


def test_a_key_in_dotenv_is_protected_like_one_in_the_environment() -> None:
    Path(".env").write_text("DOTENV_TOKEN=a-secret-value-3\n")

    theirs = profile(JUDGE.replace(KEY, "DOTENV_TOKEN"))

    assert missing(theirs) == {("https://judge.example:443", "DOTENV_TOKEN")}


def test_reading_a_run_needs_no_consent() -> None:
    assert resolve(profile(JUDGE), verify=False).config.judge.api_key_env == KEY


def test_a_run_that_the_person_started_resumes_without_a_question() -> None:
    typed = resolve(
        "quickstart",
        [
            *("judge.kind=openai", "judge.model=m", f"judge.base_url={HOST}"),
            f"judge.api_key_env={KEY}",
        ],
    ).config
    run = Path("outputs/quickstart/1")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(typed))
    assert missing(str(run / "config.yaml")) == {PAIR}

    consent.remember_run(typed, run)

    assert not missing(str(run / "config.yaml"))
    mode = consent.consent_file().stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert "a-secret-value" not in consent.consent_file().read_text()


def test_resuming_a_run_is_no_agreement_to_its_output_folder() -> None:
    elsewhere = Path.cwd().parent / "elsewhere"
    config = resolve("quickstart", [f"output_dir={elsewhere}"]).config

    consent.remember_run(config, Path("outputs/quickstart/1"), consent.RESUME_USES)

    assert not consent.consent_file().exists()


@pytest.mark.parametrize("damage", ["link", "writable", "damaged", "fifo"])
def test_agreements_that_others_could_have_written_do_not_count(damage: str) -> None:
    consent.remember([Consent("judge", PAIR)])
    file = consent.consent_file()
    theirs = profile(JUDGE)
    assert not missing(theirs)

    if damage == "link":
        file.rename("agreed.json")
        file.symlink_to(Path("agreed.json").absolute())
    elif damage == "writable":
        file.chmod(0o666)
    elif damage == "fifo":
        file.unlink()
        os.mkfifo(file)
    else:
        file.write_text('{"agreed": [[{}], 7')

    assert missing(theirs) == {PAIR}


def test_words_to_type_are_quoted_for_the_shell() -> None:
    url = "http://host/v1;touch${IFS}PWNED"

    with pytest.raises(ConsentRequired) as caught:
        resolve(profile(JUDGE.replace(HOST, url)))

    assert f"'judge.base_url={url}'" in caught.value.hint


# --- the code of a model ---


def model_folder(path: str) -> Path:
    folder = Path(path)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}}')
    return folder.resolve()


def trusting(path: str, method: str = "lora") -> str:
    return profile(
        f"model: {{path: {path}, trust_remote_code: true}}\ntraining: {{method: {method}}}\n"
    )


def test_trust_in_a_strangers_profile_is_not_consent() -> None:
    folder = model_folder("theirs/model")

    assert missing(trusting("theirs/model")) == {(str(folder),)}
    assert missing(trusting("org/name")) == {("org/name@main",)}
    assert missing(trusting("theirs/model"), "model.trust_remote_code=false") == set()
    assert missing(trusting("theirs/model"), "model.trust_remote_code=true") == set()


def test_the_weights_of_a_strangers_full_run_are_code_too() -> None:
    theirs = trusting("embedded", "full")

    assert missing(theirs) == {(str(Path("theirs").resolve()),)}
    assert not missing(trusting("embedded", "lora"))


def test_consent_to_one_model_is_not_consent_to_another() -> None:
    one = model_folder("theirs/one")
    model_folder("theirs/two")
    consent.remember([Consent("code", (str(one),))])

    assert not missing(trusting("theirs/one"))
    assert missing(trusting("theirs/two"))


def test_trust_in_the_users_profile_does_not_cover_a_strangers_path(tmp_path: Path) -> None:
    models = tmp_path / "user-profiles/models"
    models.mkdir(parents=True)
    (models / "mine.yaml").write_text("path: org/name\ntrust_remote_code: true\n")

    assert not missing("quickstart", "model=mine")
    assert missing(profile("model: {extends: mine, path: evil/name}\n")) == {("evil/name@main",)}
    assert missing(profile("model: {extends: mine, revision: evil}\n")) == {("org/name@evil",)}


# --- where runs are written ---


def test_a_strangers_output_folder_outside_needs_consent(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"

    assert missing(profile(f"output_dir: {outside}\n")) == {(str(outside),)}
    assert missing(profile("output_dir: ../elsewhere\n")) == {(str(outside),)}
    assert not missing(profile("output_dir: inside\n"))
    assert not missing(profile("output_dir: ../elsewhere\n"), "output_dir=../elsewhere")


# --- addresses ---


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://Example.COM/v1", "https://example.com.:443/other"),
        ("http://[0:0:0:0:0:0:0:1]:80", "http://[::1]/v1"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
    ],
)
def test_ways_to_write_one_address_are_equal(one: str, other: str) -> None:
    assert endpoint_of(one) == endpoint_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://example.com", "http://example.com"),
        ("https://example.com", "https://example.com:444"),
        ("https://example.com", "https://example.com.evil"),
        ("https://fass.example", "https://faß.example"),
        ("http://127.0.0.1", "http://127.1"),
    ],
)
def test_addresses_of_other_servers_differ(one: str, other: str) -> None:
    assert endpoint_of(one) != endpoint_of(other)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:hunter2@host/v1", "http://hunter2@host", "https://good.example\\@evil/v1",
        "http://good.example#@evil/", "http://host/v1?key=hunter2", "http://ho st/v1", "ftp://host",
        "http://host:99999/v1", "http://host/\thunter2", "http:///v1", "http://",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["openai", "offline"])
def test_an_address_that_could_hold_a_secret_is_refused_and_not_repeated(
    url: str, kind: str
) -> None:
    assert base_url_problem(url)
    with pytest.raises(UsageError) as caught:
        resolve("quickstart", [f"judge.kind={kind}", "judge.model=m", f'judge.base_url="{url}"'])
    assert "hunter2" not in "\n".join(caught.value.lines())


def test_the_address_of_a_vllm_server_holds_no_password_either() -> None:
    with pytest.raises(UsageError, match="contains a user name or a password"):
        resolve("quickstart", ["training.vllm_server_base_url=http://me:hunter2@host"])


@pytest.mark.parametrize(
    "value",
    [
        "sk-abc", "sk_live_51H8aBcDeFgHiJkLmN", "hf_AbCdEfGhIjKlMnOpQrStUv12", "AKIAIOSFODNN7EXAMPLE",
        "gsk_a1b2c3d4e5f6a7b8c9d0", "a" * 31 + "1", "AIzaSyA1234567890abcdefghijk", "Bearer x", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["openai", "offline"])
def test_a_key_in_place_of_its_name_is_refused_with_every_judge(value: str, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(
            "quickstart",
            [f"judge.kind={kind}", "judge.model=m", f'judge.api_key_env="{value}"'],
        )
    text = "\n".join(caught.value.lines())
    assert "api_key_env must be the name" in text
    assert not value or value not in text


@pytest.mark.parametrize(
    "name", ["OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "my_key_2", "SK_KEY_FOR_MODEL_2"]
)
def test_names_of_variables_are_accepted(name: str) -> None:
    assert resolve("quickstart", [f"judge.api_key_env={name}"]).config.judge.api_key_env == name


def test_functions_that_ship_with_the_program_need_no_consent() -> None:
    shipped = "ida_tui.rewards.shipped.json_answers:exact"
    rubric = "rubric: {{axes: {{a: {{function: '{}'}}}}}}\n"

    assert not missing(profile(rubric.format(shipped)))
    assert missing(profile(rubric.format("ida_tui.util.text:one_line"))) == {
        ("ida_tui.util.text:one_line",)
    }
    assert consent._is_shipped(shipped)
    for similar in ("ida_tui.rewards.shipped.x", "ida_tui.rewards.shipped.x.py:f"):
        assert not consent._is_shipped(similar)
