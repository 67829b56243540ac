"""Upload an export to the Hugging Face hub, where somebody asks for it; the token is told to nobody else."""

from __future__ import annotations

from pathlib import Path

from ida_tui.errors import IdaError, UsageError
from ida_tui.util.text import printable


def token() -> str:
    """The user's token for the hub.

    Raises:
        UsageError: there is none, or the hub is switched off.
    """
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        raise UsageError(
            "HF_HUB_OFFLINE keeps the hub from being used", "unset it, or leave --push out"
        )
    found = get_token()
    if not found:
        raise UsageError(
            "--push needs a token for the Hugging Face hub, and there is none",
            "hf auth login keeps one; or export HF_TOKEN=hf_... with the right to write",
        )
    return found


def push(folder: Path, repository: str, secret: str, *, public: bool) -> str:
    """Upload every file of an export; returns the repository's address.

    Args:
        folder: the export.
        repository: its name on the hub, such as ``me/mine``; made where it is not there.
        secret: the token.
        public: whether a repository that is made is public.

    Raises:
        IdaError: the hub does not take it; the export stays where it is.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=secret)
    try:
        made = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Export of ida-tui"
        )
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError, ValueError) as error:
        why = " ".join(str(error).split()).replace(secret, "…")
        raise IdaError(
            f"the hub did not take it: {printable(why)[:300]}",
            f"the export is whole, in {folder}; --push uploads it again (--overwrite)",
        ) from None
    return str(made)
