"""Chat template of a profile: the text of the file that `model.chat_template` names.

The text becomes a part of the configuration, so that a run's config.yaml needs no other file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ida_tui.config.schema import Config
from ida_tui.config.trust.render_templates import MAX_CHARACTERS
from ida_tui.config.yaml_tree import Origin
from ida_tui.errors import UsageError
from ida_tui.util.paths import expand_home, is_file
from ida_tui.util.safe_files import read_bytes
from ida_tui.util.text import quoted

KEY = "model.chat_template"
SUFFIXES = (".jinja", ".jinja2", ".j2", ".txt")
"""Suffixes of template files. No other file is read: a stranger's profile may name any."""


def with_template_text(config: Config, origin: Origin) -> Config:
    """The configuration with the text of its chat template in place of the name of a file.

    A relative path is resolved against the folder of the profile, then against the working directory.

    Args:
        config: the resolved experiment.
        origin: the origin of its `model.chat_template`.

    Raises:
        UsageError: there is no such file, or it cannot be read.
    """
    name = config.model.chat_template
    if name is None or _is_template(name):
        return config
    where = f"{origin}: {KEY}"
    if not name.endswith(SUFFIXES):
        raise UsageError(
            f"{quoted(name)} is neither a chat template nor a template file",
            "name a .jinja file, or write the text of a template, with {{ … }} in it",
            where=where,
        )
    path = next(filter(is_file, _candidates(name, origin)), None)
    if path is None:
        raise UsageError(
            f"the file {quoted(name)} does not exist",
            "check the path; a relative path starts at the profile's folder, or the working directory",
            where=where,
        )
    try:
        text = read_bytes(Path(os.path.realpath(path)), 4 * MAX_CHARACTERS).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(
            f"{quoted(name)} is not UTF-8 text", "save it as UTF-8", where=where
        ) from None
    except OSError as error:
        raise UsageError(
            f"could not read {quoted(name)}: {error.strerror or error}",
            "check the file",
            where=where,
        ) from None
    return config.model_copy(
        update={"model": config.model.model_copy(update={"chat_template": text})}
    )


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text or "\n" in text or not text.strip()


def _candidates(name: str, origin: Origin) -> Iterator[Path]:
    path = expand_home(name)
    if origin.file is not None:
        yield origin.file.parent / path
    yield Path.cwd() / path
