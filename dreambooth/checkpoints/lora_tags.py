"""LoRAs by name: in the folder of LoRAs, and in prompts as the WebUIs write them (``<lora:name:0.8>``)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dreambooth.checkpoints.lora import WeightedLora
from dreambooth.errors import UserError
from dreambooth.paths import clean_path, clean_text
from dreambooth.settings import Folders

_FILE_EXTENSIONS = (".safetensors", ".ckpt", ".pt", ".bin")
_TAG = re.compile(r"<\s*(\w+)\s*:([^<>]+)>")
_LORA_TAGS = ("lora", "lyco")  # A1111's LyCORIS extension wrote the second
_HYPERNETWORK = "hypernet"


class LoraPrompt(NamedTuple):
    """A prompt without its tags, and the LoRAs that they name."""

    prompt: str
    loras: tuple[WeightedLora, ...]


def find_lora(folders: Folders, chosen: str, what: str = "lora_start") -> Path:
    """The file that ``chosen`` means: a path, or a name in the folder of LoRAs or its subfolders.

    UserError, which begins with ``what``, if there is none.
    """
    name = clean_text(chosen.strip())
    for path in (clean_path(chosen.strip()), folders.loras / name):
        if path.is_file():
            return path
    files = _lora_files(folders.loras)
    wanted = name.replace("\\", "/")
    for spelled in (str, str.lower):  # the exact name first
        for path in files:
            if spelled(wanted) in map(spelled, _names(path, folders.loras)):
                return path
    similar = difflib.get_close_matches(name, [path.stem for path in files], n=3)
    hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
    raise UserError(f"{what}: there is no file {name}, neither as a path nor in {folders.loras}.{hint}")


def has_lora_tags(prompt: str) -> bool:
    """Whether a prompt names LoRAs in the WebUIs' way."""
    return any(kind.lower() in _LORA_TAGS for kind, _ in _TAG.findall(prompt))


def take_loras(prompt: str, folders: Folders) -> LoraPrompt:
    """Take the tags of LoRAs out of a prompt.

    ``<lora:name:0.8>``, ``<lora:name:0.5:1>`` (text encoder, UNet), ``<lora:name:te=0.5:unet=1>``, as in A1111; without
    a weight it is 1. UserError for an unknown name, an invalid weight, and for hypernetworks.
    """
    loras = []
    for match in _TAG.finditer(prompt):
        kind, arguments = match[1].lower(), [part.strip() for part in match[2].split(":")]
        if kind == _HYPERNETWORK:
            raise UserError(f"{match[0]}: hypernetworks can't be used here. Remove it from the prompt.")
        if kind in _LORA_TAGS:
            text, unet = _weights(match[0], arguments[1:])
            loras.append(WeightedLora(find_lora(folders, arguments[0], match[0]), unet, text))
    stripped = _TAG.sub(lambda match: "" if match[1].lower() in _LORA_TAGS else match[0], prompt)
    return LoraPrompt(stripped.strip() if loras else prompt, tuple(loras))


def _weights(tag: str, arguments: Sequence[str]) -> tuple[float, float]:
    """The weights for the text encoders and for the UNet."""
    named = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    positional = [argument for argument in arguments if "=" not in argument]
    if "dyn" in named or len(positional) > 2:
        raise UserError(f"{tag}: a LoRA can't be used with a reduced rank here. Resize it first, or remove the rank.")
    text = _number(tag, named.get("te", positional[0] if positional else "1"))
    unet = named.get("unet", positional[1] if len(positional) > 1 else None)
    return text, text if unet is None else _number(tag, unet)


def _number(tag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{tag}: {text!r} is not a weight. Write a number, such as <lora:name:0.8>.") from None


def _lora_files(folder: Path) -> list[Path]:
    """The files in the folder and its subfolders, those at the top first."""
    files = [path for path in folder.rglob("*") if path.suffix.lower() in _FILE_EXTENSIONS and path.is_file()]
    return sorted(files, key=lambda path: (len(path.parts), str(path)))


def _names(path: Path, folder: Path) -> tuple[str, ...]:
    """The names that mean a file: with and without its ending, with and without its subfolder."""
    relative = path.relative_to(folder)
    return path.stem, path.name, relative.as_posix(), relative.with_suffix("").as_posix()
