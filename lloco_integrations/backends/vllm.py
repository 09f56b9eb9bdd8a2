"""The decoder on a vLLM server: a thin client of ``/v1/completions`` with ``prompt_embeds``.

Answers come back as token ids and are decoded here, as with the transformers backend. Stock OpenAI clients always send a text prompt beside
the embeddings, and the server then answers both; hence a client of our own. Prompt embeddings travel as ``torch.save`` bytes, which only a
server that trusts its clients should read: keep it inside your network.
"""

from __future__ import annotations

import base64
import email.utils
import io
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lloco_integrations.backends.answers import A_TOKEN, OTHERS, Piece, Served, answer, event, events, models, parsed
from lloco_integrations.backends.base import Backend, one_each, unwanted
from lloco_integrations.backends.rows import PromptRows, check_room
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.backends.stopping import Unfolding, finished
from lloco_integrations.errors import IncompatibleAdapter, LLoCOError, MissingExtra, ServerError
from lloco_integrations.fingerprint import adapter_identity
from lloco_integrations.locks import ForkLock
from lloco_integrations.secret import Key, without_user
from lloco_integrations.types import Generation, GenerationChunk, GenerationParams, ResolvedPrompt

if TYPE_CHECKING:
    import httpx

TIMEOUT = 120.0
RETRIES = 3
CONCURRENT = 32
"""Requests of one batch that are under way at a time; the server puts them into one forward pass."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
_BUSY = (429, 503)
_LAST_WORDS = 2.0
"""Seconds for what follows the end of an answer, so that its connection can be used again."""


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
        self._lock = ForkLock()
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
            self._models = models(self._asked("GET", "/v1/models", None, OTHERS))
        return self._models

    def generate(
        self,
        prompts: Sequence[ResolvedPrompt],
        params: GenerationParams,
        adapters: Sequence[str | None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        paths = one_each(adapters, len(prompts))
        bodies = [self._body(prompt, params, path) for prompt, path in zip(prompts, paths, strict=True)]
        if len(bodies) < 2 and cancelled is None:
            pieces = [self._complete(self._client(), body) for body in bodies]
        else:
            pieces = self._together(bodies, cancelled)
        return [self._generation(p, piece, params, path) for p, piece, path in zip(prompts, pieces, paths, strict=True)]

    def stream(self, prompt: ResolvedPrompt, params: GenerationParams, adapter: str | None = None) -> Iterator[GenerationChunk]:
        return self._pieces(prompt, self._body(prompt, params, adapter) | {"stream": True}, params, adapter)

    def _pieces(
        self, prompt: ResolvedPrompt, body: dict[str, Any], params: GenerationParams, adapter: str | None
    ) -> Iterator[GenerationChunk]:
        """Leaving this early closes the connection, which ends the request on the server."""
        text, reason, most = Unfolding(self.decode, params.stop), None, int(body["max_tokens"])
        with _explained(self.runtime):
            response = self._retried(lambda: self._opened(body)).response
            try:
                clock = _Clock(self._timeout)
                for data in events(_raw(response, OTHERS + A_TOKEN * most, clock)):
                    piece = event(data, len(self.rows.embeddings), most - len(text.ids))
                    if reason is not None and piece.ids:
                        raise ValueError("more tokens after the end of the answer")
                    reason = piece.reason or reason
                    if piece.ids or piece.reason:
                        clock.start(self._timeout if reason is None else _LAST_WORDS)
                    if more := text.add(piece.ids):
                        yield GenerationChunk(more)
            except _tardy():
                if reason is None:
                    raise
            finally:
                response.close()
        if reason is None:
            raise ServerError(
                f"the server at {self.runtime.url} broke off in the middle of an answer, after {text.shown[-40:]!r}; ask again"
            )
        final = self._generation(prompt, Piece(text.ids, reason), params, adapter)
        yield GenerationChunk(final.text[len(text.shown) :], final)

    def _together(self, bodies: Sequence[dict[str, Any]], cancelled: threading.Event | None = None) -> list[Piece]:
        """The answers of a batch. When one fails, or the caller is interrupted, the connections of all are closed, which ends the others'
        work on the server, too."""
        client = self._made()
        pool = ThreadPoolExecutor(max(1, min(CONCURRENT, len(bodies))), thread_name_prefix="lloco-vllm")
        try:
            asked = [pool.submit(self._complete, client, body) for body in bodies]
            left = set(asked)
            while left:
                done, left = wait(left, 0.1 if cancelled is not None else None, FIRST_EXCEPTION)
                if cancelled is not None and cancelled.is_set():
                    raise unwanted()
                for future in done:
                    future.result()  # raises what went wrong, without waiting for the others
            return [future.result() for future in asked]
        finally:
            client.close()
            pool.shutdown(wait=False, cancel_futures=True)

    def _complete(self, client: httpx.Client, body: dict[str, Any]) -> Piece:
        most = int(body["max_tokens"])
        with _explained(self.runtime):
            return answer(self._asked("POST", "/v1/completions", body, OTHERS + A_TOKEN * most, client), len(self.rows.embeddings), most)

    def _asked(self, method: str, path: str, body: dict[str, Any] | None, most: int, client: httpx.Client | None = None) -> Any:
        """The JSON that answers a request, ``most`` bytes of it at most."""

        def ask() -> _Reply:
            return self._checked(self._sent(client or self._client(), method, path, body, most))

        return parsed(self._retried(ask).content)

    def _opened(self, body: dict[str, Any]) -> _Reply:
        return self._checked(self._sent(self._client(), "POST", "/v1/completions", body, None))

    def _sent(self, client: httpx.Client, method: str, path: str, body: dict[str, Any] | None, most: int | None) -> _Reply:
        """The response and its content, ``most`` bytes at most; an answer is still to be read where that is None."""
        from lloco_integrations.backends.deadline import within

        content = None if body is None else json.dumps(body)
        with within(self._timeout):
            response = client.send(client.build_request(method, path, content=content), stream=True)
        if most is None and response.status_code == 200:
            return _Reply(response, b"")
        try:
            return _Reply(response, b"".join(_raw(response, OTHERS if most is None else most, _Clock(self._timeout))))
        finally:
            response.close()

    @property
    def _timeout(self) -> float:
        return self.runtime.timeout or TIMEOUT

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
        asked = {"lora_name": name, "lora_path": str(Path(path).expanduser().absolute())}
        with _explained(self.runtime):
            reply = self._sent(self._client(), "POST", "/v1/load_lora_adapter", asked, OTHERS)
        if reply.response.status_code == 404:
            raise IncompatibleAdapter(
                f"the server at {self.runtime.url} loads no adapters while it runs; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True "
                f"(lloco serve --load-adapters), or with --adapter NAME={path}"
            )
        if reply.response.status_code != 200:
            raise IncompatibleAdapter(f"the server at {self.runtime.url} cannot load the adapter {path}: {self._said(reply)}")
        self.refresh()
        return name

    def _generation(self, prompt: ResolvedPrompt, piece: Piece, params: GenerationParams, adapter: str | None) -> Generation:
        return finished(prompt, piece.ids, piece.reason or "stop", self.decode, params.stop, adapter)

    def _client(self) -> httpx.Client:
        """One for each process: connections do not survive a fork."""
        with self._lock:
            if os.getpid() not in self._clients:
                self._clients = {os.getpid(): self._made()}
            return self._clients[os.getpid()]

    def _made(self) -> httpx.Client:
        import httpx

        from lloco_integrations.backends.deadline import Transport, proxy_for

        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if isinstance(self.runtime.api_key, Key) and self.runtime.api_key:
            headers["authorization"] = f"Bearer {self.runtime.api_key.get_secret_value()}"
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONCURRENT)
        address, user = without_user(self.runtime.url.get_secret_value())
        with _explained(self.runtime):
            try:
                transport = Transport(proxy=proxy_for(address), limits=limits)
                return httpx.Client(
                    base_url=address, headers=headers, auth=user, timeout=self._timeout, transport=transport, trust_env=False
                )
            except ImportError as error:
                raise MissingExtra(
                    f"the environment names a SOCKS proxy for the server at {self.runtime.url}, which takes one more package: pip install "
                    f'"httpx[socks]"; or name the server in NO_PROXY'
                ) from error

    def _retried(self, ask: Callable[[], _Reply]) -> _Reply:
        """``ask()``, again after a while where nobody answered or the server had a fault of its own. A timeout is not tried again: the
        server would do the work twice."""
        import httpx

        tries = RETRIES if self.runtime.max_retries is None else self.runtime.max_retries
        for n in range(tries + 1):
            pause = min(_LONGEST_WAIT, _FIRST_WAIT * 2**n) * random.uniform(0.5, 1.0)
            try:
                return ask()
            except (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout):
                if n == tries:
                    raise
            except _Again as again:
                if n == tries or again.pause > self._timeout:
                    later = f"; it asks to wait {again.pause:g} seconds" if again.pause > 0 else ""
                    raise ServerError(f"{again}{later}") from None
                pause = max(pause, again.pause)
            time.sleep(pause)
        raise AssertionError

    def _checked(self, reply: _Reply) -> _Reply:
        """``reply`` if it is an answer."""
        response = reply.response
        if response.status_code == 200:
            return reply
        said = self._said(reply)
        if response.status_code >= 500 or response.status_code in _BUSY:
            raise _Again(
                f"the server at {self.runtime.url} failed ({response.status_code}: {said}); see its log, then ask again", _pause(response)
            )
        if response.status_code in (401, 403):
            raise ServerError(f"the server at {self.runtime.url} refuses the key ({response.status_code}: {said}); give api_key=")
        hint = (
            "start it with --enable-prompt-embeds, as lloco serve does"
            if "prompt-embeds" in said or "prompt_embeds" in said
            else "see lloco serve"
        )
        raise ServerError(f"the server at {self.runtime.url} refuses the request ({response.status_code}: {said}); {hint}")

    def _said(self, reply: _Reply) -> str:
        """What an error's body says, without what it repeats of our key."""
        try:
            body = parsed(reply.content)
            error = body.get("error", body)
            said = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, AttributeError, RecursionError):
            said = reply.content.decode("utf-8", "replace")
        return self.runtime.scrub(said)[:500]


