"""A stand-in for a vLLM server: it checks requests as vLLM does, and answers with a transformers model. Faults can be ordered."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from lloco_integrations.backends.stopping import StopStrings
from lloco_integrations.backends.transformers import TransformersBackend
from lloco_integrations.types import GenerationParams, ResolvedPrompt


@dataclass
class FakeVLLM:
    """``backend`` answers; ``adapters``: name -> path. ``faults``: what the next requests meet, in order: a status, "drop" or "slow"."""

    backend: TransformersBackend
    hidden_size: int
    adapters: dict[str, str] = field(default_factory=dict)
    faults: list[int | str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    window: int = 4096
    loads: bool = False
    aborted: threading.Event = field(default_factory=threading.Event)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def models(self) -> list[dict[str, Any]]:
        base = {"id": "tiny", "root": "/models/tiny", "parent": None, "max_model_len": self.window}
        return [base, *({"id": n, "root": p, "parent": "tiny", "max_model_len": None} for n, p in self.adapters.items())]

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = body["model"]
        if name not in {"tiny", *self.adapters}:
            return 404, {"error": {"message": f"The model `{name}` does not exist."}}
        if "prompt" in body:
            return 400, {"error": {"message": "both a prompt and prompt_embeds"}}
        rows = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        if rows.ndim != 2 or rows.shape[1] != self.hidden_size:
            return 400, {"error": {"message": f"prompt_embeds of the wrong shape {tuple(rows.shape)}"}}
        params = GenerationParams(
            body["max_tokens"], body["temperature"], body["top_p"], body["top_k"], body["repetition_penalty"], tuple(body["stop"])
        )
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            time.sleep(0.02)
            prompt, stopping = ResolvedPrompt((rows,), len(rows), len(rows)), StopStrings(self.backend.tokenizer, params.stop)
            (ids,) = self.backend._run([prompt], params, [self.adapters.get(name)], stopping)
        finally:
            with self._lock:
                self._now -= 1
        reason = "length" if len(ids) == params.max_new_tokens and ids[-1] not in self.backend.ends else "stop"
        return 200, {"choices": [{"token_ids": ids if body["return_token_ids"] else None, "finish_reason": reason}]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeVLLM

    def do_GET(self) -> None:
        if not self._faulty():
            self._json(200, {"data": self.fake.models()})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self._faulty():
            return
        if self.path == "/v1/load_lora_adapter":
            if self.fake.loads:
                self.fake.adapters[body["lora_name"]] = body["lora_path"]
            self._json(200 if self.fake.loads else 404, {})
            return
        self.fake.bodies.append(body)
        self.fake.headers.append({k.lower(): v for k, v in self.headers.items()})
        status, answer = self.fake.answer(body)
        if not body.get("stream") or status != 200:
            self._json(status, answer)
            return
        self.send_response(200)
        self.send_header("connection", "close")
        self.end_headers()
        (choice,) = answer["choices"]
        half = self.fake.faults.pop(0) if self.fake.faults else None
        try:
            for i, token in enumerate(choice["token_ids"]):
                if half == "half" and i == 2:
                    return
                self._event({"choices": [{"token_ids": [token], "finish_reason": None}]})
                time.sleep(0.01)
            self._event({"choices": [{"token_ids": None, "finish_reason": choice["finish_reason"]}]})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.fake.aborted.set()

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def _faulty(self) -> bool:
        fault = self.fake.faults[0] if self.fake.faults else None
        if fault is None or fault == "half":
            return False
        self.fake.faults.pop(0)
        if fault == "drop":
            self._hang_up()
        elif fault == "slow":
            time.sleep(1.0)
            self._hang_up()
        else:
            self._json(int(fault), {"error": {"message": "ordered by the test"}})
        return True

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, status: int, data: Any) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


@contextmanager
def running(fake: FakeVLLM) -> Iterator[str]:
    """The address of ``fake`` while it runs."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
