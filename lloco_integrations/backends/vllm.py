"""The decoder on a vLLM server: a thin client of ``/v1/completions`` with ``prompt_embeds``.

Answers come back as token ids and are decoded here, as with the transformers backend. Stock OpenAI clients always send a text prompt beside
the embeddings, and the server then answers both; hence a client of our own. Prompt embeddings travel as ``torch.save`` bytes, which only a
server that trusts its clients should read: keep it inside your network.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lloco_integrations.backends.base import Backend, one_each
from lloco_integrations.backends.rows import PromptRows, check_room
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.backends.stopping import Unfolding, finished
from lloco_integrations.errors import IncompatibleAdapter, LLoCOError, ServerError
from lloco_integrations.fingerprint import adapter_identity
from lloco_integrations.types import Generation, GenerationChunk, GenerationParams, ResolvedPrompt

if TYPE_CHECKING:
    import httpx

TIMEOUT = 120.0
RETRIES = 3
CONCURRENT = 32
"""Requests of one batch that are under way at a time; the server puts them into one forward pass."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
_BUSY = 429


class Served(NamedTuple):
    """A model of the server: ``parent`` is None for a base model, ``root`` the path that it was loaded from, there."""

    name: str
    root: str
    parent: str | None
    window: int | None


class VLLMBackend(Backend):
    """See the module. Nothing is asked of the server before the first prompt, or the first question about the window.

    Args:
        runtime: where the server is; see Runtime for timeouts and retries.
        rows: makes prompts' tensors.
        decode: an answer's ids -> its text.
        window: the decoder's own; the server's ``--max-model-len`` may be smaller.
        ends: ids that end an answer.
    """

    def __init__(
        self, runtime: Runtime, rows: PromptRows, decode: Callable[[list[int]], str], *, window: int = 1 << 30, ends: Sequence[int] = ()
    ) -> None:
        self.runtime = runtime
        self.rows = rows
        self.decode = decode
        self.ends = list(ends)
        self._own_window = window
        self._clients: dict[int, httpx.Client] = {}
        self._lock = threading.Lock()
        self._models: dict[str, Served] = {}

    @cached_property
    def window(self) -> int:
        """Positions that prompt and answer share on the server. Raises ServerError if it cannot be asked."""
        return min(self._own_window, self.base.window or self._own_window)

    @property
    def base(self) -> Served:
        """The base model on the server. Raises ServerError if that is not clear."""
        wanted = self.runtime.served_model
        bases = [m for m in (self._models or self.refresh()).values() if m.parent is None]
        found = [m for m in bases if wanted in (None, m.name)]
        if len(found) != 1:
            names = ", ".join(m.name for m in bases) or "none"
            raise ServerError(
                f"the server at {self.runtime.url} has the base models {names}; name one of them with served_model (now {wanted})"
            )
        return found[0]

    def refresh(self) -> dict[str, Served]:
        """Ask the server for its models, by name."""
        with _explained(self.runtime):
            data = self._retried(lambda: self._checked(self._client().get("/v1/models"))).json()["data"]
        self._models = {m["id"]: Served(m["id"], str(m.get("root", "")), m.get("parent"), m.get("max_model_len")) for m in data}
        return self._models

    def generate(
        self, prompts: Sequence[ResolvedPrompt], params: GenerationParams, adapters: Sequence[str | None] | None = None
    ) -> list[Generation]:
        paths = one_each(adapters, len(prompts))
        bodies = [self._body(prompt, params, path) for prompt, path in zip(prompts, paths, strict=True)]
        if len(bodies) < 2:
            answers = [self._complete(self._client(), body) for body in bodies]
        else:
            answers = self._together(bodies)
        return [self._generation(p, a["choices"][0], params, path) for p, a, path in zip(prompts, answers, paths, strict=True)]

    def stream(self, prompt: ResolvedPrompt, params: GenerationParams, adapter: str | None = None) -> Iterator[GenerationChunk]:
        return self._pieces(prompt, self._body(prompt, params, adapter) | {"stream": True}, params, adapter)

    def _pieces(
        self, prompt: ResolvedPrompt, body: dict[str, Any], params: GenerationParams, adapter: str | None
    ) -> Iterator[GenerationChunk]:
        """Leaving this early closes the connection, which ends the request on the server."""
        answer, reason = Unfolding(self.decode, params.stop), None
        with _explained(self.runtime):
            response = self._retried(lambda: self._opened(body))
            try:
                for event in _events(response):
                    if "error" in event:
                        raise ServerError(
                            f"the server at {self.runtime.url} failed in the middle of an answer: {event['error']}; ask again"
                        )
                    for choice in event["choices"]:
                        reason = choice["finish_reason"] or reason
                        if more := answer.add(choice["token_ids"] or ()):
                            yield GenerationChunk(more)
            finally:
                response.close()
        if reason is None:
            raise ServerError(
                f"the server at {self.runtime.url} broke off in the middle of an answer, after {answer.shown[-40:]!r}; ask again"
            )
        final = self._generation(prompt, {"token_ids": answer.ids, "finish_reason": reason}, params, adapter)
        yield GenerationChunk(final.text[len(answer.shown) :], final)

    def _together(self, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers of a batch. When one fails, or the caller is interrupted, the connections of all are closed, which ends the others'
        work on the server, too."""
        client = self._made()
        pool = ThreadPoolExecutor(min(CONCURRENT, len(bodies)), thread_name_prefix="lloco-vllm")
        try:
            return list(pool.map(lambda body: self._complete(client, body), bodies))
        finally:
            client.close()
            pool.shutdown(wait=False, cancel_futures=True)

    def _complete(self, client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
        with _explained(self.runtime):
            answer: dict[str, Any] = self._retried(lambda: self._checked(client.post("/v1/completions", content=json.dumps(body)))).json()
        return answer

    def _opened(self, body: dict[str, Any]) -> httpx.Response:
        client = self._client()
        response = client.send(client.build_request("POST", "/v1/completions", content=json.dumps(body)), stream=True)
        if response.status_code != 200:
            response.read()
            response.close()
        return self._checked(response)

    def _body(self, prompt: ResolvedPrompt, params: GenerationParams, path: str | None) -> dict[str, Any]:
        """The request for one prompt; everything about it is checked."""
        check_room(prompt, self.window)
        body: dict[str, Any] = {
            "model": self.base.name if path is None else self._adapter(path),
            "prompt_embeds": encoded(self.rows.of(prompt)),
            "max_tokens": max(1, min(params.max_new_tokens, self.window - prompt.n_positions)),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "repetition_penalty": params.repetition_penalty,
            "stop": [s for s in params.stop if s],
            "return_token_ids": True,
        }
        return body if params.seed is None else body | {"seed": params.seed}

    def _adapter(self, path: str) -> str:
        """The server's name for the adapter at ``path``: that name itself, or the one that was loaded from ``path``."""
        for known in (self._models, None):
            for model in (self.refresh() if known is None else known).values():
                if model.parent is not None and (model.name == path or _same(model.root, path)):
                    return model.name
        if self.runtime.load_adapters:
            return self._load(path)
        names = ", ".join(m.name for m in self._models.values() if m.parent is not None) or "none"
        raise IncompatibleAdapter(
            f"the server at {self.runtime.url} has no adapter {path!r} (it has: {names}); start it with lloco serve --adapter NAME={path}, give the "
            f"name that it has there, or let it load adapters (load_adapters=True)"
        )

    def _load(self, path: str) -> str:
        name = f"{Path(path).name}-{adapter_identity(path)[-8:]}"
        with _explained(self.runtime):
            response = self._client().post(
                "/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(Path(path).expanduser().absolute())}
            )
        if response.status_code == 404:
            raise IncompatibleAdapter(
                f"the server at {self.runtime.url} loads no adapters while it runs; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True "
                f"(lloco serve --load-adapters), or with --adapter NAME={path}"
            )
        if response.status_code != 200:
            raise IncompatibleAdapter(f"the server at {self.runtime.url} cannot load the adapter {path}: {_said(response)}")
        self.refresh()
        return name

    def _generation(self, prompt: ResolvedPrompt, choice: dict[str, Any], params: GenerationParams, adapter: str | None) -> Generation:
        ids = choice.get("token_ids")
        if ids is None:
            raise ServerError(f"the server at {self.runtime.url} gives no token ids; it needs vLLM 0.11 or newer")
        return finished(prompt, ids, choice["finish_reason"], self.decode, params.stop, adapter)

    def _client(self) -> httpx.Client:
        """One for each process: connections do not survive a fork."""
        with self._lock:
            if os.getpid() not in self._clients:
                self._clients = {os.getpid(): self._made()}
            return self._clients[os.getpid()]

    def _made(self) -> httpx.Client:
        import httpx

        headers = {"content-type": "application/json"}
        if self.runtime.api_key:
            headers["authorization"] = f"Bearer {self.runtime.api_key}"
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONCURRENT)
        return httpx.Client(base_url=self.runtime.url, headers=headers, timeout=self.runtime.timeout or TIMEOUT, limits=limits)

    def _retried(self, ask: Any) -> httpx.Response:
        """``ask()``, again after a while where nobody answered or the server had a fault of its own. A timeout is not tried again: the
        server would do the work twice."""
        import httpx

        tries = RETRIES if self.runtime.max_retries is None else self.runtime.max_retries
        for n in range(tries + 1):
            try:
                response: httpx.Response = ask()
                return response
            except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout, _Again):
                if n == tries:
                    raise
            time.sleep(min(_LONGEST_WAIT, _FIRST_WAIT * 2**n) * random.uniform(0.5, 1.0))
        raise AssertionError

    def _checked(self, response: httpx.Response) -> httpx.Response:
        """``response`` if it is an answer."""
        if response.status_code == 200:
            return response
        said = _said(response)
        if response.status_code >= 500 or response.status_code == _BUSY:
            raise _Again(f"the server at {self.runtime.url} failed ({response.status_code}: {said}); see its log, then ask again")
        if response.status_code in (401, 403):
            raise ServerError(f"the server at {self.runtime.url} refuses the key ({response.status_code}: {said}); give api_key=")
        hint = (
            "start it with --enable-prompt-embeds, as lloco serve does"
            if "prompt-embeds" in said or "prompt_embeds" in said
            else "see lloco serve"
        )
        raise ServerError(f"the server at {self.runtime.url} refuses the request ({response.status_code}: {said}); {hint}")


