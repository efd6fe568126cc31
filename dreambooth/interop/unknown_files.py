"""Files that can't be imported: what they look like, for messages."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from dreambooth.errors import UserError
from dreambooth.images.listing import IMAGE_EXTENSIONS
from dreambooth.text import count, escape_unprintable

_SHOWN_NAMES = 6


def describe_content(data: Any) -> str:
    """What a file with these values is, or at least what it contains: "the names model, data and 3 more"."""
    return known_kind(data) or f"it contains {_names(data)}"


def known_kind(data: Any) -> str:
    """The kind of a file that is known, but holds no training; "" for any other."""
    if not isinstance(data, Mapping):
        return ""
    return next((description for looks_like, description in _KINDS if looks_like(data)), "")


def _names(data: Any) -> str:
    if isinstance(data, Mapping) and data:
        names = [_shortened(escape_unprintable(key)) for key in data]
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        return f"the names {', '.join(names[:_SHOWN_NAMES])}{more}"
    if isinstance(data, list) and data:
        if all(isinstance(row, Mapping) for row in data):
            return f"a list of {count(len(data), 'object')} with {_names(data[0])}"
        return f"a list of {count(len(data), 'value')}"
    return "nothing" if data in ({}, []) else "a single value"


def _shortened(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:37]}..."


def _has(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda data: all(name in data for name in names)


def _is_comfyui_prompt(data: Mapping[str, Any]) -> bool:
    return bool(data) and all(isinstance(node, Mapping) and "class_type" in node for node in data.values())


_KINDS: tuple[tuple[Callable[[Mapping[str, Any]], bool], str], ...] = (
    (_has("nodes", "links"), "it looks like a workflow of ComfyUI, which holds no training"),
    (_is_comfyui_prompt, "it looks like a workflow of ComfyUI, which holds no training"),
    (_has("basic", "advanced", "folders"), "it looks like the config.toml of kohya_ss, the defaults of its pages; save "
                                           "a configuration on one of the pages, and import that"),
    (_has("peft_type"), "it looks like the adapter_config.json of a LoRA in peft's format"),
    (_has("_class_name"), "it looks like a part of a model in the diffusers format"),
    (_has("weight_map"), "it looks like the index of a model in several files"),
    (_has("sd_model_checkpoint"), "it looks like the settings of a WebUI"),
    (_has("architectures", "model_type"), "it looks like the config.json of a model"),
)  # fmt: skip


def refuse_binary(path: Path) -> None:
    """UserError for an image, a model or another file that is no text, which says what to choose instead."""
    try:
        if not path.is_file():  # opening a pipe would wait
            return
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:  # reported when the whole file is read
        return
    if head.startswith(_UTF16):
        return
    for kind, advice, suffixes, signatures in _BINARY_KINDS:
        if head.startswith(signatures) or (path.suffix.lower() in suffixes and b"\0" in head):
            raise UserError(f"{path} is {kind}. {advice}")
    if b"\0" in head:
        raise UserError(f"{path} is not a text file. Choose a folder of images, or a configuration (.json, .toml).")


_HEAD_BYTES = 512
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# What it is, what to do, file extensions, first bytes.
_BINARY_KINDS: tuple[tuple[str, str, Collection[str], tuple[bytes, ...]], ...] = (
    ("an image", "Choose the folder that contains it.", IMAGE_EXTENSIONS,
     (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")),
    ("an archive", "Extract it, and choose the folder with the images.", (".zip", ".7z", ".rar", ".gz", ".tar"),
     (b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!", b"\x1f\x8b")),
    ("a model file", "Choose a folder of images, or a configuration (.json, .toml).",
     (".safetensors", ".ckpt", ".pt", ".pth", ".bin"), ()),
)  # fmt: skip
