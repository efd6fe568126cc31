"""Python processes that start at once: forks of a server that has already imported the large libraries.

Importing torch, diffusers and transformers takes longer than most of what a test does in a process of its own. A fork
is a process like any other: it has its own pid, can be killed, gets signals, exits with a code. What it runs is given
as to ``python``: ``-m MODULE ARGS`` or ``-c CODE ARGS``. Nothing of this package is imported before the fork. Where
forking is not safe (Windows, macOS), :func:`start` starts an ordinary process instead.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# By the names under which the package asks for them: diffusers and transformers import a class when it is asked for.
TRAINING = (
    "torch", "safetensors.torch", "PIL.Image", "accelerate", "diffusers:AutoencoderKL", "diffusers:DDIMScheduler",
    "diffusers:UNet2DConditionModel", "transformers:CLIPTextModel", "transformers:CLIPTokenizer",
)  # fmt: skip
# These read the environment while they are imported.
HUB = ("huggingface_hub", "transformers", "diffusers", "accelerate", "tokenizers")

_NUMBER = struct.Struct("q")


class Process:
    """What :class:`subprocess.Popen` offers, of a fork."""

    def __init__(self, args: Sequence[str], out: int, err: int, status: int) -> None:
        self.args = args
        self.stdout = open(out, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 (closed by communicate)
        self.stderr = open(err, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        self._status = status
        self.returncode: int | None = None
        self.pid = self._read()

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(self._read())
            os.close(self._status)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it still prints, and its end."""
        texts = ["", ""]

        def read(number: int, file: Any) -> None:
            with file:
                texts[number] = file.read()

        readers = [threading.Thread(target=read, args=pair) for pair in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _read(self) -> int:
        data = os.read(self._status, _NUMBER.size)
        assert len(data) == _NUMBER.size, "the fork server has ended"
        return _NUMBER.unpack(data)[0]


def start(
    *args: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    imported: Sequence[str] = TRAINING,
    fresh: Sequence[str] = (),
) -> Any:
    """Start ``python ARGS``. ``imported`` is there before it starts; ``fresh``: packages that it imports itself."""
    words, folder, environment = [str(arg) for arg in args], str(cwd or Path.cwd()), dict(env or os.environ)
    if sys.platform != "linux":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, *words], env=environment, cwd=folder, text=True, **pipes)
    request = {"args": words, "cwd": folder, "env": environment, "imported": imported, "fresh": fresh}
    (out, their_out), (err, their_err), (status, their_status) = os.pipe(), os.pipe(), os.pipe()
    theirs = [their_out, their_err, their_status]
    data = json.dumps(request).encode()
    try:
        connection = _server()
        socket.send_fds(connection, [_NUMBER.pack(len(data))], theirs)
        connection.sendall(data)
    finally:
        for handle in theirs:
            os.close(handle)
    return Process(words, out, err, status)


def run(*args: object, timeout: float = 600, **more: Any) -> subprocess.CompletedProcess[str]:
    """:func:`start`, to its end."""
    process = start(*args, **more)
    try:
        out, err = process.communicate(timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


_connection: socket.socket | None = None


def _server() -> socket.socket:
    """The connection to this process's own server, which ends with it."""
    global _connection
    if _connection is None:
        ours, theirs = socket.socketpair()
        # In a session of its own: Ctrl-C at the terminal is for the tests.
        server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fork_server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()], cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True,
            env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        theirs.close()
        atexit.register(server.wait)  # so that its time counts as that of the tests
        atexit.register(ours.close)
        _connection = ours
    return _connection


# -- in the server ---------------------------------------------------------------------------------------------------


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Fork once for each request. Returns in a fork, with what it is to run; the server itself never returns."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, int] = {}
    done: set[str] = set()
    while True:
        readable, _, _ = select.select([connection, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            _announce_ends(running)
        if connection not in readable:
            continue
        head, handles, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
        if not head:
            os._exit(0)  # the tests have ended
        request = json.loads(_receive(connection, _NUMBER.unpack(head)[0]))
        if not done.issuperset(request["imported"]):
            for name in request["imported"]:
                _import(name)
            done.update(request["imported"])
            gc.collect()
            gc.freeze()  # no fork copies all of this only to look for garbage in it
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(handles[0], 1)
            os.dup2(handles[1], 2)
            for handle in (woken, wake, connection.detach(), *handles, *running.values()):
                os.close(handle)
            return request
        out, err, running[pid] = handles
        os.close(out)
        os.close(err)
        os.write(running[pid], _NUMBER.pack(pid))


def _receive(connection: socket.socket, n_bytes: int) -> bytes:
    data = array.array("b")
    while len(data) < n_bytes:
        data.frombytes(connection.recv(n_bytes - len(data)))
    return data.tobytes()


def _announce_ends(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        handle = running.pop(pid)
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it
            os.write(handle, _NUMBER.pack(status))
        os.close(handle)


def _import(name: str) -> None:
    module, _, attribute = name.partition(":")
    imported = importlib.import_module(module)
    if attribute:
        getattr(imported, attribute)


def _become(request: dict[str, Any], own_path: list[str]) -> None:
    """From here on this process is the one that was asked for."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (for life)
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    for name in [name for name in sys.modules if name.partition(".")[0] in request["fresh"]]:
        del sys.modules[name]
    how, what, *words = request["args"]
    extra = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [request["cwd"] if how == "-m" else "", *extra, *own_path]
    sys.argv = [how, *words]
    if how == "-m":
        import runpy

        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    own_path = sys.path[1:]  # without the folder that it was started in
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))), own_path)