class _Again(ServerError):
    """A fault of the server's own: the same request may succeed."""


def encoded(rows: torch.Tensor) -> str:
    """``rows`` as the server wants them: base64 of ``torch.save``; a view would bring its whole storage along."""
    held = io.BytesIO()
    torch.save(rows.contiguous().clone(), held)
    return base64.b64encode(held.getvalue()).decode()


@contextmanager
def _explained(runtime: Runtime) -> Iterator[None]:
    """Whatever goes wrong on the way becomes a ServerError that says what to do."""
    import httpx

    try:
        yield
    except LLoCOError:
        raise
    except httpx.ConnectError as error:
        raise ServerError(
            f"there is no server at {runtime.url} ({error}); start one with lloco serve, or give its address as base_url"
        ) from error
    except httpx.TimeoutException as error:
        seconds = runtime.timeout or TIMEOUT
        raise ServerError(
            f"the server at {runtime.url} was silent for {seconds:g} seconds; give a longer timeout, or shorter answers"
        ) from error
    except (httpx.HTTPError, httpx.StreamError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServerError(
            f"the server at {runtime.url} broke off or spoke in riddles: {type(error).__name__}: {error}; ask again"
        ) from error


def _events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The server-sent events of an answer."""
    for line in response.iter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            yield json.loads(data)


def _said(response: httpx.Response) -> str:
    """What an error's body says."""
    try:
        body = response.json()
        error = body.get("error", body)
        return str(error.get("message", error) if isinstance(error, dict) else error)[:500]
    except (ValueError, AttributeError):
        return response.text[:500]


def _same(root: str, path: str) -> bool:
    return root == path or (bool(root) and os.path.realpath(root) == os.path.realpath(os.path.expanduser(path)))
