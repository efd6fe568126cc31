"""Our extension inside a real WebUI, on the CPU: does the tab work, does the WebUI, do they leave each other alone?

    python tools/try_webui.py DIR --kind a1111 --python DIR/venv/bin/python --out FOLDER
    python tools/try_webui.py DIR --kind forge ... --no-page --lora NAME --merged NAME
    python tools/try_webui.py DIR --kind forge ... --no-page --tests

DIR is a WebUI that starts by itself and has a checkpoint of Stable Diffusion 1.x, of random weights for all it
matters. This repository is copied into its extensions; it is started, looked at and ended, and what was made in its
models folder is taken away again. --lora and --merged name what `python -m dreambooth train` and `generate-ckpt` made
of that checkpoint and what lies in the WebUI's folders. --tests has the tab stand the tests of the page, those of
tests/browser. What was seen is printed, one line a check, and lies in FOLDER with the WebUI's log and pictures of the
page. Needs what `python launch.py test` installs, and Chromium.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
COMMON = "--api --skip-torch-cuda-test --skip-version-check --skip-python-version-check"
FLAGS = {
    "a1111": "--no-download-sd-model --disable-nan-check --use-cpu all --no-half --precision full",
    "forge": "--no-download-sd-model --disable-nan-check --always-cpu",  # reForge and forge-classic too
    "neo": "--cpu --skip-prepare-environment",  # it prepares for CUDA only
}
# What the WebUIs write when names in a file don't fit the model.
MISFIT = re.compile(r"didn't match keys|[Uu]nmatched keys|[Mm]ismatch|skipped [1-9]|Couldn't find network|Missing: \[")


class WebUI:
    """A WebUI's process, its API and its log."""

    def __init__(self, folder: Path, kind: str, python: str, out: Path) -> None:
        self.folder, self.python, self.log = folder, python, out / "webui.log"
        self.models = folder / "models"
        self.command = [python, "launch.py", *COMMON.split(), *FLAGS[kind].split()]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self, patience: float = 900) -> Iterator[None]:
        # A1111 says only at this level that a LoRA's names don't fit
        quiet = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "0", "SD_WEBUI_LOG_LEVEL": "DEBUG"}
        with self.log.open("w") as out:
            command = [*self.command, "--port", str(self.port)]
            process = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **quiet}, stdout=out, stderr=subprocess.STDOUT
            )
            try:
                until = time.monotonic() + patience
                while not self.starts():
                    assert process.poll() is None and time.monotonic() < until, f"it did not start; see {self.log}"
                    time.sleep(1)
                yield
            finally:
                process.terminate()
                process.wait(60)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def starts(self) -> int:
        """How often it has built its page: once, and once more at each *Reload UI*."""
        return self.said().count("Startup time")

    def misfits(self, since: int) -> list[str]:
        return [line[:300] for line in self.said()[since:].splitlines() if MISFIT.search(line)]

    def ask(self, path: str, body: dict[str, Any] | None = None, timeout: float = 1800) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read() or "null")

    def draw(self, prompt: str = "a cup on a table") -> np.ndarray:
        """A small picture's pixels, through the API; the same whenever nothing has changed."""
        asked = {"prompt": prompt, "seed": 1, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
        picture = base64.b64decode(self.ask("/sdapi/v1/txt2img", asked)["images"][0])
        return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=float)

    def use(self, checkpoint: str) -> None:
        self.ask("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})

    def put_ours(self, at: Path) -> None:
        """Compiled, as the WebUI has us at each start but the first."""
        shutil.copytree(ROOT, at, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "models", "tests"))
        subprocess.run([self.python, "-m", "compileall", "-q", str(at)], check=True)

    def packages(self) -> set[str]:
        command = [self.python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


class Trial:
    def __init__(self, webui: WebUI, out: Path) -> None:
        self.webui, self.out = webui, out
        self.seen: list[tuple[str, bool, Any]] = []

    def check(self, what: str, good: bool, seen: Any = "") -> None:
        self.seen.append((what, bool(good), seen))
        print(f"{'  ok  ' if good else 'FAILED'} {what}: {seen}", flush=True)
        lines = [{"what": what, "good": good, "seen": seen} for what, good, seen in self.seen]
        (self.out / "seen.json").write_text(json.dumps(lines, indent=1, default=str))

    def installing(self, before: set[str]) -> None:
        after = self.webui.packages()
        self.check("no package was changed or taken away", before <= after, sorted(before - after))
        self.check("packages that we added", True, sorted(after - before))
        took = min(self._install() for _ in range(9))
        self.check("install.py when all is there < 0.3 s", took < 0.3, round(took, 3))

    def _install(self) -> float:
        started = time.perf_counter()
        command = [self.webui.python, str(ROOT / "install.py")]
        said = subprocess.run(command, cwd=self.webui.folder, capture_output=True, text=True, check=True).stdout
        assert not said, said
        return time.perf_counter() - started

    def traces(self) -> None:
        probe = self.webui.ask("/dreambooth-probe")
        cost = {what: probe[what] for what in ("import_s", "build_s", "collector_s", "modules")}
        self.check("importing us and building the tab < 1 s", probe["import_s"] + probe["build_s"] < 1, cost)
        self.check("nothing heavy was imported", not probe["heavy"], probe["heavy"])
        self.check("loading us changed nothing", not probe["changed"], probe["changed"])

    def page(self) -> None:
        """A person's tour: create from the embedded model, train, and ask txt2img for a picture meanwhile."""
        from playwright.sync_api import sync_playwright

        before, state = self.webui.draw(), self.webui.ask("/dreambooth-probe")["now"]
        self.check("txt2img works before", before.std() > 0, f"contrast {before.std():.1f}")
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            visitor = visitors()(browser, self.webui.url)
            visitor.screenshot(self.out / "tab.png")
            self.check("the tab is there", visitor.page.is_visible("#db_page"))
            self._tour(visitor, before)
            self.check("the browser's console has no errors", not visitor.problems, visitor.problems)
            self.check("txt2img works after", not difference(self.webui.draw(), before))
            now = self.webui.ask("/dreambooth-probe")["now"]
            changed = {name: [state[name], now[name]] for name in now if state[name] != now[name]}
            self.check("creating, training and exporting left nothing changed", not changed, changed)
            self._reload_ui(visitor)
            browser.close()
        self.check("txt2img works after that", not difference(self.webui.draw(), before))

    def _tour(self, visitor: Any, before: np.ndarray) -> None:
        name = f"toy-{int(time.time())}"
        visitor.tab("Create")
        visitor.choose("new_model_src", "Embedded mini model")
        visitor.create(name)
        visitor.tab("Select")
        visitor.sees_value("model_name", name)
        visitor.tab("Settings")
        visitor.fill(num_train_epochs=20)
        visitor.tab("Concepts")
        visitor.unfold_all()
        visitor.fill(c1_num_class_images_per=1, c1_class_prompt="a toy", c1_class_infer_steps=4)
        visitor.press("train")
        visitor.sees("status", ": class images")
        visitor.screenshot(self.out / "class-images.png")
        visitor.sees("status", "step ")
        drawn = list((self.webui.models / "dreambooth" / name / "classifiers_0").glob("*.png"))
        self.check("class images are drawn", len(drawn) == 6, len(drawn))
        visitor.screenshot(self.out / "training.png")
        with ThreadPoolExecutor() as other:
            asked = time.monotonic()
            drawing = other.submit(lambda: (self.webui.draw(), time.monotonic()))
            visitor.sees("status", "Training is done")
            done = time.monotonic()
            self.check("training runs to its end", True, visitor.text("status"))
            picture, answered = drawing.result()
        visitor.screenshot(self.out / "done.png")
        self.check("txt2img waits meanwhile", answered > done - 2, f"{answered - asked:.1f} s")
        self.check("and draws the very same picture then", not difference(picture, before))
        visitor.press("generate_ckpt")
        visitor.sees("files", "Checkpoint")

    def _reload_ui(self, visitor: Any) -> None:
        """In the middle of a run, that goes on and is steered from the page that is built anew."""
        visitor.tab("Settings")
        visitor.fill(num_train_epochs=100_000)
        visitor.press("train")
        visitor.sees("status", ": step ")
        at, starts = step(visitor), self.webui.starts()
        visitor.page.evaluate("document.getElementById('settings_restart_gradio').click()")
        while self.webui.starts() == starts:
            visitor.page.wait_for_timeout(1000)
        visitor.page.goto(self.webui.url)
        visitor.arrive()
        visitor.sees("status", ": step ")
        self.check("a run goes on through Reload UI", step(visitor) > at, f"step {at}, then {step(visitor)}")
        visitor.screenshot(self.out / "reloaded.png")
        visitor.press("pause")
        visitor.sees("status", "Paused.")
        visitor.page.wait_for_timeout(10_000)  # the step that was going on ends
        at = step(visitor)
        visitor.page.wait_for_timeout(10_000)
        self.check("it can be paused then", step(visitor) == at, visitor.text("status"))
        visitor.press("pause")
        visitor.sees("pause", "Pause")
        visitor.press("cancel")
        visitor.sees("status", "Training was cancelled")
        self.check("and goes on until it is cancelled", True, visitor.text("status"))

    def tests(self, words: list[str]) -> None:
        """The tests of the page, with the WebUI's tab for the page that stands alone."""
        where = {"url": self.webui.url, "models": str(self.webui.models), "log": str(self.webui.log.absolute())}
        command = [sys.executable, "-m", "pytest", "-n", "0", "-v", "--timeout", "3600", *words]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "DREAMBOOTH_TRIAL": json.dumps(where)}, capture_output=True, text=True
        )
        (self.out / "tests.log").write_text(done.stdout + done.stderr)
        self.check("the tests of the page pass", not done.returncode, (done.stdout.splitlines() or [done.stderr])[-1])

    def files(self, lora: str, merged: str) -> None:
        """A LoRA, and the checkpoint that has it merged in: the WebUI draws the same with either."""
        self.webui.ask("/sdapi/v1/refresh-loras", {})
        self.webui.ask("/sdapi/v1/refresh-checkpoints", {})
        titles = [model["title"] for model in self.webui.ask("/sdapi/v1/sd-models")]
        said = len(self.webui.said())
        self.webui.use(next(title for title in titles if not title.startswith(merged)))
        plain = self.webui.draw()
        with_lora = self.webui.draw(f"a cup on a table <lora:{lora}:1>")
        change = difference(with_lora, plain)
        self.check("the LoRA changes the picture", change > 1, f"by {change:.2f} of 255")
        self.check("and without it the picture is as it was", not difference(self.webui.draw(), plain))
        self.webui.use(next(title for title in titles if title.startswith(merged)))
        both = self.webui.draw()
        apart = difference(both, with_lora)
        self.check("the merged checkpoint draws as the LoRA does", apart < change / 5, f"{apart:.2f} of 255 apart")
        misfits = self.webui.misfits(said)
        self.check("no key was left over", not misfits, misfits)


