"""Downloading models from the Hugging Face hub with huggingface_hub: its cache, login and offline mode apply."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from dreambooth.checkpoints.folder_source import preferred_weights
from dreambooth.errors import UserError
from dreambooth.models.registry import component_names
from dreambooth.models.sd.ldm_config import ENDING
from dreambooth.paths import is_web_address
from dreambooth.types import ProgressCallback

ChooseFiles = Callable[[list[str]], list[str]]  # from all file names of a repository, those to download

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>.+\.(?:safetensors|ckpt)))?", re.ASCII)
_INDEX = "model_index.json"


def hub_id(source: str) -> tuple[str, str] | None:
    """(repository, file in it or "") if ``source`` is a hub id; None if it is a local path."""
    match = _ID.fullmatch(source.strip())
    if not match or is_web_address(source) or os.path.exists(source) or os.path.isdir(source.split("/")[0]):
        return None
    repo, file = match["repo"], match["file"] or ""
    return None if not file and repo.lower().endswith((".safetensors", ".ckpt")) else (repo, file)


def download(source: str, token: str = "", progress: ProgressCallback | None = None) -> Path:
    """The local path of ``org/name`` (a diffusers folder) or ``org/name/file.safetensors``, downloaded if necessary.

    Cached files are not downloaded again. UserError when it is gated, missing or unreachable.
    """
    hub_source = hub_id(source)
    if hub_source is None:
        raise UserError(f"{source} is neither a local file or folder nor a hub id (like org/name): check the path.")
    repo, file = hub_source
    if not file:
        return download_files(repo, lambda names: _diffusers_files(repo, names), [_INDEX], token, progress)
    with _as_user_errors(repo, file):
        from huggingface_hub import errors, hf_hub_download

        path = Path(hf_hub_download(repo, file, token=token or None))
        with contextlib.suppress(errors.EntryNotFoundError):  # few have one; it says what the model predicts
            hf_hub_download(repo, str(PurePosixPath(file).with_suffix(ENDING)), token=token or None)
        return path


def download_files(
    repo: str, choose: ChooseFiles, markers: Sequence[str], token: str = "", progress: ProgressCallback | None = None
) -> Path:
    """The local folder with the files of a repository that ``choose`` selects, downloaded if necessary.

    ``markers``: files of which a complete model has at least one, downloaded last. They locate the model in the cache
    when the hub can't be reached.
    """
    with _as_user_errors(repo, ""):
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            return _cached(repo, markers)
        return _download_folder(repo, choose, markers, token, progress)


def _cached(repo: str, markers: Sequence[str]) -> Path:
    from huggingface_hub import errors, hf_hub_download

    for marker in markers[:-1]:
        with contextlib.suppress(errors.LocalEntryNotFoundError):
            return Path(hf_hub_download(repo, marker, local_files_only=True)).parent
    return Path(hf_hub_download(repo, markers[-1], local_files_only=True)).parent


def _download_folder(
    repo: str, choose: ChooseFiles, markers: Sequence[str], token: str, progress: ProgressCallback | None
) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        info = HfApi().model_info(repo, token=token or None)
    except Exception as error:
        if not _is_unreachable(error):
            raise
        return _cached(repo, markers)
    names = choose([sibling.rfilename for sibling in info.siblings or ()])
    for number, name in enumerate(names):
        if progress:
            progress(number, len(names), f"Downloading {name}")
        hf_hub_download(repo, name, revision=info.sha, token=token or None)
    # A download without revision makes the snapshot available offline; it comes last, so that only complete models are.
    marker = next(marker for marker in markers if marker in names)
    return Path(hf_hub_download(repo, marker, token=token or None)).parent


def _diffusers_files(repo: str, names: list[str]) -> list[str]:
    """The configs and, for each component, the variant of the weights that would be read."""
    if _INDEX not in names:
        files = [name for name in names if name.endswith((".safetensors", ".ckpt")) and "/" not in name]
        hint = f"enter one of its files, like {repo}/{files[0]}" if files else "choose another model"
        raise UserError(f"{repo} is not a diffusers model on the hub (it has no {_INDEX}): {hint}.")
    parts = component_names()
    configs = (_INDEX, "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in parts))
    chosen = [name for name in configs if name in names]
    for part in parts:
        chosen += [f"{part}/{name}" for name in preferred_weights(_names_in(names, part), part)]
    return chosen


def _names_in(names: list[str], part: str) -> list[str]:
    return [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]


@contextlib.contextmanager
def _as_user_errors(repo: str, file: str) -> Iterator[None]:
    """Convert the errors of huggingface_hub to UserErrors."""
    from huggingface_hub import errors

    name = f"{file} of {repo}" if file else repo
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: accept its terms on huggingface.co/{repo} and enter a token of your account."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{repo} is neither a local file or folder nor a model on the hub: check the path, or enter a token if the "
            "model is private."
        ) from error
    except errors.LocalEntryNotFoundError as error:  # offline, or the hub can't be reached
        raise UserError(_unreachable_message(name)) from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{repo} has no {file or 'model_index.json'} on the hub: check the name.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no response")
        hint = "the token is invalid, enter another one" if status == 401 else "try again later"
        raise UserError(f"The hub refused to download {name} (status {status}): {hint}.") from error
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        if _is_unreachable(error):
            raise UserError(_unreachable_message(name)) from error
        raise


def _is_unreachable(error: Exception) -> bool:
    """Whether there was no response: an error of requests in older versions of huggingface_hub, later of httpx."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return False
    return isinstance(error, OSError) or type(error).__module__.startswith("httpx")


def _unreachable_message(name: str) -> str:
    return (
        f"{name} is not a local file or folder, and the hub can't be reached (or offline mode is on) and has no cached "
        "copy of it. Check the path, or download it once while online."
    )
