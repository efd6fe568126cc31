"""Models of the Hugging Face hub, through its own library: its cache, its login, its offline mode."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dreambooth.checkpoints.folder_source import preferred_weights
from dreambooth.errors import UserError
from dreambooth.types import ProgressCallback

Choose = Callable[[list[str]], list[str]]  # of the names of all files in a repository, those that are wanted

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>.+\.(?:safetensors|ckpt)))?", re.ASCII)
_COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_INDEX = "model_index.json"
_CONFIGS = (_INDEX, "scheduler/scheduler_config.json", *(f"{part}/config.json" for part in _COMPONENTS))


def hub_id(source: str) -> tuple[str, str] | None:
    """(repository, file in it or "") where ``source`` names something on the hub rather than on this disk."""
    match = _ID.fullmatch(source.strip())
    if not match or os.path.exists(source) or os.path.isdir(source.split("/")[0]):
        return None
    repo, file = match["repo"], match["file"] or ""
    return None if not file and repo.lower().endswith((".safetensors", ".ckpt")) else (repo, file)


def download(source: str, token: str = "", progress: ProgressCallback | None = None) -> Path:
    """The local path of ``org/name`` (a diffusers folder) or ``org/name/file.safetensors``, downloaded if need be.

    What the cache holds already is not loaded again. UserError for what is gated, missing or out of reach.
    """
    found = hub_id(source)
    if found is None:
        raise UserError(f"{source} is neither a file or folder here nor a model's id on the hub (like org/name).")
    repo, file = found
    if not file:
        return download_files(repo, lambda names: _diffusers_files(repo, names), [_INDEX], token, progress)
    with _explained(repo, file):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repo, file, token=token or None))


def download_files(
    repo: str, choose: Choose, marks: Sequence[str], token: str = "", progress: ProgressCallback | None = None
) -> Path:
    """The local folder with the files of a repository that ``choose`` picks, downloaded if need be.

    ``marks``: files of which a whole model has at least one; by them it is found in the cache when the hub is away.
    """
    with _explained(repo, ""):
        from huggingface_hub import constants

        return _cached(repo, marks) if constants.HF_HUB_OFFLINE else _folder(repo, choose, marks, token, progress)


def _cached(repo: str, marks: Sequence[str]) -> Path:
    from huggingface_hub import errors, hf_hub_download

    for mark in marks[:-1]:
        with contextlib.suppress(errors.LocalEntryNotFoundError):
            return Path(hf_hub_download(repo, mark, local_files_only=True)).parent
    return Path(hf_hub_download(repo, marks[-1], local_files_only=True)).parent


def _folder(repo: str, choose: Choose, marks: Sequence[str], token: str, progress: ProgressCallback | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        info = HfApi().model_info(repo, token=token or None)
    except Exception as error:
        if not _is_away(error):
            raise
        return _cached(repo, marks)
    wanted = choose([sibling.rfilename for sibling in info.siblings or ()])
    for number, name in enumerate(wanted):
        if progress:
            progress(number, len(wanted), f"Downloading {name}")
        hf_hub_download(repo, name, revision=info.sha, token=token or None)
    # Asked for by no revision, it is noted as what is found offline; last, so that only a whole model is.
    return Path(hf_hub_download(repo, next(mark for mark in marks if mark in wanted), token=token or None)).parent


def _diffusers_files(repo: str, names: list[str]) -> list[str]:
    """The configs and, of each component, the version of the weights that would be read."""
    if _INDEX not in names:
        files = [name for name in names if name.endswith((".safetensors", ".ckpt")) and "/" not in name]
        hint = f": name one of its files, like {repo}/{files[0]}" if files else ""
        raise UserError(f"{repo} is no diffusers model on the hub (it has no {_INDEX}){hint}.")
    wanted = [name for name in _CONFIGS if name in names]
    for part in _COMPONENTS:
        wanted += [f"{part}/{name}" for name in preferred_weights(_inside(names, part), part)]
    return wanted


def _inside(names: list[str], part: str) -> list[str]:
    return [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]


@contextlib.contextmanager
def _explained(repo: str, file: str) -> Iterator[None]:
    """The library's many errors, in words."""
    from huggingface_hub import errors

    what = f"{file} of {repo}" if file else repo
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{repo} is gated: accept its terms on huggingface.co/{repo} and give a token of your account."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"There is no file or folder {repo} here, and no such model on the hub (or it is private: give a token)."
        ) from error
    except errors.LocalEntryNotFoundError as error:  # offline, or the hub can't be reached
        raise UserError(_out_of_reach(what)) from error
    except errors.EntryNotFoundError as error:
        raise UserError(f"{repo} has no {file or 'model_index.json'} on the hub: check the name.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no answer")
        hint = ": the token is not valid" if status == 401 else ""
        raise UserError(f"The hub refused {what} ({status}){hint}.") from error
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        if _is_away(error):
            raise UserError(_out_of_reach(what)) from error
        raise


def _is_away(error: Exception) -> bool:
    """Whether the hub gave no answer at all. Older versions of the library have requests' errors, later httpx's."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return False
    return isinstance(error, OSError) or type(error).__module__.startswith("httpx")


def _out_of_reach(what: str) -> str:
    return (
        f"There is no file or folder {what} here; it may be a model of the hub, but that can't be reached (or offline "
        "mode is on) and the cache does not hold it. Check the path, or download it once while online."
    )