def main(words: list[str]) -> int:
    args = arguments(words)
    args.out.mkdir(parents=True, exist_ok=True)
    webui = WebUI(args.webui.resolve(), args.kind, str(args.python.absolute()), args.out)
    trial = Trial(webui, args.out)
    before = webui.packages()
    with (
        extension(webui.folder, "dreambooth", webui.put_ours),
        extension(webui.folder, "dreambooth-probe", put_probe),
        taken_away(webui.models),
        webui.running(),
    ):
        trial.installing(before)
        trial.traces()
        if args.lora:
            trial.files(args.lora, args.merged)
        if args.tests is not None:
            trial.tests(args.tests or ["tests/browser"])
        if args.page:
            trial.page()
        spoilt = sorted(map(str, webui.folder.glob("models/**/*.corrupted")))
        trial.check("no file of the user's was renamed", not spoilt, spoilt)
    return int(not all(good for _, good, _ in trial.seen))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """How far two pictures are apart, on average, of 255."""
    return float(np.abs(one - other).mean())


def step(visitor: Any) -> int:
    """Which one the run on the page is at."""
    found = re.search(r"step (\d+)", visitor.text("status"))
    return int(found[1]) if found else -1


def visitors() -> type:
    """The tests' visitor, who finds our tab among the WebUI's."""
    sys.path.insert(0, str(ROOT))
    from tests.browser.visitor import Visitor

    return Visitor