class _Reply(NamedTuple):
    """A response, and its content where that has been read."""

    response: httpx.Response
    content: bytes


class _Again(Exception):
    """A fault of the server's own: the same request may succeed, ``pause`` seconds later at the earliest. Never leaves this module."""

    def __init__(self, said: str, pause: float) -> None:
        super().__init__(said)
        self.pause = pause


class _Clock:
    """How long may still be waited for the next token."""

    def __init__(self, seconds: float) -> None:
        self.start(seconds)

    def start(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())


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
    except (LLoCOError, ImportError):
        raise
    except httpx.ConnectError as error:
        raise ServerError(
            f"there is no server at {runtime.url} ({runtime.scrub(str(error))}); start one with lloco serve, or give its address as base_url"
        ) from error
    except httpx.TimeoutException as error:
        seconds = runtime.timeout or TIMEOUT
        raise ServerError(
            f"the server at {runtime.url} was silent for {seconds:g} seconds; give a longer timeout, or shorter answers"
        ) from error
    except Exception as error:  # of any kind: a server may say anything
        said = runtime.scrub(f"{type(error).__name__}: {error}")[:500]
        raise ServerError(f"the server at {runtime.url} broke off or spoke in riddles: {said}; ask again") from error


def _raw(response: httpx.Response, most: int, clock: _Clock) -> Iterator[bytes]:
    """The bytes of a body as they come, ``most`` of them at most, each before ``clock`` has run out."""
    import httpx

    from lloco_integrations.backends.deadline import within

    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise ValueError(f"a compressed answer ({response.headers['content-encoding'][:20]!r}), which was not asked for")
    pieces, total = response.iter_raw(), 0
    while True:
        if not clock.left:
            raise httpx.ReadTimeout("no token came in time")
        with within(clock.left):
            piece = next(pieces, None)
        if piece is None:
            return
        total += len(piece)
        if total > most:
            raise ValueError(f"an answer of more than {most} bytes")
        yield piece


def _tardy() -> tuple[type[Exception], ...]:
    """What ``_raw`` raises when the server does not go on."""
    import httpx

    return (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)


def _pause(response: httpx.Response) -> float:
    """Seconds that the server asks to wait (Retry-After: a number or a date); 0 if it does not."""
    given = response.headers.get("retry-after", "").strip()
    with suppress(ValueError, TypeError, OverflowError):
        seconds = (
            float(given) if given.replace(".", "", 1).isdigit() else email.utils.parsedate_to_datetime(given).timestamp() - time.time()
        )
        return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    return 0.0


def _same(root: str, path: str) -> bool:
    return root == path or (bool(root) and os.path.realpath(root) == os.path.realpath(os.path.expanduser(path)))
