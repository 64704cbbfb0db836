"""Models of the Hugging Face Hub by name: `hf:user/name`, or `hf:user/name@revision`.

The files are in the cache of huggingface_hub, a folder that the variables HF_HOME and HF_HUB_CACHE can change. Only
`download_model` and `upload_folder` use the network. This module does not import torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cspdet import __version__
from cspdet.errors import ConfigError, UserError, hide_credentials, missing_package_error
from cspdet.io.fetch import OFFLINE_VARIABLE, is_offline

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
WEIGHTS_FILE = "model.safetensors"  # the name that the Hub recognizes
ENDPOINT_VARIABLE = "HF_ENDPOINT"
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?"
_REPO = re.compile(rf"{_PART}/{_PART}")
_NAME = re.compile(rf"{PREFIX}(?P<repo>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,99}}))?")


class HubModel(NamedTuple):
    """A model of the Hub.

    Attributes:
        repo: `user/name`.
        revision: Branch, tag or commit; None: the branch main.
    """

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(source: str | Path) -> HubModel | None:
    """Return the model of the Hub that a MODEL argument names; None if the argument does not start with `hf:`.

    Raises:
        ConfigError: The name starts with `hf:`, but has another form.
    """
    text = source.as_posix() if isinstance(source, Path) else str(source)
    if not text.startswith(PREFIX):
        return None
    match = _NAME.fullmatch(text)
    if match is None or ".." in text:
        raise ConfigError(f"{text}: expected hf:user/name or hf:user/name@revision")
    return HubModel(match["repo"], match["revision"])


def check_repo(repo: str) -> None:
    """Raise ConfigError if the name of a repository is not of the form `user/name`."""
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ConfigError(f"{repo}: expected a repository user/name of letters, digits, `-`, `_` and `.`")


def cached_model(model: HubModel) -> Path | None:
    """Return the path of the downloaded weights of a model, without the network; None if they are not downloaded."""
    with _hub_errors(str(model)):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model.repo, WEIGHTS_FILE, revision=model.revision)
    return Path(found) if isinstance(found, str) else None


def download_model(model: HubModel, *, force: bool = False) -> Path:
    """Download the weights of a model, unless the cache has the newest file of the revision.

    If CSPDET_OFFLINE is set, the cached file is returned.

    Args:
        model: The model.
        force: Download the file even if the cache has the newest file.

    Raises:
        UserError: CSPDET_OFFLINE is set and the model is not in the cache, or the download fails.
    """
    cached = cached_model(model)
    if is_offline():
        if cached is None:
            raise UserError(f"{model}: is not in the cache, and {OFFLINE_VARIABLE} forbids downloads")
        return cached
    with _hub_errors(str(model)):
        path = _api().hf_hub_download(model.repo, WEIGHTS_FILE, revision=model.revision, force_download=force)
    return Path(path)


def upload_folder(folder: Path, repo: str, *, private: bool) -> str:
    """Upload the files of a folder as one commit to a model repository. The repository is created if it is missing.

    Args:
        folder: The folder.
        repo: `user/name`.
        private: Whether the repository is private. An existing public repository is then an error.

    Returns:
        The address of the repository.

    Raises:
        UserError: CSPDET_OFFLINE is set, there is no valid token, or the upload fails.
    """
    if is_offline():
        raise UserError(f"{repo}: {OFFLINE_VARIABLE} forbids uploads")
    with _hub_errors(repo):
        api = _api()
        url = api.create_repo(repo, private=True if private else None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UserError(f"{repo}: exists and is public, found --private; nothing was uploaded")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Upload with cspdet {__version__}")
    return str(url)


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(os.environ.get(ENDPOINT_VARIABLE), library_name="cspdet", library_version=__version__)


@contextmanager
def _hub_errors(where: str) -> Iterator[None]:
    """Convert the errors of huggingface_hub to UserError: a missing package, the network, the server, or the disk."""
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise missing_package_error("huggingface_hub", "hub", where, error) from None
    except Exception as error:  # the client and its HTTP library raise unrelated classes
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(f"{where}: {hide_credentials(' '.join(lines))[:300]}") from None
