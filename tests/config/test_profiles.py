"""Profiles: lookup, parsing, inheritance, and the origin of every value."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ida_tui.config import profiles, yaml_tree
from ida_tui.config.resolve import resolve
from ida_tui.config.yaml_tree import COMMAND_LINE_ORIGIN, DEFAULT_ORIGIN, Origin
from ida_tui.errors import UsageError


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of user profiles; the working directory is another empty folder."""
    root = tmp_path / "mine"
    work = tmp_path / "here"
    work.mkdir()
    for kind in profiles.PROFILE_KINDS:
        (root / kind).mkdir(parents=True)
    monkeypatch.setenv("IDA_TUI_PROFILES", str(root))
    monkeypatch.chdir(work)
    return root


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / f"{name}.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def parse(text: str) -> object:
    return yaml_tree.to_plain(yaml_tree.parse_yaml(text, COMMAND_LINE_ORIGIN))


def test_a_number_in_scientific_notation_is_a_number():
    assert parse("[1e-5, 1E+3, -2.5e-3, .5, 3]") == [1e-5, 1000.0, -0.0025, 0.5, 3]


def test_dates_times_urls_and_leading_zeros_stay_text():
    text = "[2027-01-14, 12:30, http://127.0.0.1:9000/v1, 010]"
    assert parse(text) == ["2027-01-14", "12:30", "http://127.0.0.1:9000/v1", "010"]


def test_common_spellings_of_booleans_and_null_are_recognized():
    assert parse("[true, False, yes, off, null, ~, auto]") == [
        True, False, True, False, None, None, "auto",
    ]  # fmt: skip


def test_every_value_has_the_line_of_its_key():
    node = yaml_tree.parse_yaml(
        "a: 1\nb:\n  c: 2\n  d:\n    - x\n    - y\n", Origin(Path("p.yaml"), 1)
    )
    lines = {key: origin.line for key, origin in yaml_tree.iter_origins(node)}
    assert lines == {"a": 1, "b": 2, "b.c": 3, "b.d": 4, "b.d.0": 5, "b.d.1": 6}


def test_an_origin_is_printed_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(Origin(tmp_path / "profiles" / "dev.yaml", 12)) == "profiles/dev.yaml:12"
    assert str(COMMAND_LINE_ORIGIN) == "command line"
    assert str(DEFAULT_ORIGIN) == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2", "duplicate key"),
        ("a: [1", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("- a\n- b", "a profile must be a mapping"),
        ("a: !!python/object:os.system x", "not allowed"),
        ("&a [*a]", "too deeply nested"),
        pytest.param("[" * 5000, "not valid YAML", id="deep"),
        ("a: \x01", "not valid YAML"),
        ("---\na: 1\n---\nb: 2", "not valid YAML"),
        ("a: !!int fast", "is not a valid value"),
        ("? [a]\n: b", "a key must be plain text"),
        pytest.param("a: " + "9" * 6000, "is not a valid value", id="long number"),
    ],
)
def test_a_broken_file_is_one_short_error_with_its_location(user, text, message):
    write(user / "models", "broken", text)
    with pytest.raises(UsageError, match=message) as caught:
        profiles.load_profile("models", "broken")
    assert "broken.yaml" in caught.value.where
    assert len(caught.value.lines()) <= 6


def test_an_unclosed_bracket_is_reported_at_the_line_where_it_opens(user):
    write(user / "models", "open", "path: x\nlist: [1\nname: y\nrevision: z\n")
    with pytest.raises(UsageError) as caught:
        profiles.load_profile("models", "open")
    assert caught.value.where.endswith("open.yaml:2")
    assert "close the bracket" in caught.value.hint


def test_aliases_are_followed_but_their_expansion_is_bounded(user):
    write(user / "models", "shared", "x: &x {k: 1}\ny: *x\nz:\n  <<: *x\n  j: 2\n")
    values = yaml_tree.to_plain(profiles.load_profile("models", "shared"))
    assert isinstance(values, dict)
    assert values["z"] == {"k": 1, "j": 2}
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join(f'*{old}' for _ in range(10))}]\n"
        for old, new in zip("abcdef", "bcdefg", strict=True)
    )
    write(user / "models", "bomb", bomb)
    with pytest.raises(UsageError, match="aliases"):
        profiles.load_profile("models", "bomb")


def test_a_file_that_is_not_utf8_or_too_large_or_a_folder_is_refused(user, monkeypatch):
    (user / "models" / "latin.yaml").write_bytes("path: café".encode("latin-1"))
    with pytest.raises(UsageError, match="not UTF-8"):
        profiles.load_profile("models", "latin")
    monkeypatch.setattr(yaml_tree, "MAX_BYTES", 3)
    write(user / "models", "large", "path: x")
    with pytest.raises(UsageError, match="larger"):
        profiles.load_profile("models", "large")
    (user / "models" / "folder.yaml").mkdir()
    with pytest.raises(UsageError, match="no model profile"):
        profiles.load_profile("models", "folder")


def test_a_byte_order_mark_and_an_empty_file_are_accepted(user):
    (user / "models" / "marked.yaml").write_bytes(b"\xef\xbb\xbfpath: x\n")
    assert yaml_tree.to_plain(profiles.load_profile("models", "marked")) == {
        "name": "marked",
        "path": "x",
    }
    write(user / "models", "empty", "# nothing yet\n")
    assert yaml_tree.to_plain(profiles.load_profile("models", "empty")) == {"name": "empty"}


def test_a_changed_file_is_read_again(user):
    file = write(user / "models", "m", "path: one")
    profiles.load_profile("models", "m")
    file.write_text("path: another one", encoding="utf-8")
    assert yaml_tree.to_plain(profiles.load_profile("models", "m")) == {
        "name": "m",
        "path": "another one",
    }


