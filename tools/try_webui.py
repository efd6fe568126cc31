"""Test of the extension inside a real WebUI, on the CPU: the tab works, the WebUI works, and neither affects the other.

    python tools/try_webui.py DIR --kind a1111 --python DIR/venv/bin/python --out FOLDER
    python tools/try_webui.py DIR --kind forge ... --no-page --lora NAME --merged NAME
    python tools/try_webui.py DIR --kind forge ... --no-page --tests
    python tools/try_webui.py DIR --kind neo ... --no-page --interrupt

DIR is an installed WebUI with a Stable Diffusion 1.x checkpoint (random weights suffice). This repository is copied
into its extensions; the WebUI is started, tested and stopped, and new files in its models folder are removed. --model
"Embedded mini Z-Image" trains that one in the browser. --lora and --merged name results of `python -m dreambooth train`
and `generate-ckpt` for the WebUI's checkpoint, in its folders. --tests runs tests/browser on the tab. --interrupt ends
the WebUI in mid-training with SIGINT, SIGTERM and SIGKILL, starts it again and continues the run from its page. Results
are printed, one line per check, and written to FOLDER with the log and screenshots. Needs the requirements of
`python launch.py test`, and Chromium.
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
import signal
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
    "neo": "--cpu --skip-prepare-environment",  # its preparation needs CUDA
}
# Log messages of the WebUIs about keys that don't match the model.
MISMATCH = re.compile(
    r"didn't match keys|[Uu]nmatched keys|[Mm]ismatch|skipped [1-9]|Couldn't find network|Missing: \["
)


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
    def running(self, timeout: float = 900) -> Iterator[subprocess.Popen[bytes]]:
        # A1111 only reports unmatched LoRA keys at this level
        quiet = {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "0", "SD_WEBUI_LOG_LEVEL": "DEBUG"}
        with self.log.open("w") as out:
            command = [*self.command, "--port", str(self.port)]
            process = subprocess.Popen(
                command, cwd=self.folder, env={**os.environ, **quiet}, stdout=out, stderr=subprocess.STDOUT
            )
            try:
                until = time.monotonic() + timeout
                while not self.starts():
                    assert process.poll() is None and time.monotonic() < until, (
                        f"The WebUI did not start; see {self.log}"
                    )
                    time.sleep(1)
                yield process
            finally:
                process.terminate()
                process.wait(60)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def starts(self) -> int:
        """Number of times it has built its page: once, and once more per *Reload UI*."""
        return self.log_text().count("Startup time")

    def mismatches(self, since: int) -> list[str]:
        return [line[:300] for line in self.log_text()[since:].splitlines() if MISMATCH.search(line)]

    def request(self, path: str, body: dict[str, Any] | None = None, timeout: float = 1800) -> Any:
        data = None if body is None else json.dumps(body).encode()
        http_request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(http_request, timeout=timeout) as response:
            return json.loads(response.read() or "null")

    def txt2img(self, prompt: str = "a cup on a table") -> np.ndarray:
        """Pixels of a small image generated through the API; identical unless something has changed."""
        parameters = {"prompt": prompt, "seed": 1, "steps": 2, "width": 64, "height": 64, "sampler_name": "Euler"}
        image = base64.b64decode(self.request("/sdapi/v1/txt2img", parameters)["images"][0])
        return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=float)

    def use(self, checkpoint: str) -> None:
        self.request("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})

    def install_extension(self, at: Path) -> None:
        """Copy this repository, compiled as at every start of a WebUI but the first."""
        shutil.copytree(ROOT, at, ignore=_not_installed)
        subprocess.run([self.python, "-m", "compileall", "-q", str(at)], check=True)

    def packages(self) -> set[str]:
        command = [self.python, "-m", "pip", "list", "--format=freeze", "--disable-pip-version-check"]
        return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


class Trial:
    """``model``: title of the embedded model that the tour trains."""

    def __init__(self, webui: WebUI, out: Path, model: str) -> None:
        self.webui, self.out, self.model = webui, out, model
        self.results: list[tuple[str, bool, Any]] = []

    def check(self, what: str, ok: bool, detail: Any = "") -> None:
        self.results.append((what, bool(ok), detail))
        print(f"{'  ok  ' if ok else 'FAILED'} {what}: {detail}", flush=True)
        lines = [{"what": what, "ok": ok, "detail": detail} for what, ok, detail in self.results]
        (self.out / "results.json").write_text(json.dumps(lines, indent=1, default=str))

    def installing(self, before: set[str]) -> None:
        after = self.webui.packages()
        self.check("no package was changed or removed", before <= after, sorted(before - after))
        self.check("packages that install.py added", True, sorted(after - before))
        took = min(self._install() for _ in range(9))
        self.check("install.py with everything installed takes < 0.3 s", took < 0.3, round(took, 3))

    def _install(self) -> float:
        started = time.perf_counter()
        command = [self.webui.python, str(ROOT / "install.py")]
        output = subprocess.run(command, cwd=self.webui.folder, capture_output=True, text=True, check=True).stdout
        assert not output, output
        return time.perf_counter() - started

    def traces(self) -> None:
        probe = self.webui.request("/dreambooth-probe")
        cost = {what: probe[what] for what in ("import_s", "build_s", "collector_s", "modules")}
        self.check(
            "importing the extension and building the tab takes < 1 s", probe["import_s"] + probe["build_s"] < 1, cost
        )
        self.check("no heavy package was imported", not probe["heavy"], probe["heavy"])
        self.check("loading the extension changed nothing", not probe["changed"], probe["changed"])

    def page(self) -> None:
        """A user's tour: create from the embedded model, train, and use txt2img meanwhile."""
        before, state = self.webui.txt2img(), self.webui.request("/dreambooth-probe")["now"]
        self.check("txt2img works before", before.std() > 0, f"contrast {before.std():.1f}")
        with self._visitor() as visitor:
            visitor.screenshot(self.out / "tab.png")
            self.check("the tab exists", visitor.page.is_visible("#db_page"))
            self._fresh_pages(visitor)
            self._tour(visitor, before)
            self.check("the browser's console has no errors", not visitor.problems, visitor.problems)
            self.check("txt2img works after", not difference(self.webui.txt2img(), before))
            now = self.webui.request("/dreambooth-probe")["now"]
            changed = {name: [state[name], now[name]] for name in now if state[name] != now[name]}
            self.check("creating, training and exporting changed no global state", not changed, changed)
            self._reload_ui(visitor)
        self.check("txt2img works after Reload UI", not difference(self.webui.txt2img(), before))

    def _fresh_pages(self, visitor: Any, n: int = 20) -> None:
        """Create offers the WebUI's own checkpoint first, on every page, although the WebUI refills its list then."""
        titles = {model["title"] for model in self.webui.request("/sdapi/v1/sd-models")}
        chosen = self.webui.request("/sdapi/v1/options").get("sd_model_checkpoint") or next(iter(titles))
        found = []
        for _ in range(n):
            visitor.reload()
            visitor.tab("Create")
            found.append(visitor.value("new_model_src"))
        right = [title for title in found if _stem(title) == _stem(chosen)]
        self.check(f"{n} fresh pages in a row preselect the WebUI's checkpoint", len(right) == n, sorted({*found}))

    def _lists(self, visitor: Any, lora: str, checkpoint: str) -> None:
        """New files are in the WebUI's lists and on the cards of the page that was open all the time."""
        names = [model["name"] for model in self.webui.request("/sdapi/v1/loras")]
        self.check("the WebUI lists the new LoRA", lora in names, names)
        titles = [model["title"] for model in self.webui.request("/sdapi/v1/sd-models")]
        self.check("the WebUI lists the new checkpoint", any(_stem(title) == checkpoint for title in titles), titles)
        for cards, name in (("lora", lora), ("checkpoints", checkpoint)):
            found = visitor.page.evaluate(
                "async ([id, name]) => { for (let n = 0; n < 120; n++) {"
                " const cards = document.getElementById(id);"
                " if (cards && cards.innerHTML.includes(name)) return true;"
                " await new Promise((done) => setTimeout(done, 500)); } return false }",
                [f"txt2img_{cards}_cards", name],
            )
            self.check(f"the open page has a card for it: {cards}", found, name)

    def _tour(self, visitor: Any, before: np.ndarray) -> None:
        name = f"toy-{int(time.time())}"
        visitor.create(name, self.model)
        visitor.tab("Select")
        visitor.sees_value("model_name", name)
        visitor.tab("Settings")
        visitor.fill(num_train_epochs=20)
        visitor.check("use_lora")
        visitor.tab("Concepts")
        visitor.open_accordions()
        visitor.fill(c1_num_class_images_per=1, c1_class_prompt="a toy", c1_class_infer_steps=4)
        visitor.press("train")
        visitor.sees("status", ": class images")
        visitor.screenshot(self.out / "class-images.png")
        visitor.sees("status", "step ")
        generated = list((self.webui.models / "dreambooth" / name / "classifiers_0").glob("*.png"))
        self.check("class images are generated", len(generated) == 6, len(generated))
        visitor.screenshot(self.out / "training.png")
        with ThreadPoolExecutor() as other:
            requested = time.monotonic()
            generation = other.submit(lambda: (self.webui.txt2img(), time.monotonic()))
            visitor.sees("status", "Training finished")
            done = time.monotonic()
            self.check("training completes", True, visitor.text("status"))
            image, answered = generation.result()
        visitor.screenshot(self.out / "done.png")
        self.check("txt2img waits during training", answered > done - 2, f"{answered - requested:.1f} s")
        self.check("and then generates the identical image", not difference(image, before))
        loras = sorted((self.webui.models / "Lora").glob(f"{name}*.safetensors"))
        self.check("the LoRA is saved", len(loras) == 1, [path.name for path in loras])
        visitor.press("generate_ckpt")
        visitor.sees("files", "Checkpoint")
        visitor.screenshot(self.out / "generated.png")
        checkpoints = sorted((self.webui.models / "Stable-diffusion").glob(f"{name}*.safetensors"))
        self._lists(visitor, loras[-1].stem, checkpoints[-1].stem)

    def _reload_ui(self, visitor: Any) -> None:
        """During a run, which continues and is controlled from the rebuilt page."""
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
        self.check("a run continues through Reload UI", step(visitor) > at, f"step {at}, then {step(visitor)}")
        visitor.screenshot(self.out / "reloaded.png")
        visitor.press("pause")
        visitor.sees("status", "Paused.")
        visitor.page.wait_for_timeout(10_000)  # the current step ends
        at = step(visitor)
        visitor.page.wait_for_timeout(10_000)
        self.check("it can be paused after Reload UI", step(visitor) == at, visitor.text("status"))
        visitor.press("pause")
        visitor.sees("pause", "Pause")
        visitor.press("cancel")
        visitor.sees("status", "Training was canceled")
        self.check("and runs until it is canceled", True, visitor.text("status"))

    def interruptions(self, minutes: float = 0.2) -> None:
        """The WebUI ends while a run trains; after its next start the page offers to continue the run.

        ``minutes``: between two automatic snapshots, for SIGKILL, which leaves no time for one. The other signals are
        tried with the default.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            name = f"{number.name.lower()}-{int(time.time())}"
            with self.webui.running() as process, self._visitor() as visitor:
                visitor.create(name)
                visitor.tab("Settings")
                visitor.fill(num_train_epochs=100_000)
                if number == signal.SIGKILL:
                    visitor.fill(autosave_minutes=minutes)
                visitor.press("train")
                visitor.sees("status", ": step ")
                visitor.page.wait_for_timeout(3 * minutes * 60_000)
                before = step(visitor)
                process.send_signal(number)
                process.wait(300)
            with self.webui.running(), self._visitor() as visitor:
                visitor.choose("model_name", name)
                visitor.sees("resume_offer", name)
                visitor.page.wait_for_selector("#db_resume", state="visible")
                offer = visitor.text("resume_offer")
                visitor.screenshot(self.out / f"{number.name.lower()}.png")
                visitor.press("resume")
                visitor.sees("status", f"{name}: step ")
                after = step(visitor)
                least = 1 if number == signal.SIGKILL else before
                self.check(f"after {number.name} the page continues the run", after > least, [before, after, offer])
                visitor.press("cancel")
                visitor.sees("status", "canceled")

    @contextlib.contextmanager
    def _visitor(self) -> Iterator[Any]:
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            yield visitors()(browser, self.webui.url)
            browser.close()

    def tests(self, arguments: list[str]) -> None:
        """Run the browser tests on the WebUI's tab instead of the standalone page."""
        where = {"url": self.webui.url, "models": str(self.webui.models), "log": str(self.webui.log.absolute())}
        command = [sys.executable, "-m", "pytest", "-n", "0", "-v", "--timeout", "3600", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "DREAMBOOTH_TRIAL": json.dumps(where)}, capture_output=True, text=True
        )
        (self.out / "tests.log").write_text(done.stdout + done.stderr)
        self.check("the browser tests pass", not done.returncode, (done.stdout.splitlines() or [done.stderr])[-1])

    def files(self, lora: str, merged: str, weight: float) -> None:
        """A LoRA, and the checkpoint with it merged in: the WebUI generates the same images with both."""
        self.webui.request("/sdapi/v1/refresh-loras", {})
        self.webui.request("/sdapi/v1/refresh-checkpoints", {})
        titles = [model["title"] for model in self.webui.request("/sdapi/v1/sd-models")]
        log_size = len(self.webui.log_text())
        self.webui.use(next(title for title in titles if not title.startswith(merged)))
        plain = self.webui.txt2img()
        with_lora = self.webui.txt2img(f"a cup on a table <lora:{lora}:{weight:g}>")
        change = difference(with_lora, plain)
        self.check("the LoRA changes the image", change > 1, f"by {change:.2f} of 255")
        self.check("without the LoRA the image is unchanged", not difference(self.webui.txt2img(), plain))
        self.webui.use(next(title for title in titles if title.startswith(merged)))
        both = self.webui.txt2img()
        apart = difference(both, with_lora)
        self.check("the merged checkpoint gives the image of the LoRA", apart < change / 5, f"{apart:.2f} of 255 apart")
        mismatches = self.webui.mismatches(log_size)
        self.check("no key was left over", not mismatches, mismatches)


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    webui = WebUI(args.webui.resolve(), args.kind, str(args.python.absolute()), args.out)
    trial = Trial(webui, args.out, args.model)
    before = webui.packages()
    with (
        extension(webui.folder, "dreambooth", webui.install_extension),
        extension(webui.folder, "dreambooth-probe", put_probe),
        removing_new_files(webui.models),
    ):
        with webui.running():
            trial.installing(before)
            trial.traces()
            if args.lora:
                trial.files(args.lora, args.merged, args.lora_weight)
            if args.tests is not None:
                trial.tests(args.tests or ["tests/browser"])
            if args.page:
                trial.page()
        if args.interrupt:
            trial.interruptions()
        renamed = sorted(map(str, webui.folder.glob("models/**/*.corrupted")))
        trial.check("no file of the user was renamed", not renamed, renamed)
    return int(not all(ok for _, ok, _ in trial.results))


