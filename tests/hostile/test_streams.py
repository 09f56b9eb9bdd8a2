"""Streams that nobody reads, tasks that are cancelled, and forks in the middle of an answer."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lloco_integrations import langchain, llama_index
from lloco_integrations.engine import Engine
from lloco_integrations.errors import LLoCOError, PromptTooLong
from lloco_integrations.types import GenerationParams
from tests.test_backend import save_adapter

LONG = GenerationParams(max_new_tokens=3000)
SHORT = GenerationParams(max_new_tokens=3)


@pytest.fixture
def engine(tiny_model: str, store_url: str) -> Engine:
    made = Engine(tiny_model, store_url, device="cpu", dtype="float32")
    assert made.generate(["hello"], GenerationParams(300))[0].finish_reason == "length", "it would end by itself"
    return made


def busy() -> bool:
    return any(thread.name == "lloco-generate" for thread in threading.enumerate())


def soon(done: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.01)
    return done()


def test_a_stream_that_is_never_read_generates_nothing(engine: Engine) -> None:
    kept = engine.stream("hello", LONG)
    assert not busy()
    began = time.monotonic()
    engine.generate(["next"], SHORT)
    dropped = engine.stream("hello", LONG)
    del dropped
    gc.collect()
    engine.generate(["next"], SHORT)
    assert time.monotonic() - began < 2 and not busy()
    assert next(kept).delta
    assert busy()
    kept.close()  # type: ignore[attr-defined]
    assert soon(lambda: not busy())


def test_a_stream_still_refuses_a_prompt_before_it_is_read(engine: Engine) -> None:
    with pytest.raises(PromptTooLong):
        engine.stream("long " * 1000, SHORT)


def test_one_that_waits_for_its_turn_can_be_given_up(engine: Engine) -> None:
    first = engine.stream("hello", LONG)
    next(first)
    second = engine.stream("hello", LONG)
    waiter = threading.Thread(target=lambda: next(second, None))
    waiter.start()
    time.sleep(0.1)
    cancelled = threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            engine.generate(["a", "b"], LONG, cancelled=cancelled)
        except LLoCOError as error:
            failed.append(error)

    third = threading.Thread(target=ask)
    third.start()
    time.sleep(0.1)
    cancelled.set()
    third.join(3)
    assert failed and "not wanted" in str(failed[0])
    first.close()  # type: ignore[attr-defined]
    waiter.join(5)
    second.close()  # type: ignore[attr-defined]
    assert soon(lambda: not busy())


@pytest.mark.parametrize("prompts", [1, 3])
async def test_a_cancelled_completion_leaves_the_model_free(tiny_model: str, store_url: str, engine: Engine, prompts: int) -> None:
    llm = langchain.LLoCOLLM(model=tiny_model, store=store_url, device="cpu", dtype="float32", max_tokens=3000)
    task: Any = asyncio.ensure_future(llm.ainvoke("hello") if prompts == 1 else llm.agenerate(["hello"] * prompts))
    await asyncio.sleep(0.3)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    began = time.monotonic()
    await asyncio.to_thread(engine.generate, ["next"], SHORT)
    assert time.monotonic() - began < 2


async def test_a_cancelled_answer_through_llama_index(tiny_model: str, store_url: str, engine: Engine) -> None:
    llm = llama_index.LLoCOLLM(tiny_model, store_url, device="cpu", dtype="float32", max_new_tokens=3000)
    task = asyncio.ensure_future(llm.acomplete("hello"))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    began = time.monotonic()
    await asyncio.to_thread(engine.generate, ["next"], SHORT)
    assert time.monotonic() - began < 2


FORK = """
import os, sys, threading, time
import torch
torch.set_num_threads(int(sys.argv[4]))
from lloco_integrations.engine import Engine
from lloco_integrations.types import GenerationParams
from lloco_integrations.models.load import _shared
model, store, adapter = sys.argv[1:4]
engine = Engine(model, store, {"law": adapter}, device="cpu", dtype="float32")
mark = engine.compress(["some text of some length " * 10])[0].content
def everything():
    made = engine.generate([mark, mark, "x"], GenerationParams(4), ["law", None, "law"])
    return [g.text for g in made] + [c.delta for c in engine.stream(mark, GenerationParams(4), "law")]
expected = everything()
def work():
    while True:
        engine.generate([mark, mark + "?"], GenerationParams(40), ["law", None])
        engine.compress([f"text {time.time()} " * 10])
if sys.argv[5] == "busy":
    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.2)
for i in range(6):
    pid = os.fork()
    if pid == 0:
        engine.compress([f"child {i}"])
        os._exit(0 if everything() == expected else 3)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if status:
                sys.exit(f"child {i} ended with {status}")
            break
        time.sleep(0.01)
    else:
        os.kill(pid, 9)
        sys.exit(f"child {i} hangs")
print("well")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("threads", "state"), [(1, "busy"), (2, "idle")])
def test_a_fork_answers_as_its_parent(tiny_model: str, store_url: str, tmp_path: Path, threads: int, state: str) -> None:
    adapter = str(save_adapter(tmp_path / "law", 1))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORK), tiny_model, store_url, adapter, str(threads), state],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    assert done.stdout.strip().endswith("well"), done.stdout[-300:] + done.stderr[-2000:]


@pytest.mark.slow
def test_a_model_that_was_loaded_in_a_fork_keeps_its_threads(tiny_model: str) -> None:
    code = f"""
    import os, torch
    torch.set_num_threads(2)
    from lloco_integrations.models import load_model
    pid = os.fork()
    if pid == 0:
        load_model({tiny_model!r}, device="cpu", dtype="float32").generate(["x"])
        os._exit(torch.get_num_threads())
    _, status = os.waitpid(pid, 0)
    print("threads", os.waitstatus_to_exitcode(status))
    """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "threads 2", done.stderr[-500:]
