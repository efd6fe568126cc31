"""Reading a WebUI's list of files while it may be refilling it.

The WebUIs clear a list and fill it again at start, on every load of a page (Forge Neo) and when files are refreshed, in
threads of their own. What is read at that moment is empty or has only a part of the files.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

Files = list[tuple[str, Path]]  # (title in the host, file)

PAUSE = 0.05  # seconds between two reads
ATTEMPTS = 40


class FileList:
    """A list of the host that is read until it is complete, for two seconds at most.

    ``read`` returns the host's list as it is. ``on_disk`` returns the files that it should hold; a host that has not
    been told of a new file yet lacks it for longer, so that the list is accepted as it is then, and from then on.
    """

    def __init__(
        self, read: Callable[[], Files], on_disk: Callable[[], set[Path]], wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._read, self._on_disk, self._wait = read, on_disk, wait
        self._accepted: Files | None = None
        self._lock = threading.Lock()  # pages that load at the same time wait for one reader

    def get(self) -> Files:
        """The host's list. The last complete one if the host's can't be read."""
        with self._lock:
            found = self._try_read()
            if found is not None and found == self._accepted:
                return found
            found = self._stable(found)
            if found is not None:
                self._accepted = found
            return list(self._accepted or [])

    def _stable(self, last: Files | None) -> Files | None:
        """The list once it is complete and two reads in a row agree; when time is up, the last one that was read.

        ``last``: what was just read.
        """
        expected = _normalized(path for _, path in self._accepted or [] if path.exists())
        expected |= _normalized(self._on_disk())
        for _ in range(ATTEMPTS):
            self._wait(PAUSE)
            found = self._try_read()
            if found is not None and found == last and expected <= _normalized(path for _, path in found):
                return found
            last = found if found is not None else last
        return last

    def _try_read(self) -> Files | None:
        """None when the host changes the list at this moment."""
        try:
            return self._read()
        except (RuntimeError, LookupError, AttributeError):
            return None


def _normalized(paths: Iterable[Path]) -> set[str]:
    return {os.path.normcase(os.path.abspath(path)) for path in paths}
