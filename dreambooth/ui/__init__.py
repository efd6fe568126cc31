"""The page: in a tab of a WebUI, or served standalone."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreambooth.errors import UserError
from dreambooth.hosts import Host, StandaloneHost, current_host

if TYPE_CHECKING:
    from dreambooth.ui.page_controller import PageController

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"


def build(host: Host | None = None) -> Any:
    """The page as Gradio Blocks, for ``host`` or for the WebUI that runs this process."""
    from dreambooth.ui.page import Page
    from dreambooth.ui.page_controller import PageController

    return Page(PageController(host) if host else _webui_controller()).blocks()


@functools.cache
def _webui_controller() -> PageController:
    """One per process: a running job survives *Reload UI*, which builds the page again."""
    from dreambooth.ui.page_controller import PageController

    return PageController(current_host())


def serve(
    port: int = 7861,
    models_dir: Path | None = None,
    listen: str = LOOPBACK,
    share: bool = False,
    auth: str = "",
    language: str = "auto",
) -> None:
    """Serve the page until Ctrl-C. ``auth``: NAME:PASSWORD, required to open it. ``language``: auto, en or zh.

    Raises:
        UserError: if the port is in use, or if others could open the page without a password.
    """
    name, colon, password = auth.partition(":")
    if auth and not (name and colon and password):
        raise UserError("--auth must be NAME:PASSWORD.")
    if (share or listen != LOOPBACK) and not auth:
        raise UserError("Others could open this page and write to your disk. Add --auth NAME:PASSWORD.")
    with socket.socket() as probe:
        if probe.connect_ex((LOOPBACK, port)) == 0:
            raise UserError(f"Port {port} is in use. Choose another one with --port.")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # send no usage data

    from dreambooth.ui import gradio_versions

    host = StandaloneHost(models_dir, "" if language == "auto" else language)
    folders = host.folders()
    page = build(host)
    print(f"Dreambooth: http://{listen}:{port}  (models in {folders.models}; press Ctrl-C to stop)", flush=True)
    gradio_versions.launch(
        page,
        server_name=listen,
        share=share,
        auth=[(name, password)] if auth else None,
        server_port=port,
        allowed_paths=[str(folders.dreambooth), str(folders.loras), str(folders.checkpoints)],
        css=(ROOT / "style.css").read_text(encoding="utf-8"),
        script="\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "javascript").glob("*.js"))),
        quiet=True,
        show_api=False,
        ssr_mode=False,
        footer_links=[],
    )
