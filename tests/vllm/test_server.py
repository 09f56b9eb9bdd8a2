"""A real vLLM server gives what the decoder in this process gives, and outlives what clients do to it."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from lloco_integrations import langchain, llama_index
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.backends.stopping import StopStrings
from lloco_integrations.backends.vllm import encoded
from lloco_integrations.engine import Engine
from lloco_integrations.errors import ServerError
from lloco_integrations.types import GenerationParams, ResolvedPrompt
from tests.test_backend import save_adapter
from tests.vllm.conftest import WIDTH, WINDOW, Server

pytest.importorskip("vllm", reason="vLLM is not installed here; make test-vllm has an environment of its own for it")

APP = Path(__file__).parents[2] / "docs" / "serving_app.py"
PARAMS = GenerationParams(max_new_tokens=12)
TEXTS = [f"Paragraph {i} of the {g} code is about {'xyzuvw'[i % 6] * (5 + i)}." for i in range(8) for g in ("law", "tax")]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.sqlite'}"


@pytest.fixture(scope="module")
def here(served_model: str, store: str, adapters: dict[str, str]) -> Engine:
    return Engine(served_model, store, adapters, "cpu", "float32")


@pytest.fixture(scope="module")
def there(served_model: str, store: str, adapters: dict[str, str], server: Server) -> Engine:
    return Engine(served_model, store, adapters, "cpu", "float32", runtime=Runtime("vllm", server.url))


@pytest.fixture(scope="module")
def prompts(here: Engine) -> list[str]:
    """Text, summaries at two ratios, and both in one prompt."""
    groups = ["handbook", "report"] * 8
    marks = [c.content for c in here.compress(TEXTS, ratio=8, groups=groups)]
    fine = [c.content for c in here.compress(TEXTS, groups=groups)]
    made = [f"What does {text[:12]} say?" for text in TEXTS]
    made += [f"{marks[i]}\n\n{fine[-1 - i]}\n\nWhat now?" for i in range(16)]
    made += [f"{marks[i]}\n{TEXTS[-1 - i]}\nAnd {i}?" for i in range(16)]
    return [*made, *(m + "!" for m in made[:16])]


def ids_here(engine: Engine, prompt: str, path: str | None) -> list[int]:
    backend: Any = engine.model.backend
    resolved = engine.model.resolve(prompt, engine.store)
    return list(backend._run([resolved], PARAMS, [path], StopStrings(None, ()))[0])


def ids_there(engine: Engine, prompt: str, path: str | None) -> list[int]:
    backend: Any = engine.model.backend
    body = backend._body(engine.model.resolve(prompt, engine.store), PARAMS, path)
    return list(backend._complete(backend._client(), body).ids)


def test_greedy_ids_are_those_of_this_process(here: Engine, there: Engine, prompts: list[str], adapters: dict[str, str]) -> None:
    """Text, summaries and mixed prompts under two adapters and none, 32 at a time."""
    paths: list[str | None] = [None, *adapters.values()]
    asked = [(prompt, paths[i % 3]) for i, prompt in enumerate(prompts)]
    expected = [ids_here(here, *one) for one in asked]
    with ThreadPoolExecutor(32) as pool:
        got = list(pool.map(lambda one: ids_there(there, *one), asked))
    wrong = [i for i, (a, b) in enumerate(zip(expected, got, strict=True)) if a != b]
    assert not wrong, [(asked[i], expected[i], got[i]) for i in wrong[:3]]
    assert len({tuple(ids) for ids in got}) > 20


def test_an_adapter_changes_answers(there: Engine, prompts: list[str], adapters: dict[str, str]) -> None:
    asked = prompts[:4]
    alone, adapted = ([ids_there(there, p, path) for p in asked] for path in (None, adapters["handbook"]))
    assert alone != adapted


def test_a_batch_and_a_stream_say_the_same(here: Engine, there: Engine, prompts: list[str]) -> None:
    together = there.generate(prompts[:8], PARAMS)
    assert together == here.generate(prompts[:8], PARAMS)
    for prompt, made in zip(prompts[:8], together, strict=True):
        chunks = list(there.stream(prompt, PARAMS))
        assert chunks[-1].final == made
        assert "".join(c.delta for c in chunks) == made.text
    assert {m.adapter for m in there.generate(prompts[16:18], PARAMS)} <= {"handbook", "report"}


def test_stop_strings_seeds_and_lengths(here: Engine, there: Engine, prompts: list[str]) -> None:
    whole = there.generate([prompts[0]], GenerationParams(max_new_tokens=20))[0]
    letter = next(c for c in whole.text if c.isascii() and c.isprintable())
    cut = there.generate([prompts[0]], GenerationParams(max_new_tokens=20, stop=(letter,)))[0]
    assert cut == here.generate([prompts[0]], GenerationParams(max_new_tokens=20, stop=(letter,)))[0]
    assert cut.text == whole.text[: whole.text.index(letter)] and cut.finish_reason == "stop"
    sampled = GenerationParams(max_new_tokens=8, temperature=1.0, seed=3)
    assert there.generate([prompts[0]], sampled) == there.generate([prompts[0]], sampled)
    assert whole.usage.prompt_tokens == here.count(prompts[0]).n_positions


async def test_async_chains_and_engines(served_model: str, store: str, server: Server, prompts: list[str]) -> None:
    names: dict[str, Any] = {"model": served_model, "store": store, "dtype": "float32", "backend": "vllm", "base_url": server.url}
    llm, chat = llama_index.LLoCOLLM(**names, max_new_tokens=6), langchain.ChatLLoCO(**names, max_tokens=6)
    one = llm.complete(prompts[20]).text
    made = await asyncio.gather(*(llm.acomplete(prompts[20]) for _ in range(16)))
    assert {m.text for m in made} == {one}
    assert (await chat.ainvoke(prompts[20])).content == one
    assert "".join([c.text async for c in chat.astream(prompts[20])]) == one
    assert langchain.LLoCOLLM(**names, max_tokens=6).batch(prompts[20:22])[0] == one


def test_adapters_can_be_loaded_while_it_runs(served_model: str, store: str, server: Server, tmp_path: Path) -> None:
    new = {"new": str(save_adapter(tmp_path / "new", 9, hidden=WIDTH))}
    names: tuple[Any, ...] = (served_model, store, new, "cpu", "float32", None)
    with_server, in_process = Engine(*names, Runtime("vllm", server.url, load_adapters=True)), Engine(*names)
    prompt = "What of the new one?"
    assert ids_there(with_server, prompt, new["new"]) == ids_here(in_process, prompt, new["new"])


def _rows(tensor: Any) -> str:
    held = io.BytesIO()
    torch.save(tensor, held)
    return base64.b64encode(held.getvalue()).decode()


BAD: dict[str, Any] = {
    "not base64": "&&&&",
    "not a tensor": base64.b64encode(b"no tensor at all").decode(),
    "a pickle": base64.b64encode(b"cos\nsystem\n(S'false'\ntR.").decode(),
    "a wrong width": _rows(torch.zeros(3, WIDTH + 1)),
    "three dimensions": _rows(torch.zeros(2, 3, WIDTH)),
    "one dimension": _rows(torch.zeros(WIDTH)),
    "integers": _rows(torch.zeros(3, WIDTH, dtype=torch.long)),
    "no rows": _rows(torch.zeros(0, WIDTH)),
    "too long": _rows(torch.zeros(WINDOW + 8, WIDTH)),
    "sparse": _rows(torch.sparse_coo_tensor([[0], [1 << 20]], [1.0], (1, (1 << 20) + 1), check_invariants=True)),
    "a list of nothing": [],
    "a number": 3,
}


@pytest.mark.parametrize("what", BAD)
def test_malformed_input_leaves_the_server_alive(what: str, here: Engine, there: Engine, server: Server, prompts: list[str]) -> None:
    """Sent past the client, which would refuse it."""
    base = there.model.backend.base.name  # type: ignore[attr-defined]
    body = {"model": base, "prompt_embeds": BAD[what], "max_tokens": 4, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    assert 400 <= answer.status_code < 500, answer.text
    assert ids_there(there, prompts[1], None) == ids_here(here, prompts[1], None)


def test_rows_that_are_not_finite_never_leave_the_client(here: Engine, there: Engine, prompts: list[str]) -> None:
    for value in (float("nan"), float("inf"), 1e9):
        rows = torch.zeros(4, WIDTH)
        rows[2, 5] = value
        with pytest.raises(Exception, match="not finite"):
            there.model.backend.generate([ResolvedPrompt((rows,), 4, 4)], PARAMS)
    assert ids_there(there, prompts[2], None) == ids_here(here, prompts[2], None)
    assert encoded(torch.zeros(100, WIDTH)[:1]) != encoded(torch.zeros(100, WIDTH))


@pytest.mark.parametrize("backend", ["transformers", "vllm", "vllm-offline"])
def test_one_application_for_all_backends(
    backend: str, served_model: str, adapters: dict[str, str], server: Server, tmp_path: Path, printed: dict[str, str]
) -> None:
    """docs/serving_app.py, changed by one argument (and the address, for the port is any free one)."""
    words = [
        sys.executable,
        str(APP),
        "--backend",
        backend,
        "--model",
        served_model,
        "--dtype",
        "float32",
        "--store",
        f"{tmp_path}/s.sqlite",
    ]
    words += [w for name, path in adapters.items() for w in ("--adapter", f"{name}={path}")]
    words += ["--base-url", server.url] if backend == "vllm" else []
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    run = subprocess.run(words, capture_output=True, env=environment, timeout=400, check=False)
    assert run.returncode == 0, run.stderr.decode()[-3000:]
    printed[backend] = "\n".join(line for line in run.stdout.decode(errors="replace").splitlines() if "?" in line)
    assert len(printed[backend].splitlines()) >= 3
    assert printed[backend] == printed["transformers"]


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    return {}


def test_a_restart_in_mid_load(here: Engine, there: Engine, prompts: list[str], server: Server) -> None:
    """Every request is answered rightly or fails with one clear error, and none hangs; afterwards all are answered again."""
    expected = [ids_here(here, prompt, None) for prompt in prompts[:8]]
    done: list[Any] = []
    stop = threading.Event()

    def ask(i: int) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                outcome: Any = ids_there(there, prompts[i], None) == expected[i]
            except ServerError as error:
                outcome = error
            done.append((time.monotonic() - began, outcome))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    while len(done) < 16:
        time.sleep(0.05)
    server.kill()
    before = len(done)
    while sum(isinstance(outcome, ServerError) for _, outcome in done) < 4:
        time.sleep(0.05)
    server.start()
    server.wait()
    after = len(done)
    until = time.monotonic() + 60
    while sum(outcome is True for _, outcome in done[after:]) < 16 and time.monotonic() < until:
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert all(outcome is True or isinstance(outcome, ServerError) for _, outcome in done)
    assert sum(outcome is True for _, outcome in done[after:]) >= 16
    assert max(seconds for seconds, outcome in done if isinstance(outcome, ServerError)) < 60
    assert before >= 16
