"""An exported folder goes to a model hub, when somebody asked for it by name."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined] # of httpx, or of httpx2
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # documented there, and not in __all__


def check_push(repo: str) -> None:
    """Before anything is written. Raises ValueError for a name that is none, or without a token."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"push={repo} is no name on a hub ({error}): give push=USER/NAME") from None
    if repo.count("/") != 1:
        raise ValueError(f"push={repo} says not whose it is: give push=USER/NAME")
    if get_token() is None:
        raise ValueError("push= needs a token that may write: `hf auth login`, or HF_TOKEN in the environment")


def push(folder: Path, repo: str, *, private: bool) -> str:
    """The page of the model. A repository that is not there is made; files of the same name are replaced.

    Raises ValueError where a private one is wanted and a public one is there, or when the hub refuses or is out of
    reach; the folder stays, and the sentence says how to send it again.
    """
    for name in ("httpx", "httpx2"):  # a line for each request
        logging.getLogger(name).setLevel(logging.WARNING)
    api = HfApi(library_name="ekd")
    try:
        page = api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise ValueError(f"{repo} is there already and public: give another name, or public=true if all may see it")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A student of ekd")
    except (HTTPError, OSError) as error:  # the hub's refusals are both
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        again = f"hf upload {repo} {folder}{' --private' if private else ''}"
        raise ValueError(f"{folder} is written, but not pushed to {repo} ({reason}): `{again}` tries again") from error
    return str(page)
