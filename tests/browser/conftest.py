"""The page, served by a process of its own, and a browser."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.browser.gradios import PINS, python_with
from tests.browser.visitor import PATIENCE, Visitor

ROOT = Path(__file__).resolve().parents[2]
# From tools/try_webui.py: the running WebUI to test instead.
WEBUI = json.loads(os.environ.get("DREAMBOOTH_TRIAL", "null"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OLD = [pytest.param(version, marks=pytest.mark.nightly, id=f"gradio-{version}") for version in PINS]


@dataclass
class Served:
    url: str
    models: Path
    log: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(folder: Path, python: str, module: str = "dreambooth.ui") -> Iterator[Served]:
    """Start ``launch.py ui`` as a user does, or another ``module``, in the environment of ``python``."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [python, "-m", module, "--port", str(port), "--models-dir", str(folder / "models")]
    log = folder / "log.txt"
    with log.open("a") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        try:
            url = f"http://127.0.0.1:{port}"
            until = time.monotonic() + PATIENCE / 1000
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(url, timeout=5)
                    break
                assert process.poll() is None and time.monotonic() < until, (
                    f"the page did not start:\n{log.read_text()}"
                )
                time.sleep(0.2)
            yield Served(url, folder / "models", log)
        finally:
            process.terminate()
            process.wait(30)


SINGLE_PROCESS = [pytest.param("", id="gradio-alone"), *OLD]


@pytest.fixture(scope="session", params=[pytest.param(None, id="webui")] if WEBUI else SINGLE_PROCESS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page, with the Gradio of ``launch.py`` and those of the WebUIs; or in a running WebUI."""
    if WEBUI:
        yield Served(WEBUI["url"], Path(WEBUI["models"]), Path(WEBUI["log"]))
        return
    with serving(tmp_path_factory.mktemp("page"), python_with(request.param)) as page:
        yield page


@pytest.fixture(scope="package")
def browser() -> Iterator[object]:
    """The system's Chromium, headless, through Playwright. Nothing is downloaded."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    with api.sync_playwright() as playwright:
        # no-sandbox: it is not available in containers that run as root
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visitor(served, browser) -> Iterator[Visitor]:
    visitor = Visitor(browser, served.url)
    yield visitor
    visitor.cancel_job()
    visitor.close()


@pytest.fixture(scope="package")
def onlooker(served, browser) -> Iterator[Visitor]:
    """A visitor shared by tests that save nothing, since the page takes seconds to open."""
    visitor = Visitor(browser, served.url)
    yield visitor
    visitor.close()
