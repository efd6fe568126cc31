"""The page: in a WebUI's tab, or served alone."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.hosts import Host, current_host

if TYPE_CHECKING:
    from dreambooth.ui.page_controller import PageController

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"


def build(host: Host | None = None) -> Any:
    """The page as Gradio Blocks: for ``host``, or for the tab of the WebUI around us."""
    from dreambooth.ui.page import Page
    from dreambooth.ui.page_controller import PageController

    return Page(PageController(host) if host else _webui_desk()).blocks()


@functools.cache
def _webui_desk() -> PageController:
    """The same one when *Reload UI* has the tab built anew: work that is going on there goes on."""
    from dreambooth.ui.page_controller import PageController

    return PageController(current_host())


def serve(
    port: int = 7861, models_dir: Path | None = None, listen: str = LOOPBACK, share: bool = False, auth: str = ""
) -> None:
    """Serve the page until Ctrl-C. ``auth``: NAME:PASSWORD, asked of everyone who opens it.

    Raises:
        UserError: when the port is taken, or when others could come in without a password.
    """
    name, colon, password = auth.partition(":")
    if auth and not (name and colon and password):
        raise UserError("--auth is NAME:PASSWORD.")
    if (share or listen != LOOPBACK) and not auth:
        raise UserError("Others could open this page and write to your disk: give --auth NAME:PASSWORD too.")
    with socket.socket() as probe:
        if probe.connect_ex((LOOPBACK, port)) == 0:
            raise UserError(f"Port {port} is taken: choose another with --port.")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing is sent anywhere

    from dreambooth.ui import gradio_versions

    host = current_host(models_dir)
    folders = host.folders()
    page = build(host)
    print(f"Dreambooth: http://{listen}:{port}  (models in {folders.models}; Ctrl-C ends it)", flush=True)
    gradio_versions.launch(
        page,
        server_name=listen,
        share=share,
        auth=[(name, password)] if auth else None,
        server_port=port,
        allowed_paths=[str(folders.dreambooth), str(folders.loras), str(folders.checkpoints)],
        css=(ROOT / "style.css").read_text(encoding="utf-8"),
        script=(ROOT / "javascript" / "dreambooth.js").read_text(encoding="utf-8"),
        quiet=True,
        show_api=False,
        ssr_mode=False,
        footer_links=[],
    )