def _not_installed(folder: str, names: list[str]) -> set[str]:
    """What a copy of the repository leaves out: caches, and the user's models and tests at the top."""
    top = {"build", "models", "tests"} if Path(folder) == ROOT else set()
    return {name for name in names if name.startswith(".") or name == "__pycache__" or name in top}


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two images, 0 to 255."""
    return float(np.abs(one - other).mean())


def _stem(title: str) -> str:
    """The file name in a checkpoint's title, without its ending and hash."""
    return Path(title.split(" [")[0]).stem


def step(visitor: Any) -> int:
    """The current step of the run on the page."""
    found = re.search(r"step (\d+)", visitor.text("status"))
    return int(found[1]) if found else -1


def visitors() -> type:
    """The Visitor class of the browser tests, which finds our tab among the WebUI's."""
    sys.path.insert(0, str(ROOT))
    from tests.browser.visitor import Visitor

    return Visitor


@contextlib.contextmanager
def removing_new_files(models: Path) -> Iterator[None]:
    """Remove new files from the folders that the extension writes to, afterwards."""
    folders = [models / name for name in ("dreambooth", "Lora", "Stable-diffusion", "VAE", "taggers")]
    existing = {path for folder in folders for path in folder.glob("*")}
    try:
        yield
    finally:
        for path in {path for folder in folders for path in folder.glob("*")} - existing:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


@contextlib.contextmanager
def extension(webui: Path, name: str, put: Callable[[Path], None]) -> Iterator[None]:
    """A folder in the WebUI's extensions, removed afterwards."""
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


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("webui", type=Path, metavar="DIR")
    parser.add_argument("--kind", choices=FLAGS, default="a1111")
    parser.add_argument("--python", type=Path, required=True, help="Python of the WebUI's environment")
    parser.add_argument("--out", type=Path, default=Path("webui-trial"), metavar="FOLDER")
    parser.add_argument("--model", default="Embedded mini model", metavar="TITLE", help="that the tour trains")
    parser.add_argument("--lora", metavar="NAME")
    parser.add_argument("--merged", metavar="NAME")
    parser.add_argument("--lora-weight", type=float, default=1.0, metavar="X", help="of the LoRA, also in --merged")
    parser.add_argument("--tests", nargs="*", metavar="ARG", help="also run the browser tests; arguments go to pytest")
    parser.add_argument("--interrupt", action="store_true", help="end the WebUI in mid-training, and continue")
    parser.add_argument("--no-page", dest="page", action="store_false", help="skip the tour in the browser")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
