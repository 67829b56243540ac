"""Config and manifest of a run, written when it starts and when it is resumed."""

from __future__ import annotations

from collections.abc import Sequence

from ida_tui.config import resolve
from ida_tui.config.schema import Config
from ida_tui.config.scoring.reward_files import file_digests
from ida_tui.config.trust import consent
from ida_tui.engine.run.preflight import PreflightResult
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory, make_private
from ida_tui.runs.resume import ResumePoint
from ida_tui.runs.store import completions, manifest
from ida_tui.util.safe_files import write_text


def write_description(
    directory: RunDirectory, config: Config, preflight: PreflightResult, argv: Sequence[str]
) -> None:
    """Write the config and the manifest of a run."""
    write_text(directory.config, resolve.to_yaml(config))
    consent.remember_run(config, directory.path)
    manifest.write(
        directory.manifest,
        config=config,
        run_id=directory.run_id,
        device=preflight.device,
        threads=preflight.threads,
        started_at=ev.current_timestamp(),
        argv=argv,
    )


def prepare_resume(
    resume: ResumePoint, config: Config, preflight: PreflightResult, argv: Sequence[str]
) -> None:
    """Prepare the directory of a resumed run for its next event."""
    directory = resume.directory
    make_private(directory)
    # The steps after the checkpoint run again: their completions would be in the file twice.
    completions.remove_completions_after(directory.completions, resume.step)
    write_text(directory.config, resolve.to_yaml(config))
    consent.remember_run(config, directory.path, consent.RESUME_USES)
    manifest.record_resume(
        directory.manifest,
        resumed_at=ev.current_timestamp(),
        argv=argv,
        threads=preflight.threads,
        data=manifest.data_files(config),
        model=manifest.model_file(config),
        reward_files=file_digests(config.rubric),
    )
