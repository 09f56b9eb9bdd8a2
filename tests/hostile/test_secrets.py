"""A password or a key is in no message, log, trace, repr, dump or pickle."""

from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
from langchain_core.load import dumpd
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler

from lloco_integrations import langchain, llama_index, placeholder
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.engine import Engine
from lloco_integrations.errors import BadInput, LLoCOError, ServerError
from lloco_integrations.secret import Key, Secret, scrubbed, shown
from lloco_integrations.store import SummaryStore
from lloco_integrations.types import GenerationParams

PASSWORD, KEY = "hunter2secret", "sk-verysecretkey"
STORE = f"redis://:{PASSWORD}@127.0.0.1:6399/0"
UNKNOWN = placeholder.make("abcdefghijklmnopqrstuvwxya")

ADDRESSES = [
    STORE,
    f"rediss://me:{PASSWORD}@host/1?socket_timeout=5",
    f"s3://bucket/prefix?secret={PASSWORD}",
    f"foo://h/?a=1&X-Amz-Signature={PASSWORD}&b=2",
    f"cache::sqlite:///x.sqlite::redis://:{PASSWORD}@host:1/x",
    f"https://{PASSWORD}@host/v1",
    f"http://me:a%40{PASSWORD}@host:8000/v1",
    f"redis://:a/{PASSWORD}?x#{PASSWORD}@host:1/0",
    f"foo://h/?api_key={PASSWORD}",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", [Secret, Key])
def test_no_way_of_printing_shows_it(address: str, kind: type[Secret]) -> None:
    held = kind(address)
    seen = [str(held), repr(held), f"{held}", f"{held!r:>80}", "%s" % held, f"{[held]} { ({held: held}) }"]  # noqa: UP031
    seen += [repr(pickle.dumps(held, protocol)) for protocol in range(2, 6)] + [shown(address), json.dumps(str(held))]
    assert not any(PASSWORD in text for text in seen)
    assert held.get_secret_value() == address and held == address and hash(held) == hash(address)
    for twin in (copy.copy(held), copy.deepcopy(held), kind(held)):
        assert twin.get_secret_value() == address
    lost = pickle.loads(pickle.dumps(held))
    with pytest.raises(BadInput, match="give the whole again"):
        lost.get_secret_value()
    said = scrubbed(f"cannot reach {address}: {' and '.join(held.secrets())} is wrong", [held])
    assert held.secrets() and PASSWORD not in said


@pytest.mark.parametrize(
    "address", ["sqlite:////tmp/a@b/c.sqlite", "s3://bucket/prefix", "redis://host:1/0?prefix=x", "memory://", "file:///x/y@z", "C:/a@b"]
)
def test_an_address_without_secrets_is_left_as_it_is(address: str) -> None:
    held = Secret(address)
    assert str(held) == address == pickle.loads(pickle.dumps(held)).get_secret_value() and held.secrets() == []


class Watching(BaseEventHandler):
    seen: ClassVar[list[str]] = []

    @classmethod
    def class_name(cls) -> str:
        return "Watching"

    def handle(self, event: Any, **_: Any) -> None:
        self.seen.append(repr(event.model_dump()) + str(event))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> SummaryStore:
    """An empty store in memory whose address has a password."""
    store = SummaryStore.open("memory://")
    monkeypatch.setattr(store._backend, "url", STORE)
    return store


def test_an_unknown_placeholder_tells_nothing(tiny_model: str, held: SummaryStore, caplog: pytest.LogCaptureFixture) -> None:
    names: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    engine = Engine(tiny_model, held, **names)
    debug, watching = LlamaDebugHandler(print_trace_on_end=False), Watching()
    get_dispatcher().add_event_handler(watching)
    llm = llama_index.LLoCOLLM(tiny_model, store=held, **names, callback_manager=CallbackManager([debug]))
    post = llama_index.LLoCOPostprocessor(tiny_model, store=held, **names)
    chat = langchain.ChatLLoCO(model=tiny_model, store=held, **names)
    seen = []
    caplog.set_level(logging.DEBUG)
    try:
        calls = [lambda: engine.count(UNKNOWN), lambda: engine.generate([UNKNOWN]), lambda: list(engine.stream(UNKNOWN))]
        calls += [lambda: engine.compress(["missing"], on_miss="raise"), lambda: llm.complete(UNKNOWN), lambda: chat.invoke(UNKNOWN)]
        for call in calls:
            with pytest.raises(LLoCOError) as caught:
                call()
            seen.append(str(caught.value) + repr(caught.value))
        engine.compress(["a text"])
        llm.complete("hello", max_tokens=1)
    finally:
        get_dispatcher().event_handlers.remove(watching)
    seen += [repr(engine), str(engine), repr(llm), str(llm.to_dict()), repr(post), llm.to_json(), repr(chat), str(dumpd(chat)), caplog.text]
    seen += [repr([vars(e) for e in debug.get_events()]), *watching.seen]
    assert not any(PASSWORD in text for text in seen)
    assert "127.0.0.1:6399" in seen[0], "the place is named"


def test_objects_that_are_made_with_an_address(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLOCO_API_KEY", raising=False)
    server: dict[str, Any] = {"backend": "vllm", "base_url": f"http://me:{PASSWORD}@127.0.0.1:9/v1", "api_key": KEY}
    made: list[Any] = [
        llama_index.LLoCOLLM(tiny_model, store=STORE, **server),
        llama_index.LLoCOPostprocessor(tiny_model, store=STORE, backend="vllm", base_url=server["base_url"]),
        llama_index.LLoCOCompress(tiny_model, store=STORE),
        langchain.ChatLLoCO(model=tiny_model, store=STORE, **server),
        langchain.LLoCOLLM(model=tiny_model, store=STORE, **server),
        langchain.LLoCODocumentCompressor(model=tiny_model, store=STORE),
    ]
    for part in made:
        dumps = [repr(part), str(part), str(part.model_dump()), part.model_dump_json(), repr(part.engine), repr(vars(part))]
        if hasattr(part, "to_payload"):
            dumps.append(str(part.to_payload()))
        dumps.append(repr(pickle.dumps(part)) if not isinstance(part, llama_index.LLoCOCompress) else "")
        for text in dumps:
            assert PASSWORD not in text and KEY not in text
        target = part.engine.store_target
        assert target.get_secret_value() == STORE, "it works all the same"
    assert made[0].engine.runtime.api_key.get_secret_value() == made[3].engine.runtime.api_key.get_secret_value() == KEY
    plain = llama_index.LLoCOLLM(tiny_model, store=STORE, backend="vllm", base_url="http://127.0.0.1:9", api_key=KEY)
    again = pickle.loads(pickle.dumps(plain))
    assert again.engine.runtime.api_key is None
    monkeypatch.setenv("LLOCO_API_KEY", "another")
    assert again.engine.runtime.api_key == "another"
    with pytest.raises(BadInput, match="give the whole again"):
        _ = again.engine.store


class Echo(BaseHTTPRequestHandler):
    """Repeats in its error what it was sent."""

    def do_GET(self) -> None:
        said = {"error": {"message": f"bad {self.headers.get('authorization')} for {self.headers.get('host')} {KEY} {PASSWORD}"}}
        body = json.dumps(said).encode()
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_what_a_server_repeats(tiny_model: str, store_url: str, echo: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for address in (f"http://{echo}", f"http://me:{PASSWORD}@{echo}/v1", f"http://me:{PASSWORD}@127.0.0.1:9"):
        runtime = Runtime("vllm", address, api_key=KEY, max_retries=0)
        with pytest.raises(ServerError) as caught:
            Engine(tiny_model, store_url, runtime=runtime).generate(["x"], GenerationParams(2))
        for text in (str(caught.value), repr(runtime), caplog.text):
            assert KEY not in text and (PASSWORD not in text or "me:" not in address)
            assert "bWU6" not in text, "nor as HTTP sends it"
