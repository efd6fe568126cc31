"""The WebUI around us, behind one small contract. Nothing else in the package imports a WebUI's modules."""

from __future__ import annotations

import sys
from pathlib import Path

from dreambooth.hosts.contract import Host
from dreambooth.hosts.standalone import Alone

__all__ = ["Alone", "Host", "current_host"]


def current_host(models_dir: Path | None = None) -> Host:
    """The WebUI that runs in this process, else a stand-in with ``models_dir`` as its models folder."""
    if "modules.script_callbacks" in sys.modules and models_dir is None:
        from dreambooth.hosts.a1111 import A1111

        return A1111()
    return Alone(models_dir)
