"""Metadata of an image file (size, hash, findings, fingerprint) from decoding it once, or from the cache."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.images.color import Finding
from dreambooth.images.decoding import decode_image
from dreambooth.images.file_reader import Reader, file_status, no_heartbeat, read_with_status
from dreambooth.images.issues import UnusableFile
from dreambooth.images.metadata_cache import ImageMetadataCache
from dreambooth.images.near_duplicates import Fingerprint, fingerprint_of

# Issues that depend on the file's content alone; others, such as missing permissions, may be gone the next time.
_CACHED_ISSUES = ("unreadable", "truncated", "too-large")


@dataclass(frozen=True, slots=True)
class ProbedImage:
    """The metadata of a completely decoded image file."""

    size: tuple[int, int]  # width, height in pixels, upright (after the EXIF orientation)
    content: str  # sha256 of the file's bytes, hex
    findings: tuple[Finding, ...] = ()  # conversions that decoding needed
    fingerprint: Fingerprint | None = None  # None for a nearly plain image


def probe(
    path: str | Path, metadata_cache: ImageMetadataCache | None = None, reader: Reader | None = None
) -> ProbedImage:
    """Read the file once, hash it and decode it completely, unless it is in ``metadata_cache``.

    ``reader`` is the calling thread, if it is one of :func:`read_all`. UnusableFile that names the file.
    """
    if metadata_cache:
        cached = metadata_cache.get(path, file_status(path))
        if cached and os.access(path, os.R_OK):
            return _from_cache(cached, path)
    data, status = read_with_status(path, reader.heartbeat if reader else no_heartbeat)
    if reader:
        reader.stop_timeout()
    try:
        decoded = decode_image(data, path)
        content = hashlib.sha256(data).hexdigest()
        probed = ProbedImage(decoded.image.size, content, decoded.findings, fingerprint_of(decoded.image))
    except UnusableFile as error:
        if metadata_cache and error.kind in _CACHED_ISSUES and not isinstance(error.__cause__, MemoryError):
            metadata_cache.put(path, status, {"kind": error.kind, "cause": error.cause})
        raise
    if metadata_cache:
        metadata_cache.put(path, status, _to_cache(probed))
    return probed


def _to_cache(probed: ProbedImage) -> dict[str, Any]:
    """The keys are part of the cache's format."""
    return {
        "size": probed.size,
        "content": probed.content,
        "findings": probed.findings,
        "look": probed.fingerprint,
    }


def _from_cache(values: dict[str, Any], path: str | Path) -> ProbedImage:
    if "cause" in values:
        raise UnusableFile(path, values["kind"], values["cause"])
    findings = tuple((kind, text) for kind, text in values["findings"])
    fingerprint = Fingerprint(*values["look"]) if values["look"] else None
    return ProbedImage(tuple(values["size"]), values["content"], findings, fingerprint)