def test_extends_merges_mappings_deeply_and_replaces_lists(user):
    write(user / "experiments", "base", "training: {a: 1, b: 2}\nlist: [1, 2]\nseed: 1")
    write(user / "experiments", "mid", "extends: base\ntraining: {b: 3}")
    write(user / "experiments", "top", "extends: mid\nlist: [9]\ntraining: {c: 4}")
    assert yaml_tree.to_plain(profiles.load_profile("experiments", "top")) == {
        "name": "top",
        "training": {"a": 1, "b": 3, "c": 4},
        "list": [9],
        "seed": 1,
    }


def test_a_section_that_overrides_a_profile_name_extends_that_profile(user):
    write(user / "experiments", "base", "model: embedded")
    write(user / "experiments", "top", "extends: base\nmodel: {torch_dtype: float32}")
    values = yaml_tree.to_plain(profiles.load_profile("experiments", "top"))
    assert isinstance(values, dict)
    assert values["model"] == {"extends": "embedded", "torch_dtype": "float32"}


def test_profiles_that_extend_in_a_circle_are_refused(user):
    write(user / "models", "a", "extends: b")
    write(user / "models", "b", "extends: a")
    with pytest.raises(UsageError, match="cycle") as caught:
        profiles.load_profile("models", "a")
    assert caught.value.where.endswith("b.yaml:1: extends")


def test_a_long_chain_of_profiles_is_accepted(user):
    for number in range(60):
        write(
            user / "models", f"m{number}", f"extends: m{number + 1}" if number < 59 else "path: x"
        )
    assert yaml_tree.to_plain(profiles.load_profile("models", "m0")) == {"name": "m0", "path": "x"}


def test_a_users_profile_hides_the_shipped_one_and_may_extend_it(user):
    write(user / "models", "embedded", "extends: embedded\ntorch_dtype: float32")
    values = yaml_tree.to_plain(profiles.load_profile("models", "embedded"))
    assert isinstance(values, dict)
    assert values["path"] == "embedded"
    assert values["torch_dtype"] == "float32"
    assert profiles.list_profiles("models")["embedded"].parent == user / "models"


def test_a_path_is_resolved_against_its_file_first_and_then_the_working_directory(user):
    folder = Path.cwd() / "sub"
    folder.mkdir()
    write(folder, "base", "path: sub")
    write(folder, "top", "extends: base.yaml")
    write(Path.cwd(), "base", "path: work")
    assert yaml_tree.to_plain(profiles.load_profile("models", "sub/top.yaml")) == {
        "name": "top",
        "path": "sub",
    }
    assert yaml_tree.to_plain(profiles.load_profile("models", "base.yaml")) == {
        "name": "base",
        "path": "work",
    }


def test_an_unknown_name_gets_the_nearest_names_suggested(user):
    with pytest.raises(UsageError) as caught:
        profiles.find_profile("experiments", "dev-mp")
    assert "dev-mps" in caught.value.hint
    assert "ida-tui --list experiments" in caught.value.hint


@given(st.text(max_size=40))
def test_any_name_is_found_or_gets_a_short_usage_error(name):
    try:
        profiles.find_profile("models", name)
    except UsageError as error:
        lines = "\n".join(error.lines()).splitlines()
    else:
        lines = []
    assert len(lines) <= 6


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_gets_a_short_usage_error(text):
    try:
        yaml_tree.parse_yaml(text, COMMAND_LINE_ORIGIN)
    except UsageError as error:
        lines = "\n".join(error.lines()).splitlines()
    else:
        lines = []
    assert len(lines) <= 6


_texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.text("\n \t\r\x85\u2028:#-'\"ab01e.,[]{}&*!|>%@`~=<", max_size=12),
)
_plain_trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=8,
)


@given(_plain_trees)
def test_dumped_yaml_is_read_back_unchanged(tree):
    assert parse(yaml_tree.dump_yaml(tree)) == tree


def test_every_shipped_profile_has_a_one_line_description():
    for kind in profiles.PROFILE_KINDS:
        for name, file in profiles.list_profiles(kind).items():
            raw = yaml.safe_load(file.read_text(encoding="utf-8"))
            assert 20 <= len(raw["description"]) <= 90, name
            assert "\n" not in raw["description"], name


def test_control_characters_of_a_profile_are_not_printed(ida_tui_here: Any) -> None:
    Path("mine.yaml").write_text('extends: quickstart\ndescription: "\\e[31m\\x9b2J\\u202E"\n')

    for flag in ("--show", "--check"):
        result = ida_tui_here(flag, "mine.yaml")
        assert result.code == 0
        assert result.out.replace("\n", "").isprintable()


def test_a_lone_surrogate_in_a_profile_is_refused_with_its_line() -> None:
    Path("mine.yaml").write_text('extends: quickstart\ndescription: "\\uD800"\n')

    with pytest.raises(UsageError, match="half of a surrogate pair") as refused:
        resolve("mine.yaml")
    assert refused.value.where.startswith("mine.yaml:2")


def test_a_file_with_too_many_values_is_refused() -> None:
    Path("mine.yaml").write_text("".join(f"k{n}: {n}\n" for n in range(40_000)))

    with pytest.raises(UsageError, match="more than 30,000 keys and values"):
        resolve("mine.yaml")


def test_code_from_a_model_is_trusted_only_if_the_profile_says_so() -> None:
    assert resolve("quickstart").config.model.trust_remote_code is False

    trusting = resolve("quickstart", ["model.trust_remote_code=true"])

    assert "Python code from the model with your permissions" in " ".join(
        n.text for n in trusting.notes
    )
