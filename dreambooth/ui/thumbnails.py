"""Small versions of people's pictures, made once, as text that a page can show wherever it is served."""

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

SMALL, LARGE = 256, 1280  # pixels of the longer side
_QUALITY = {SMALL: 80, LARGE: 88}
_MAKERS = 2  # each holds one decoded picture
_MOST_KEPT = 20_000  # of about 10 kB


class Thumbnails:
    """Kept in ``folder`` by a file's path, size and time of change: an edited picture has another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def small(self, paths: Sequence[str]) -> list[str]:
        """A data: URI for each, "" where there is no picture to be seen."""
        with ThreadPoolExecutor(max_workers=_MAKERS) as pool:
            return list(pool.map(self._small, paths))

    def large(self, path: str) -> str:
        """As :meth:`small`, to look at one of them; not kept."""
        return _uri(_made(path, LARGE))

    def tidy(self) -> None:
        """Remove the oldest where there are too many."""
        with contextlib.suppress(OSError):
            kept = sorted(self.folder.glob("*.jpg"), key=lambda path: path.stat().st_mtime)
            for path in kept[: max(0, len(kept) - _MOST_KEPT)]:
                path.unlink()

    def _small(self, path: str) -> str:
        try:
            stat = Path(path).stat()
        except (OSError, ValueError):
            return ""
        key = hashlib.sha256(repr((path, stat.st_size, stat.st_mtime_ns)).encode(errors="surrogateescape"))
        kept = self.folder / f"{key.hexdigest()[:32]}.jpg"
        with contextlib.suppress(OSError):
            return _uri(kept.read_bytes())
        made = _made(path, SMALL)
        if made:
            with contextlib.suppress(UserError), files.atomic_write(kept, durable=False) as beside:
                beside.write_bytes(made)
        return _uri(made)


def _made(path: str, side: int) -> bytes:
    """A JPEG of the picture as people see it; nothing where it can't be read."""
    from dreambooth.images.decoding import open_image

    try:
        picture = open_image(path)
    except UserError:
        return b""
    picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY[side])
    return stream.getvalue()


def _uri(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" if jpeg else ""