@contextlib.contextmanager
def taken_away(models: Path) -> Iterator[None]:
    """What comes into the folders that we write to is gone afterwards."""
    folders = [models / name for name in ("dreambooth", "Lora", "Stable-diffusion", "VAE", "taggers")]
    there = {path for folder in folders for path in folder.glob("*")}
    try:
        yield
    finally:
        for path in {path for folder in folders for path in folder.glob("*")} - there:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def extension(webui: Path, name: str, put: Callable[[Path], None]) -> Iterator[None]:
    """A folder in the WebUI's extensions, as long as this lasts."""
    at = webui / "extensions" / name
    shutil.rmtree(at, ignore_errors=True)
    put(at)
    try:
        yield
    finally:
        shutil.rmtree(at)


def put_probe(at: Path) -> None:
    at.mkdir()
    shutil.copy(ROOT / "tools" / "webui_probe.py", at / "preload.py")


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("webui", type=Path, metavar="DIR")
    parser.add_argument("--kind", choices=FLAGS, default="a1111")
    parser.add_argument("--python", type=Path, required=True, help="of the WebUI's environment")
    parser.add_argument("--out", type=Path, default=Path("webui-trial"), metavar="FOLDER")
    parser.add_argument("--lora", metavar="NAME")
    parser.add_argument("--merged", metavar="NAME")
    parser.add_argument("--tests", nargs="*", metavar="WORD", help="run those of the page too; words go to pytest")
    parser.add_argument("--no-page", dest="page", action="store_false", help="leave the browser out")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
