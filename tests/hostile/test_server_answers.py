"""A server that answers anything at all: the answer that was asked for, or one ServerError, in bounded time and memory."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lloco_integrations.backends import answers
from lloco_integrations.backends.deadline import is_loopback, proxy_for
from lloco_integrations.backends.rows import PromptRows
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.backends.vllm import VLLMBackend
from lloco_integrations.errors import LLoCOError, MissingExtra, ServerError
from lloco_integrations.types import GenerationParams, ResolvedPrompt

PROMPT = ResolvedPrompt(([1, 2, 3],), 3, 3)
FOUR = GenerationParams(max_new_tokens=4)
MODELS = {"data": [{"id": "base", "root": "/m", "parent": None, "max_model_len": 100}]}
GOOD = {"choices": [{"token_ids": [1, 2], "finish_reason": "stop", "text": "ab"}]}
Talk = Callable[[socket.socket, str], None]


def reply(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, f"content-length: {len(body)}", "", ""]).encode() + body


@contextmanager
def server(talk: Talk) -> Iterator[str]:
    """A server that knows its models, and for which ``talk`` answers everything else."""
    listening = socket.create_server(("127.0.0.1", 0))
    ending = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while not ending.is_set():
                    head = b""
                    while b"\r\n\r\n" not in head:
                        got = connection.recv(65536)
                        if not got:
                            return
                        head += got
                    top, _, body = head.partition(b"\r\n\r\n")
                    length = next((int(x.split(b":")[1]) for x in top.lower().split(b"\r\n") if x.startswith(b"content-length")), 0)
                    while len(body) < length:
                        body += connection.recv(65536)
                    if b"/v1/models" in top.split(b"\r\n")[0]:
                        connection.sendall(reply(json.dumps(MODELS).encode()))
                    else:
                        talk(connection, top.decode())
            except OSError:
                pass

    def accept() -> None:
        while not ending.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ending.set()
        listening.close()


def backend(address: str, **more: Any) -> VLLMBackend:
    options = {"timeout": 0.7, "max_retries": 0} | more
    return VLLMBackend(Runtime("vllm", address, **options), PromptRows(torch.zeros(50, 4)), lambda ids: "".join(chr(97 + i) for i in ids))


def both(made: VLLMBackend) -> Iterator[Callable[[], str]]:
    yield lambda: made.generate([PROMPT], FOUR)[0].text
    yield lambda: made.generate([PROMPT, PROMPT], FOUR)[0].text
    yield lambda: "".join(chunk.delta for chunk in made.stream(PROMPT, FOUR))


def choice(**values: Any) -> dict[str, Any]:
    return {"choices": [{"token_ids": [1], "finish_reason": "stop"} | values]}


ODD: list[Any] = [{}, [], None, 3, "text", {"choices": []}, {"choices": None}, {"choices": {}}, {"choices": [None]}, {"choices": [[]]}]
ODD += [{"choices": [{}]}, choice(token_ids=None), choice(token_ids=["a"]), choice(token_ids=[-5]), choice(token_ids=[10**12])]
ODD += [choice(token_ids=[50]), choice(token_ids=[1.0]), choice(token_ids=[True]), choice(token_ids=[None]), choice(token_ids="ab")]
ODD += [
    choice(token_ids=[1] * 60_000),
    choice(token_ids=[1] * 5),
    choice(token_ids={}),
    choice(finish_reason=None),
    choice(finish_reason=3),
]
ODD += [
    choice(finish_reason="abort"),
    choice(finish_reason=[]),
    {"choices": GOOD["choices"] * 2},
    {"error": "no"},
    {"error": {"message": "no"}},
]
RAW = [b"", b"{", b"\xff\xfe", b"<html>", b"[" * 10_000, b'{"choices":' + b"[" * 10_000, b"NaN", b"1" * 5000, b"null" * 3]


@pytest.mark.parametrize("body", [*(json.dumps(odd).encode() for odd in ODD), *RAW], ids=lambda b: b[:40].decode("latin-1"))
def test_an_odd_answer_is_one_server_error(body: bytes) -> None:
    def talk(connection: socket.socket, head: str) -> None:
        connection.sendall(reply(body))
        connection.close()

    def stream(connection: socket.socket, head: str) -> None:
        connection.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: " + body + b"\n\ndata: [DONE]\n\n"
        )
        connection.close()

    ends_without_tokens = body == json.dumps(choice(token_ids=None)).encode()  # as the last event of a stream may
    for kind, which in ((talk, slice(0, 2)), (stream, slice(3 if ends_without_tokens else 2, 3))):
        with server(kind) as address:
            for ask in list(both(backend(address)))[which]:
                with pytest.raises(ServerError) as caught:
                    ask()
                assert type(caught.value) is ServerError and len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "data", [None, [], {}, {"data": None}, {"data": [3]}, {"data": [{}]}, {"data": [{"id": 3}]}, {"data": [{"id": ""}]}]
)
def test_an_odd_list_of_models(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.hostile.test_server_answers.MODELS", data)
    with server(lambda *_: None) as address, pytest.raises(ServerError):
        _ = backend(address).window


def drip(start: bytes, piece: bytes, pause: float = 0.1) -> Talk:
    def talk(connection: socket.socket, head: str) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return talk


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
SLOW = {
    "a byte of the head": drip(b"HTTP/1.1 200 OK\r\nx: ", b"a"),
    "a byte of the body": drip(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n", b" "),
    "a byte of an event": drip(EVENTS + b"data: ", b" "),
    "comments": drip(EVENTS, b": still here\n\n"),
    "events without tokens": drip(EVENTS, b'data: {"choices": []}\n\n'),
    "empty lists of tokens": drip(EVENTS, b'data: {"choices": [{"token_ids": [], "finish_reason": null}]}\n\n'),
    "nothing": drip(b"", b"", 5),
}
ENDLESS = {
    "tokens": drip(EVENTS, b'data: {"choices": [{"token_ids": [1], "finish_reason": null}]}\n\n', 0),
    "a line": drip(EVENTS + b"data: ", b"x" * 65536, 0),
    "a body": drip(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", b" " * 65536, 0),
    "lines": drip(EVENTS, b"\n" * 65536, 0),
    "a head": drip(b"HTTP/1.1 200 OK\r\n", b"x: " + b"a" * 9000 + b"\r\n", 0),
    "an error": drip(b"HTTP/1.1 400 No\r\ncontent-length: 99999999999\r\n\r\n", b"x" * 65536, 0),
}


@pytest.mark.parametrize("case", [*SLOW, *ENDLESS])
def test_slow_and_endless_answers_end(case: str) -> None:
    with server((SLOW | ENDLESS)[case]) as address:
        made = backend(address)
        assert made.window == 100
        for ask in both(made):
            began = time.monotonic()
            with pytest.raises(ServerError):
                ask()
            assert time.monotonic() - began < 6


def test_more_tokens_than_asked_are_refused_at_once() -> None:
    sent = []

    def talk(connection: socket.socket, head: str) -> None:
        connection.sendall(EVENTS)
        for i in range(60_186):
            sent.append(i)
            connection.sendall(b'data: {"choices": [{"token_ids": [1], "finish_reason": null}]}\n\n')
            time.sleep(0.002)

    with server(talk) as address:
        seen = []
        with pytest.raises(ServerError, match="more were asked for"):
            seen.extend(backend(address).stream(PROMPT, FOUR))
    assert len(sent) < 500


def test_a_good_answer_is_one_and_what_follows_it_does_no_harm() -> None:
    body = json.dumps(GOOD).encode()
    events = b"".join(f"data: {json.dumps(choice(token_ids=[i], finish_reason=r))}\n\n".encode() for i, r in ((1, None), (2, "stop")))

    def talk(connection: socket.socket, head: str) -> None:
        connection.sendall(reply(body))

    def stream(connection: socket.socket, head: str) -> None:
        connection.sendall(EVENTS + events + b'data: {"choices": [], "usage": {}}\n\n')
        time.sleep(5)

    with server(talk) as address:
        assert [ask() for ask in list(both(backend(address)))[:2]] == ["bc", "bc"]
    with server(stream) as address:
        began = time.monotonic()
        assert list(both(backend(address)))[2]() == "bc"
        assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    ("header", "least", "most"), [("1", 1, 4), ("nonsense", 0, 2), ("-3", 0, 2), ("1e999", 0, 2), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 2)]
)
@pytest.mark.parametrize("status", ["429 Busy", "503 Later"])
def test_retry_after(header: str, least: float, most: float, status: str) -> None:
    asked = []

    def talk(connection: socket.socket, head: str) -> None:
        asked.append(time.monotonic())
        busy = len(asked) == 1
        connection.sendall(reply(b"{}", f"retry-after: {header}", status=status) if busy else reply(json.dumps(GOOD).encode()))

    with server(talk) as address:
        assert backend(address, max_retries=1, timeout=5).generate([PROMPT], FOUR)[0].text == "bc"
    assert least <= asked[1] - asked[0] < most


def test_a_server_that_asks_for_too_long_a_wait() -> None:
    def talk(connection: socket.socket, head: str) -> None:
        connection.sendall(reply(b"{}", "retry-after: 3600", status="503 Later"))

    with server(talk) as address:
        began = time.monotonic()
        with pytest.raises(ServerError, match="asks to wait 3600 seconds") as caught:
            backend(address, max_retries=3).generate([PROMPT], FOUR)
        assert time.monotonic() - began < 2 and type(caught.value) is ServerError and "_Again" not in repr(caught.value)


# --- proxies


def test_no_proxy_overhears_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def overhear(connection: socket.socket, head: str) -> None:
        heard.append(head)
        connection.sendall(reply(b"{}", status="502 Proxy"))

    def talk(connection: socket.socket, head: str) -> None:
        connection.sendall(reply(json.dumps(GOOD).encode()))

    with server(overhear) as proxy, server(talk) as address:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        for name in (address, address.replace("127.0.0.1", "localhost")):
            assert backend(name, api_key="sk-secret", timeout=5).generate([PROMPT], FOUR)[0].text == "bc"
        assert heard == []
        assert proxy_for("http://gpu.example:8000") == proxy
        monkeypatch.setenv("no_proxy", "gpu.example")
        assert proxy_for("http://gpu.example:8000") is None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "[::1]", "a.localhost"])
def test_what_this_machine_is_called(host: str) -> None:
    assert is_loopback(f"http://{host}:8000") and not is_loopback("http://10.0.0.1") and not is_loopback("http://localhost.example")


def test_a_socks_proxy_is_no_trouble_here_and_says_what_it_needs_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    for name in ("HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def talk(connection: socket.socket, head: str) -> None:
        connection.sendall(reply(json.dumps(GOOD).encode()))

    with server(talk) as address:
        assert backend(address, timeout=5).generate([PROMPT], FOUR)[0].text == "bc"
    try:
        import socksio  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match=r"httpx\[socks\].*NO_PROXY"):
            backend("http://gpu.example:8000").generate([PROMPT], FOUR)
    monkeypatch.setenv("ALL_PROXY", "gopher://x")
    with pytest.raises(LLoCOError):
        backend("http://gpu.example:8000").generate([PROMPT], FOUR)


# --- any JSON

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["stop", "length"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["choices", "token_ids", "finish_reason", "data", "id", "error", "text"]), st.text(max_size=3)), inner
        ),
    ),
    max_leaves=12,
)
NEAR = st.builds(
    lambda ids, reason, more: {"choices": [{"token_ids": ids, "finish_reason": reason} | more]},
    st.one_of(JSON, st.lists(st.one_of(st.integers(-2, 60), st.booleans(), st.none()), max_size=6)),
    st.one_of(JSON, st.sampled_from(["stop", "length", None])),
    st.dictionaries(st.text(max_size=3), JSON, max_size=2),
)


@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.one_of(JSON, NEAR))
def test_any_json_is_an_answer_or_a_value_error(data: Any) -> None:
    for read in (answers.answer, answers.event):
        try:
            piece = read(data, 50, 4)
        except ValueError:
            continue
        assert len(piece.ids) <= 4 and all(type(i) is int and 0 <= i < 50 for i in piece.ids)
        assert piece.reason in ("stop", "length", None) and (read is answers.event or piece.reason)
    with suppress(ValueError):
        assert all(isinstance(name, str) for name in answers.models(data))
