"""A trained checkpoint, uploaded to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from rstar_cli.errors import SetupError
from rstar_cli.options import TrainPlace
from rstar_cli.stages.common import Summary


def pushed(summary: Summary, checkpoint: Path, place: TrainPlace) -> Summary:
    """A training's summary, after its checkpoint is on the hub if that is asked for.

    Raises:
        SetupError: the hub is not within reach, or refuses.
    """
    if place.push_to_hub is not None:
        summary.notes.append(f"Pushed: {push(checkpoint, place.push_to_hub)}")
    return summary


def push(checkpoint: Path, repo: str) -> str:
    """Upload a checkpoint as one commit to a model repository, which is made, private, where there is none.

    The token is the one of `hf auth login`, or $HF_TOKEN.

    Args:
        checkpoint: its directory.
        repo: `OWNER/NAME`.

    Returns:
        The commit's address.

    Raises:
        SetupError: the hub is not within reach, or refuses.
    """
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

    try:
        hub = HfApi()
        hub.create_repo(repo, private=True, exist_ok=True)
        return str(hub.upload_folder(repo_id=repo, folder_path=checkpoint, commit_message="Upload by rstar").commit_url)
    except (HFValidationError, LocalTokenNotFoundError, httpx2.HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"{checkpoint} is trained and written, but not pushed to {repo}: {reason}",
            remedy="Log in by `hf auth login` or $HF_TOKEN, see to the network, and give the same command again: it "
            "only pushes.",
        ) from error
