"""The documentation: generated reference, links, paths and index."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.documented import PAGES


def reference() -> dict[str, Callable[[], str]]:
    """The generated files, by path."""
    path = REPOSITORY / "scripts" / "write_reference.py"
    spec = importlib.util.spec_from_file_location("write_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    texts: dict[str, Callable[[], str]] = module.FILES
    return texts


@pytest.mark.parametrize(
    "path",
    [
        "docs/profiles.md",
        "docs/commands.md",
        "ida_tui/cli/completion/config_keys.json",
        "ida_tui/config/training_checks/trl_arguments.json",
    ],
)
def test_the_reference_and_the_generated_tables_are_up_to_date(path: str) -> None:
    text = (REPOSITORY / path).read_text()

    assert text == reference()[path](), "uv run python scripts/write_reference.py"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_has_a_target(page: str) -> None:
    path = REPOSITORY / page
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        linked = path.parent / file if file else path
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(link)
    assert not broken


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes from the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    names = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", heading.lower())
        names.add(plain.replace(" ", "-"))
    return names


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_a_page_exists(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    paths = set(re.findall(r"`((?:ida_tui|profiles|scripts|tests|benchmarks)/[\w./-]+)`", text))
    missing = [path for path in sorted(paths) if not (REPOSITORY / path).exists()]
    assert not [path for path in missing if "NAME" not in path]


def test_the_readme_is_short() -> None:
    assert (REPOSITORY / "README.md").stat().st_size <= 8_000


def test_every_page_is_in_the_index() -> None:
    index = (REPOSITORY / "docs" / "index.md").read_text()
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name


def test_every_item_of_the_original_troubleshooting_is_covered() -> None:
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    for item in (
        "Out of memory",
        "API key error",
        "Gradient clipping error",
        "Attempting to unscale FP16 gradients",
        "max_grad_norm: 0",
        "oblit-1-mps-lowmem",
        ".env",
        "Activity Monitor",
    ):
        assert item in text, item
