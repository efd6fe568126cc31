"""Thumbnails of users' images as data: URIs, cached on disk. A WebUI serves only files in its own folders."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dreambooth import files
from dreambooth.errors import UserError
from dreambooth.settings import Folders

SMALL, LARGE = 256, 1280  # pixels of the longer side
_QUALITY = {SMALL: 80, LARGE: 88}
_THREADS = 2  # each holds one decoded image
_MAX_CACHED = 20_000  # files, of about 10 kB each


class Thumbnails:
    """Cached in models/dreambooth/.cache/thumbnails by path, size and modification time of the image."""

    def __init__(self, folders: Folders) -> None:
        self.folder = folders.dreambooth / ".cache" / "thumbnails"

    def small(self, paths: Sequence[str]) -> list[str]:
        """A data: URI for each image, "" for one that can't be read."""
        with ThreadPoolExecutor(max_workers=_THREADS) as pool:
            return list(pool.map(self._small, paths))

    def large(self, path: str) -> str:
        """One image in large as a data: URI; not cached."""
        return _uri(_jpeg(path, LARGE))

    def remove_oldest(self) -> None:
        """Limit the cache to its maximum size."""
        with contextlib.suppress(OSError):
            cached = sorted(self.folder.glob("*.jpg"), key=lambda path: path.stat().st_mtime)
            for path in cached[: max(0, len(cached) - _MAX_CACHED)]:
                path.unlink()

    def _small(self, path: str) -> str:
        try:
            stat = Path(path).stat()
        except (OSError, ValueError):
            return ""
        key = hashlib.sha256(repr((path, stat.st_size, stat.st_mtime_ns)).encode(errors="surrogateescape"))
        cached = self.folder / f"{key.hexdigest()[:32]}.jpg"
        with contextlib.suppress(OSError):
            return _uri(cached.read_bytes())
        jpeg = _jpeg(path, SMALL)
        if jpeg:
            with contextlib.suppress(UserError), files.atomic_write(cached, durable=False) as temporary:
                temporary.write_bytes(jpeg)
        return _uri(jpeg)


def _jpeg(path: str, side: int) -> bytes:
    """The image, scaled to fit a square of ``side`` pixels, as a JPEG; empty if it can't be read."""
    from dreambooth.images.decoding import open_image

    try:
        image = open_image(path)
    except UserError:
        return b""
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY[side])
    return stream.getvalue()


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""
