"""Models of the hub, from a small server that answers as the hub does: found, cached, gated, private, gone, away."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dreambooth.checkpoints.extract import extract
from dreambooth.checkpoints.hub import hub_id
from dreambooth.checkpoints.single_file import write_checkpoint
from tests import fork_server

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_right"
AWAY = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody listens there

# The hub's address and its cache are read once, as huggingface_hub is imported.
CLIENT = """
import json, sys
from dreambooth.checkpoints.hub import download
from dreambooth.errors import UserError
answers = []
for source, token in json.loads(sys.argv[1]):
    try:
        answers.append([str(download(source, token)), ""])
    except UserError as error:
        answers.append(["", str(error)])
print(json.dumps(answers))
"""


class Hub(ThreadingHTTPServer):
    """``repos``: id to {file: path}. Those named gated, private or broken behave accordingly."""

    def __init__(self, repos: dict[str, dict[str, Path]]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos = repos
        self.n_downloads = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_info = parts[:2] == ["api", "models"]
        repo, rest = "/".join(parts[2:4] if is_info else parts[:2]), parts[2:]
        files, token = self.server.repos.get(repo), self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token != TOKEN:
            return self._refuse(401, message="Invalid credentials in Authorization header")
        if files is None or ("private" in repo and not token):
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if "broken" in repo:
            return self._refuse(500, message="Internal error")
        if is_info:
            siblings = [{"rfilename": name} for name in files]
            return self._send(json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode())
        if "gated" in repo and not token:
            return self._refuse(401, "GatedRepo", f"Access to model {repo} is restricted.")
        path = files.get("/".join(rest[2:]))
        if path is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        self.server.n_downloads += self.command == "GET"
        self._send(path.read_bytes())

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        sent = {"ETag": f'"{hash(body):x}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(body)), **headers}
        for name, value in sent.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        self._send(b"{}", status, X_Error_Code=code, X_Error_Message=message)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub(created: Path, mini_checkpoint: Path):
    working = created / "dreambooth" / "mini" / "working"
    folder = {str(path.relative_to(working).as_posix()): path for path in working.rglob("*") if path.is_file()}
    single = {"mini.safetensors": mini_checkpoint, "README.md": working / "model_index.json"}
    names = ("open", "gated", "private", "broken")
    server = Hub({**{f"org/{name}": folder for name in names}, "org/single": single})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def ask(hub, tmp_path: Path):
    """Download (source, token) pairs in a process with its own cache."""

    def run(*asked: tuple[str, str], **env: str) -> list[tuple[str, str]]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))
        }
        address = {"HF_ENDPOINT": hub.address, "NO_PROXY": "127.0.0.1", "HF_HOME": str(tmp_path / "hf")}
        done = fork_server.run(
            "-c",
            CLIENT,
            json.dumps(asked),
            env={**inherited, **address, "HF_HUB_DISABLE_TELEMETRY": "1", **env},
            cwd=fork_server.ROOT,
            fresh=fork_server.HUB,
        )
        assert done.returncode == 0, done.stderr
        return [(path, error) for path, error in json.loads(done.stdout)]

    return run


def test_a_model_is_downloaded_once_and_then_cached(ask, hub, new, tmp_path, mini_checkpoint, read_all):
    """Also when the hub can't be reached afterwards, in offline mode or not."""
    [(folder, error), (file, _)] = ask(("org/open", ""), ("org/single/mini.safetensors", ""))
    assert not error and extract(Path(folder), new, origin="org/open").src == "org/open"
    ours, source = read_all(write_checkpoint(new, tmp_path / "out.safetensors")), read_all(mini_checkpoint)
    assert all(ours[key].equal(source[key]) for key in ours)
    assert Path(file).read_bytes() == mini_checkpoint.read_bytes()
    n_downloads = hub.n_downloads
    asked = (("org/open", ""), ("org/single/mini.safetensors", ""))
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert ask(*asked, **env) == [(folder, ""), (file, "")]
    assert ask(("org/open", ""), **AWAY) == [(folder, "")]
    assert hub.n_downloads == n_downloads


REFUSED = {
    "gated": (("org/gated", ""), "org/gated is gated: accept its terms on huggingface.co/org/gated and enter a token"),
    "private": (("org/private", ""), "or enter a token if the model is private"),
    "not there": (("org/absent", ""), "org/absent is neither a local file or folder nor a model on the hub"),
    "not there for this account": (("org/absent", TOKEN), "nor a model on the hub"),
    "wrong token": (
        ("org/open", "hf_wrong"),
        "The hub refused to download org/open (status 401): the token is invalid",
    ),
    "no diffusers folder": (("org/single", ""), "enter one of its files, like org/single/mini.safetensors"),
    "no such file": (("org/single/other.safetensors", ""), "org/single has no other.safetensors on the hub"),
    "the hub's own fault": (("org/broken", ""), "The hub refused to download org/broken (status 500)"),
}


def test_errors_of_the_hub_become_messages(ask):
    asked = [source for source, _ in REFUSED.values()]
    for what, (path, error) in zip(REFUSED, ask(*asked), strict=True):
        assert REFUSED[what][1] in error and "\n" not in error and not path, what


def test_a_token_gives_access_to_gated_and_private_models(ask):
    for path, error in ask(("org/gated", TOKEN), ("org/private", TOKEN)):
        assert not error and (Path(path) / "model_index.json").is_file()


@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, AWAY], ids=["offline", "away"])
def test_unreachable_hub(ask, env):
    asked = [("org/open", ""), ("org/single/mini.safetensors", "")]
    for path, error in ask(*(asked[:1] if env == AWAY else asked), **env):  # the library asks for files six times
        assert not path and "can't be reached" in error and "\n" not in error


def test_hub_ids_and_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub_id("org/name") == ("org/name", "")
    assert hub_id("org/name/sub/a b.safetensors") == ("org/name", "sub/a b.safetensors")
    paths = ("here/name", "./here", "C:\\models\\a", "/models/a", "a.safetensors", "models/a.ckpt", "组/模型", "../a")
    assert [hub_id(path) for path in paths] == [None] * len(paths)
