"""A real vLLM server over a tiny random model. `make test-vllm` makes the environment that these tests want."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from tests import tiny
from tests.test_backend import save_adapter

WIDTH = 128
WINDOW = 1024
START = 400.0
"""Seconds that a server may take to start on a busy machine; about 40 on a quiet one."""


@dataclass
class Server:
    """A server that can be killed and started again at the same address."""

    arguments: list[str]
    port: int
    log: Path
    process: subprocess.Popen[bytes] | None = None
    _out: IO[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
        self._out = self.log.open("ab")
        self.process = subprocess.Popen(self.arguments, stdout=self._out, stderr=subprocess.STDOUT, env=environment, start_new_session=True)

    def wait(self) -> None:
        import httpx

        until = time.monotonic() + START
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        raise AssertionError(f"the server did not start in {START:.0f} s:\n{self.log.read_text()[-4000:]}")

    def kill(self) -> None:
        """At once, with its engine."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        if self._out is not None:
            self._out.close()


@pytest.fixture(scope="session")
def served_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Head size 32: what vLLM's attention takes on a CPU."""
    return str(tiny.save_mean_pool(tmp_path_factory.mktemp("served") / "tiny", window=WINDOW, hidden=WIDTH))


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: str(save_adapter(folder / name, seed, hidden=WIDTH)) for name, seed in (("handbook", 1), ("report", 2))}


@pytest.fixture(scope="session")
def server(served_model: str, adapters: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started as its users start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words: list[Any] = [
        sys.executable,
        "-m",
        "lloco_integrations.cli",
        "serve",
        "--model",
        served_model,
        "--port",
        port,
        "--dtype",
        "float32",
    ]
    words += [w for name, path in adapters.items() for w in ("--adapter", f"{name}={path}")]
    words += ["--load-adapters", "--max-model-len", WINDOW, "--", "--max-num-seqs", 64]
    made = Server([str(w) for w in words], port, tmp_path_factory.mktemp("log") / "server.log")
    made.start()
    try:
        made.wait()
        yield made
    finally:
        made.kill()
