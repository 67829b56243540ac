"""Upload of an export to the Hugging Face Hub; the token is sent only to the hub."""

from __future__ import annotations

from pathlib import Path

from ida_tui.errors import IdaError, UsageError
from ida_tui.util.text import one_line


def hub_token() -> str:
    """The user's token for the hub.

    Raises:
        UsageError: no token is configured, or the hub is disabled.
    """
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise UsageError(
            "the Hugging Face Hub is disabled by HF_HUB_OFFLINE",
            "unset HF_HUB_OFFLINE, or remove --push",
        )
    value = get_token()
    if not value:
        raise UsageError(
            "--push needs a token for the Hugging Face Hub, but none is set",
            "run: hf auth login; or: export HF_TOKEN=hf_... (a token with write access)",
        )
    return value


def push_export(folder: Path, repository: str, secret: str, *, public: bool) -> str:
    """Upload every file of an export; returns the URL of the repository.

    Args:
        folder: the export.
        repository: name of the repository, such as `me/mine`; created if it does not exist.
        secret: the token.
        public: whether a new repository is public.

    Raises:
        IdaError: the upload failed; the export stays on disk.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=secret)
    try:
        url = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=folder, commit_message="Export from ida-tui"
        )
    except (HfHubHTTPError, HFValidationError, httpx2.HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split()).replace(secret, "…")
        raise IdaError(
            f"the upload to the Hugging Face Hub failed: {one_line(reason)[:300]}",
            f"the export is in {folder}; to retry the upload, run the command again with --overwrite",
        ) from None
    return str(url)
