"""A trained checkpoint, or exported rows, uploaded to the Hugging Face hub.

The token is the one of `hf auth login`, or $HF_TOKEN.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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

    Args:
        checkpoint: its directory.
        repo: `OWNER/NAME`.

    Returns:
        The commit's address.

    Raises:
        SetupError: the hub is not within reach, or refuses.
    """
    from huggingface_hub import HfApi

    with _refusals(f"{checkpoint} is trained and written", repo):
        hub = HfApi()
        hub.create_repo(repo, private=True, exist_ok=True)
        return str(hub.upload_folder(repo_id=repo, folder_path=checkpoint, commit_message=_MESSAGE).commit_url)


def push_rows(file: Path, card: str, repo: str) -> str:
    """Upload a file of rows and the card that tells of it to a data set, which is made, private, where there is none.

    Args:
        file: of any format that `datasets` loads; there it is called `train`.
        card: the README.
        repo: `OWNER/NAME`.

    Returns:
        The commit's address.

    Raises:
        SetupError: the hub is not within reach, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _refusals(f"{file} is written", repo):
        hub = HfApi()
        hub.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        files = [
            CommitOperationAdd(f"train{file.suffix}", file),
            CommitOperationAdd("README.md", card.encode()),
        ]
        return str(hub.create_commit(repo, files, commit_message=_MESSAGE, repo_type="dataset").commit_url)


_MESSAGE = "Upload by rstar"


@contextmanager
def _refusals(state: str, repo: str) -> Iterator[None]:
    """Turn what the hub refuses into an error that says in what state things are."""
    import httpx2
    from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except (HFValidationError, LocalTokenNotFoundError, httpx2.HTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"{state}, but not pushed to {repo}: {reason}",
            remedy="Log in by `hf auth login` or $HF_TOKEN, see to the network, and give the same command again: "
            "nothing is trained anew.",
        ) from error
