"""One complete reading of a picture file, and what it tells; read again only when the file has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from dreambooth.images.color import Finding
from dreambooth.images.decoding import decoded
from dreambooth.images.file_reader import Reader, look_at, read_state
from dreambooth.images.issues import UnusableFile
from dreambooth.images.metadata_cache import ImageMetadataCache
from dreambooth.images.near_duplicates import Look, fingerprint_of

# What a file is like stays so; whether it can be read at all may be another thing the next time.
_LASTING = ("unreadable", "truncated", "too-large")


@dataclass(frozen=True, slots=True)
class ProbedImage:
    """What one complete reading of a picture file tells."""

    size: tuple[int, int]  # width, height in pixels, upright (after the EXIF orientation)
    content: str  # sha256 of the file's bytes, hex
    findings: tuple[Finding, ...] = ()  # what had to be done with it: kind of note, text
    look: Look | None = None  # fingerprint of what can be seen


def probe(path: str | Path, known: ImageMetadataCache | None = None, reader: Reader | None = None) -> ProbedImage:
    """Read the file once, hash it and decode it completely, unless it is ``known``.

    Raises Unusable that names the file. ``reader`` is the thread that this goes on in.
    """
    if known:
        before = known.get(path, look_at(path))
        if before and os.access(path, os.R_OK):
            return _from_plain(before, path)
    data, state = read_state(path, *([reader.beat] if reader else []))
    if reader:
        reader.rest()
    try:
        picture = decoded(data, path)
        content = hashlib.sha256(data).hexdigest()
        seen = ProbedImage(picture.image.size, content, picture.findings, fingerprint_of(picture.image))
    except UnusableFile as error:
        if known and error.kind in _LASTING and not isinstance(error.__cause__, MemoryError):
            known.put(path, state, {"kind": error.kind, "cause": error.cause})
        raise
    if known:
        known.put(path, state, dataclasses.asdict(seen))
    return seen


def _from_plain(values: dict, path: str | Path) -> ProbedImage:
    if "cause" in values:
        raise UnusableFile(path, values["kind"], values["cause"])
    findings = tuple((kind, text) for kind, text in values["findings"])
    look = Look(*values["look"]) if values["look"] else None
    return ProbedImage(tuple(values["size"]), values["content"], findings, look)
