"""The vLLM client against a stand-in server: the same answers as in this process, and what happens when the server does not behave."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lloco_integrations import langchain, llama_index, placeholder
from lloco_integrations.backends.rows import PromptRows, read_embeddings
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.backends.transformers import TransformersBackend
from lloco_integrations.engine import Engine
from lloco_integrations.errors import (
    BadInput,
    IncompatibleAdapter,
    IncompatibleSummary,
    LLoCOError,
    ModelNotFound,
    PromptTooLong,
    ServerError,
)
from lloco_integrations.models import load_model
from lloco_integrations.types import GenerationParams, ResolvedPrompt
from tests import tiny
from tests.fake_vllm import FakeVLLM, running
from tests.test_backend import save_adapter

SHORT = GenerationParams(max_new_tokens=6)


@pytest.fixture
def here(tiny_model: str) -> Any:
    return load_model(tiny_model, device="cpu", dtype="float32")


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, str]:
    return {name: str(save_adapter(tmp_path / name, seed)) for name, seed in (("law", 1), ("tax", 2))}


@pytest.fixture
def fake(here: Any, adapters: dict[str, str]) -> FakeVLLM:
    return FakeVLLM(TransformersBackend(here.decoder, here.tokenizer), here.spec.hidden_size, dict(adapters))


@pytest.fixture
def url(fake: FakeVLLM) -> Iterator[str]:
    with running(fake) as address:
        yield address


def engines(model: str, store: str, url: str, adapters: dict[str, str], **more: Any) -> tuple[Engine, Engine]:
    """In this process, and on the server."""
    names: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    return Engine(model, store, adapters, **names), Engine(model, store, adapters, **names, runtime=Runtime("vllm", url, **more))


def test_answers_are_those_of_this_process(tiny_model: str, store_url: str, url: str, adapters: dict[str, str], fake: FakeVLLM) -> None:
    ours, theirs = engines(tiny_model, store_url, url, adapters)
    texts = ["The lamp was lit in 1911. " * 4, "Nobody knows who paid. " * 5, "A third text about oil and rope. " * 3]
    marks = [c.content for c in ours.compress(texts, ratio=8, groups=["law", "tax", None])]
    prompts = ["What?", *marks, f"{marks[0]}\n\n{texts[1]}\n\nWho?", f"raw only {texts[2]}"] * 3
    expected = ours.generate(prompts, SHORT)
    got = theirs.generate(prompts, SHORT)
    assert [g.text for g in got] == [e.text for e in expected]
    assert got == expected
    assert len({g.adapter for g in got}) == 3 and len({g.text for g in got}) > 3
    assert fake.most_at_once > 1
    streamed = list(theirs.stream(prompts[4], SHORT))
    assert streamed[-1].final == expected[4] and "".join(c.delta for c in streamed) == expected[4].text


def test_a_prompt_of_text_and_slices_is_the_same_rows(
    tiny_model: str, store_url: str, url: str, fake: FakeVLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = engines(tiny_model, store_url, url, {})
    text = "The lamp was lit in 1911. Nobody knows who paid for the oil. The rope is older than the tower. It hangs by the door."
    shown = []
    for engine in (ours, theirs):
        monkeypatch.setattr(engine.model, "focus", {"text_share": 0.4, "finest": 4})
        [made] = engine.show([text], question="Who paid for the oil?", ratio=2, embedder=None)
        assert made is not None
        shown.append(made)
    assert shown[0] == shown[1]
    marks = list(placeholder.find(placeholder.split_votes(made.content)[0]))
    assert made.as_text and marks and all(mark.windows for mark in marks)
    prompts = [f"{made.content}\n\nWho?", f"Read this.\n{made.content} Who?"]
    rows = []
    for engine in (ours, theirs):
        prompter = engine.model.prompter
        assert prompter is not None
        resolved = engine.model.resolve(prompter.segments(prompts[0]), engine.store)
        rows.append([torch.as_tensor(piece) for piece in resolved.pieces])
    assert len(rows[0]) == len(rows[1]) > 2
    assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True))
    expected = ours.generate(prompts, SHORT)
    assert theirs.generate(prompts, SHORT) == expected
    assert [e.usage for e in expected] == [g.usage for g in theirs.generate(prompts, SHORT)]
    assert expected[0].usage.prompt_tokens == ours.count(prompts[0]).n_positions


def test_no_decoder_and_no_encoder_are_loaded_here(tiny_model: str, store_url: str, url: str) -> None:
    ours, theirs = engines(tiny_model, store_url, url, {})
    (mark,) = ours.compress(["Some text to be compressed."])
    theirs.generate([mark.content], SHORT)
    compressor: Any = theirs.model.compressor
    assert not compressor.loaded
    with pytest.raises(LLoCOError, match="runs elsewhere"):
        _ = theirs.model.decoder
    (again,) = theirs.compress(["Another text, which is not in the store."])
    assert compressor.loaded and again.content != mark.content


@pytest.mark.parametrize("faults", [[503, 500], ["drop"], [429]])
def test_faults_of_the_server_are_tried_again(tiny_model: str, store_url: str, url: str, fake: FakeVLLM, faults: list[Any]) -> None:
    ours, theirs = engines(tiny_model, store_url, url, {})
    assert theirs.model.window == 4096
    fake.faults[:] = faults
    assert theirs.generate(["What?"], SHORT) == ours.generate(["What?"], SHORT)
    assert not fake.faults


def test_a_fault_that_stays_is_told_once(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    _, theirs = engines(tiny_model, store_url, url, {}, max_retries=1)
    theirs.generate(["What?"], SHORT)
    fake.faults[:] = [500] * 9
    with pytest.raises(ServerError, match=r"failed \(500: ordered by the test\)"):
        theirs.generate(["What?"], SHORT)
    assert len(fake.faults) == 7


def test_refusals_are_not_tried_again(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    _, theirs = engines(tiny_model, store_url, url, {})
    theirs.generate(["What?"], SHORT)
    for status, message in ((400, "refuses the request"), (401, "api_key")):
        fake.faults[:] = [status]
        with pytest.raises(ServerError, match=message):
            theirs.generate(["What?"], SHORT)
        assert not fake.faults


def test_a_silent_server_is_given_up(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    _, theirs = engines(tiny_model, store_url, url, {}, timeout=0.2)
    assert theirs.model.window
    fake.faults[:] = ["slow"]
    began = time.perf_counter()
    with pytest.raises(ServerError, match="silent for 0.2 seconds"):
        theirs.generate(["What?"], SHORT)
    assert time.perf_counter() - began < 1.0


def test_an_answer_that_breaks_off_is_no_answer(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    _, theirs = engines(tiny_model, store_url, url, {})
    theirs.generate(["What?"], SHORT)
    fake.faults[:] = ["half"]
    with pytest.raises(ServerError, match="middle of an answer"):
        list(theirs.stream("What?", GenerationParams(max_new_tokens=30)))


def test_no_server(tiny_model: str, store_url: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    _, theirs = engines(tiny_model, store_url, address, {}, max_retries=0)
    with pytest.raises(ServerError, match=f"no server at {address}.*lloco serve"):
        theirs.generate(["What?"], SHORT)


def test_leaving_a_stream_ends_the_request(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    _, theirs = engines(tiny_model, store_url, url, {})
    chunks = theirs.stream("What?", GenerationParams(max_new_tokens=200))
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert fake.aborted.wait(5)


async def test_a_cancelled_task_ends_the_request(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    llm = llama_index.LLoCOLLM(tiny_model, store_url, backend="vllm", base_url=url, dtype="float32", max_new_tokens=200)
    asked = asyncio.create_task(llm.acomplete("What?"))
    while not fake.bodies:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert await asyncio.to_thread(fake.aborted.wait, 5)


def test_one_failure_ends_a_batch(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    _, theirs = engines(tiny_model, store_url, url, {}, max_retries=0)
    theirs.generate(["What?"], SHORT)
    fake.faults[:] = [400]
    with pytest.raises(ServerError, match="refuses"):
        theirs.generate([f"What {i}?" for i in range(40)], SHORT)
    assert len(theirs.generate(["What?"] * 3, SHORT)) == 3


def test_both_frameworks_take_the_server(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    names: dict[str, Any] = {"model": tiny_model, "store": store_url, "dtype": "float32", "device": "cpu"}
    on_server = names | {"backend": "vllm", "base_url": url, "api_key": "secret"}
    there, here = llama_index.LLoCOLLM(**on_server, max_new_tokens=6), llama_index.LLoCOLLM(**names, max_new_tokens=6)
    assert there.complete("What?").text == here.complete("What?").text
    assert [c.delta for c in there.stream_complete("What?")]
    assert fake.headers[-1]["authorization"] == "Bearer secret"
    assert "secret" not in str(there.to_dict()) and "secret" not in repr(there.engine)
    assert there.metadata.context_window == 4096
    chat, ours = langchain.ChatLLoCO(**on_server, max_tokens=6), langchain.ChatLLoCO(**names, max_tokens=6)
    assert chat.invoke("What?").content == ours.invoke("What?").content
    completion, same = langchain.LLoCOLLM(**on_server, max_tokens=6), langchain.LLoCOLLM(**names, max_tokens=6)
    assert completion.batch(["What?", "Who?"]) == same.batch(["What?", "Who?"])
    assert "secret" not in repr(chat)


def test_a_model_in_this_process_is_shared_whatever_a_server_would_be_told(tiny_model: str, store_url: str) -> None:
    one = langchain.ChatLLoCO(model=tiny_model, store=store_url, timeout=3, max_retries=1, api_key="x")
    assert one.engine.model is langchain.ChatLLoCO(model=tiny_model, store=store_url).engine.model


def test_adapters_are_found_by_name_and_by_place(
    tiny_model: str, store_url: str, url: str, adapters: dict[str, str], fake: FakeVLLM
) -> None:
    _, theirs = engines(tiny_model, store_url, url, {"paragraphs": "law", "taxes": adapters["tax"]})
    theirs.generate(["What?"] * 3, SHORT, ["paragraphs", "taxes", "none"])
    assert sorted(body["model"] for body in fake.bodies) == ["law", "tax", "tiny"]
    _, strange = engines(tiny_model, store_url, url, {"x": "nowhere"})
    with pytest.raises(IncompatibleAdapter, match=r"no adapter 'nowhere' \(it has: law, tax\)"):
        strange.generate(["What?"], SHORT, ["x"])


def test_the_server_loads_adapters_when_told_to(tiny_model: str, store_url: str, url: str, tmp_path: Path, fake: FakeVLLM) -> None:
    new = {"new": str(save_adapter(tmp_path / "new", 7))}
    ours, theirs = engines(tiny_model, store_url, url, new, load_adapters=True)
    with pytest.raises(IncompatibleAdapter, match="loads no adapters while it runs"):
        theirs.generate(["What?"], SHORT, ["new"])
    fake.loads = True
    assert theirs.generate(["What?"], SHORT, ["new"]) == ours.generate(["What?"], SHORT, ["new"])


def test_what_could_harm_a_server_is_not_sent(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    _, theirs = engines(tiny_model, store_url, url, {})
    backend = theirs.model.backend
    width = theirs.model.spec.hidden_size
    for rows, message in (
        (torch.full((2, width), float("nan")), "not finite"),
        (torch.full((2, width), 1e6), "float16"),
        (torch.zeros(2, width + 1), "reads floating point"),
        (torch.zeros(2, width, dtype=torch.long), "reads floating point"),
        (torch.zeros(width), "reads floating point"),
    ):
        with pytest.raises(IncompatibleSummary, match=message):
            backend.generate([ResolvedPrompt((rows,), len(rows), 2)], SHORT)
    with pytest.raises(BadInput, match="vocabulary is 300"):
        backend.generate([ResolvedPrompt(([1, 999],), 2, 2)], SHORT)
    with pytest.raises(PromptTooLong, match="window has 4096"):
        backend.generate([ResolvedPrompt(([1] * 4096,), 4096, 4096)], SHORT)
    assert not fake.bodies
    backend.generate([ResolvedPrompt(([1] * 4090,), 4090, 4090)], GenerationParams(max_new_tokens=500))
    assert fake.bodies[-1]["max_tokens"] == 6


def test_the_servers_window_counts(tiny_model: str, store_url: str, url: str, fake: FakeVLLM) -> None:
    fake.window = 100
    _, theirs = engines(tiny_model, store_url, url, {})
    assert theirs.model.window == 100


def test_which_base_model_is_asked(tiny_model: str, store_url: str, url: str) -> None:
    _, theirs = engines(tiny_model, store_url, url, {}, served_model="other")
    with pytest.raises(ServerError, match=r"base models tiny; name one of them with served_model \(now other\)"):
        theirs.generate(["What?"], SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "vlm"}, "backend is 'vlm'; use one of 'transformers', 'vllm', 'vllm-offline'"),
        ({"base_url": "http://x"}, "add backend='vllm'"),
        ({"backend": "vllm", "base_url": "localhost:8000"}, "give the server's address"),
        ({"backend": "vllm", "backend_options": {"a": 1}}, "backend_options are for"),
        ({"backend": "vllm-offline", "backend_options": {"a": [1]}}, "give a number"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, tiny_model: str) -> None:
    with pytest.raises(BadInput, match=message):
        _ = llama_index.LLoCOLLM(tiny_model, **options).engine
    with pytest.raises(BadInput, match=message):
        _ = langchain.ChatLLoCO(model=tiny_model, **options).engine


def test_embeddings_are_read_alone(tiny_model: str, tmp_path: Path) -> None:
    table = read_embeddings(Path(tiny_model) / "decoder")
    assert table.shape == (300, 32)
    rows = PromptRows(table, torch.bfloat16).of(ResolvedPrompt(([5], torch.zeros(2, 32)), 3, 3))
    assert rows.dtype == torch.bfloat16 and rows.shape == (3, 32)
    with pytest.raises(ModelNotFound, match="no safetensors file"):
        read_embeddings(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gemma2"}')
    with pytest.raises(ModelNotFound, match="scales its token embeddings"):
        read_embeddings(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_makes_its_own_connections(tiny_model: str, store_url: str, url: str) -> None:
    _, theirs = engines(tiny_model, store_url, url, {})
    backend: Any = theirs.model.backend
    first = backend._client()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if backend._client() is not first else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert backend._client() is first


def test_threads_share_a_client(tiny_model: str, store_url: str, url: str) -> None:
    _, theirs = engines(tiny_model, store_url, url, {})
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(theirs.generate(["What?"], SHORT)[0].text)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 16 and len(set(made)) == 1


def test_an_autocompressor_can_be_read_on_a_server(checkpoint: Path, store_url: str, fake: FakeVLLM, url: str) -> None:
    """Vectors in front, no chat template; the compressor is loaded only to compress."""
    with pytest.raises(ModelNotFound, match="tokenizer in .* cannot be loaded: there is none of tokenizer.json"):
        load_model(checkpoint, runtime=Runtime("vllm", url))
    tiny.tokenizer(chat=False).save_pretrained(checkpoint)
    here = load_model(checkpoint, device="cpu", dtype="float32")
    there = load_model(checkpoint, device="cpu", dtype="float32", runtime=Runtime("vllm", url))
    fake.backend, fake.hidden_size, fake.adapters = TransformersBackend(here.decoder, here.tokenizer), here.spec.hidden_size, {}
    assert there.spec == here.spec
    (summary,) = here.compress_ids([[9, 8, 7, 6] * 4])
    prompts = [[summary, [5, 6, 7]], [[5, 6, 7]]]
    assert there.generate(prompts, SHORT) == here.generate(prompts, SHORT)
    with pytest.raises(IncompatibleSummary, match="fixed ratio"):
        there.compressor.read(summary, 4)
    compressor: Any = there.compressor
    assert not compressor.loaded
    assert torch.equal(there.compress_ids([[9, 8, 7, 6] * 4])[0].vectors, summary.vectors) and compressor.loaded
