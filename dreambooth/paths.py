"""Paths as people paste them: with quotes, ``~``, spaces, invisible characters, or as a file: URL.

A path that exists as it is given is used as given. Spellings that could also be meant literally, such as escaped
spaces, are only understood where the path exists that way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from dreambooth.errors import UserError
from dreambooth.text import escape_unprintable

_IS_WINDOWS = os.name == "nt"
# Marks of the direction of text, which Windows' security dialog adds, zero-width spaces, and byte order marks.
_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_QUOTES = {'"': '"', "'": "'", "`": "`'", "“": "”“", "”": "”", "„": "“”", "‘": "’‘", "’": "’", "‚": "‘’", "«": "»",
           "»": "«", "‹": "›", "「": "」", "＂": "＂"}  # fmt: skip
_DOUBLE_QUOTES = '"“”„＂'  # never part of a name in Windows; curly ones are typed by word processors
_UNUSUAL = re.compile(
    rf"^\s|\s$|^file:|[\\%$]|^[{''.join(_QUOTES)}]|[{''.join(_QUOTES)}][,;]?$|{_INVISIBLE.pattern}", re.IGNORECASE
)
_SEVERAL = re.compile(r"""(["'])[^"']+\1(?:[\s,;]+\1[^"']+\1)+""")
_WEB_ADDRESS = re.compile(r"(?:(?!file:)[a-z][a-z0-9+.-]+:/+|(?:www\.|civitai\.com/|huggingface\.co/|hf\.co/)).*", re.I)
_ON_THE_HUB = re.compile(
    r"(?:https?:/+)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?!(?:datasets|spaces|api)/)(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?:resolve|blob)/[^/]+/(?P<file>[^?#]+\.(?:safetensors|ckpt)))?", re.IGNORECASE | re.ASCII
)  # fmt: skip


def clean_path(text: str | os.PathLike[str], base: str | Path = "") -> Path:
    """The path that ``text`` means, with ``~`` replaced by the home folder, and relative ones joined to ``base``.

    An unknown ``~user`` is left as it is. UserError for a web address, and for several paths.
    """
    given = os.fspath(text)
    cleaned = clean_text(given, base)
    if given and not cleaned:
        raise UserError(f"{escape_unprintable(given)} contains no path: enter a path.")
    if not _exists(cleaned, base):
        _refuse_other_input(cleaned)
    if is_windows_path(cleaned):  # of another machine, shown as given
        return Path(cleaned)
    return Path(base, os.path.expanduser(cleaned))


def clean_text(text: str, base: str | Path = "") -> str:
    """As :func:`clean_path`, but ``~``, relative paths and web addresses stay as they are. Names are paths too."""
    if not _UNUSUAL.search(text):
        return text
    while not _exists(text, base):
        unwrapped = _unwrapped(text)
        if unwrapped == text:
            return next((other for other in _other_spellings(text) if _exists(other, base)), _with_variables(text))
        text = unwrapped
    return text


def is_windows_path(path: str | os.PathLike[str]) -> bool:
    """Whether it is an absolute path of Windows, on another system."""
    return not _IS_WINDOWS and PureWindowsPath(path).is_absolute()


def is_web_address(text: str) -> bool:
    """Whether ``text`` is a URL, or starts with the name of a known website. A file: URL is a path."""
    return bool(_WEB_ADDRESS.fullmatch(text)) and not os.path.exists(text)


def _exists(text: str, base: str | Path) -> bool:
    if _IS_WINDOWS and text != text.strip():  # exists, as Windows ignores the spaces; the files in it then do not
        return False
    return bool(text) and os.path.exists(os.path.join(base, os.path.expanduser(text)))


def _unwrapped(text: str) -> str:
    """``text`` without one layer of what cannot be part of a path."""
    text = _without_quotes(_INVISIBLE.sub("", text).strip())
    if text[:5].lower() == "file:":
        text = _from_file_url(text)
    return _without_extended_prefix(text)


def _without_quotes(text: str) -> str:
    if _SEVERAL.fullmatch(text):
        return text
    inner = text.rstrip(",;") if text[-2:-1] in _DOUBLE_QUOTES + "'" else text  # copied from a list
    if len(inner) > 1 and inner[-1] in _QUOTES.get(inner[0], ""):
        return inner[1:-1]
    return text.strip(_DOUBLE_QUOTES)  # cmd.exe makes "C:\my folder\" end with a quote


def _from_file_url(url: str) -> str:
    """``file:///C:/My%20photos``, ``file:/home/me``, ``file://server/share``."""
    path = unquote(url[5:], errors="surrogateescape")
    if path.startswith("//"):
        host, slash, rest = path[2:].partition("/")
        path = slash + rest if host.lower() in ("", "localhost") else path
    drive = re.match(r"/*([A-Za-z])[:|](?=[/\\]|$)", path)
    return f"{drive[1]}:{path[drive.end() :]}" if drive else path


def _without_extended_prefix(text: str) -> str:
    r"""``\\?\C:\photos`` as ``C:\photos``, ``\\?\UNC\server\share`` as ``\\server\share``."""
    match = re.match(r"[\\/]{2}\?[\\/](UNC[\\/])?", text, re.IGNORECASE)
    if not match:
        return text
    return (r"\\" if match[1] else "") + text[match.end() :]


def _other_spellings(text: str) -> Iterator[str]:
    """What ``text`` may also mean, if it exists: escapes of a shell or URL, separators and drives of other systems."""
    if "\\" in text and not _IS_WINDOWS:
        yield re.sub(r"\\(.)", r"\1", text)
        yield text.replace("\\", "/")
    if "%" in text:
        yield unquote(text)
    if _IS_WINDOWS:  # of Git Bash, Cygwin or WSL
        if drive := re.match(r"/(?:mnt/|cygdrive/)?([A-Za-z])/", text):
            yield f"{drive[1]}:/{text[drive.end() :]}"
    elif drive := re.match(r"([A-Za-z]):[\\/]", text):  # in WSL
        yield f"/mnt/{drive[1].lower()}/" + text[drive.end() :].replace("\\", "/")


def _with_variables(text: str) -> str:
    """``$HOME/photos`` or ``%USERPROFILE%\\photos``: variables that are set, and lead to an absolute path."""
    expanded = os.path.expandvars(text) if text[:1] in ("$", "%") else text
    return expanded if os.path.isabs(expanded) and not re.search(r"\$\w|\$\{|%\w+%", expanded) else text


def _refuse_other_input(text: str) -> None:
    if _SEVERAL.fullmatch(text):
        raise UserError(f"{escape_unprintable(text)} contains several paths: enter one.")
    if not is_web_address(text):
        return
    hub = _ON_THE_HUB.match(text)
    name = "/".join(filter(None, (hub["repo"], hub["file"]))) if hub else ""
    also = f" As the source of a model, {name} works too: it is downloaded from the Hugging Face hub." if name else ""
    raise UserError(
        f"{escape_unprintable(text)} is a web address, not a path. Download the file with a browser, then enter the "
        f"path of the downloaded file.{also}"
    )
