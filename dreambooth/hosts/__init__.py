"""The WebUI that hosts the extension, behind one small interface. No other package imports a WebUI's modules."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from dreambooth.hosts.contract import Host
from dreambooth.hosts.standalone import StandaloneHost

__all__ = ["Host", "StandaloneHost", "current_host"]


def current_host(models_dir: Path | None = None) -> Host:
    """The WebUI of this process, or a :class:`StandaloneHost` with ``models_dir`` as its models folder."""
    if "modules.script_callbacks" in sys.modules and models_dir is None:
        return _webui()
    return StandaloneHost(models_dir)


@functools.cache
def _webui() -> Host:
    """One for the process: it knows what was read last of the WebUI's lists, and who has the queue."""
    from dreambooth.hosts.a1111 import A1111Host

    return A1111Host()
