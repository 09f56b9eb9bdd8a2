"""Many threads and tasks, three adapters, one of them failing: every answer is the one given alone, and every failure is told to the one who asked.

About ten seconds; ``LLOCO_LOAD_SECONDS=300`` for five minutes.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lloco_integrations.engine import Engine
from lloco_integrations.errors import IncompatibleAdapter, LLoCOError
from lloco_integrations.llama_index import LLoCOLLM
from lloco_integrations.types import GenerationParams
from tests.test_backend import save_adapter

SECONDS = float(os.environ.get("LLOCO_LOAD_SECONDS", "10"))
THREADS, TASKS = 64, 16
P = GenerationParams(max_new_tokens=4)


@pytest.mark.slow
def test_under_load_every_answer_is_the_one_given_alone(tiny_model: str, store_url: str, tmp_path: Path) -> None:
    adapters = {name: str(save_adapter(tmp_path / name, seed)) for name, seed in (("law", 1), ("tax", 2), ("bad", 3))}
    spoilt = {name: tensor.fill_(float("nan")) for name, tensor in load_file(Path(adapters["bad"]) / "adapter_model.safetensors").items()}
    save_file(spoilt, Path(adapters["bad"]) / "adapter_model.safetensors")
    engine = Engine(tiny_model, store_url, adapters, device="cpu", dtype="float32", max_adapters=1)
    llm = LLoCOLLM(tiny_model, store_url, adapters=adapters, device="cpu", dtype="float32", max_new_tokens=4, max_adapters=1)
    marks = [c.content for c in engine.compress([f"Paragraph {i} is about {'xyz'[i % 3] * (9 + i)}." for i in range(6)], ratio=8)]
    asked = [(f"{mark} what?", name) for mark in marks for name in ("law", "tax", "none")]
    alone = {(prompt, name): engine.generate([prompt], P, [name])[0].text for prompt, name in asked}
    assert len(set(alone.values())) > 6
    end = time.monotonic() + SECONDS
    done, wrong = {"answers": 0, "failures": 0}, []
    counting = threading.Lock()

    def check(given: list[str], expected: list[str]) -> None:
        with counting:
            done["answers"] += len(given)
            if given != expected:
                wrong.append((given, expected))

    def failed() -> None:
        with counting:
            done["failures"] += 1

    def work(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            batch = rng.sample(asked, rng.choice([1, 1, 2, 5]))
            expected = [alone[pair] for pair in batch]
            kind = rng.randrange(5)
            if kind == 0:
                with pytest.raises(IncompatibleAdapter, match="not finite"):
                    engine.generate([p for p, _ in batch], P, ["bad", *(n for _, n in batch[1:])])
                failed()
            elif kind == 1:
                stream = engine.stream(batch[0][0], P, batch[0][1])
                if rng.random() < 0.3:
                    next(stream, None)
                    stream.close()  # type: ignore[attr-defined]
                else:
                    check(["".join(c.delta for c in stream)], expected[:1])
            elif kind == 2:
                cancelled = threading.Event()
                threading.Timer(rng.random() * 0.05, cancelled.set).start()
                try:
                    check([g.text for g in engine.generate([p for p, _ in batch], P, [n for _, n in batch], cancelled)], expected)
                except LLoCOError as error:
                    if "not wanted" not in str(error):
                        raise
            else:
                check([g.text for g in engine.generate([p for p, _ in batch], P, [n for _, n in batch])], expected)

    async def tasks() -> None:
        async def one(seed: int) -> None:
            rng = random.Random(1000 + seed)
            while time.monotonic() < end:
                prompt, name = rng.choice(asked)
                if rng.random() < 0.2:
                    with pytest.raises(IncompatibleAdapter):
                        await llm.acomplete(prompt, adapter="bad")
                    failed()
                    continue
                task: Any = asyncio.ensure_future(llm.acomplete(prompt, adapter=name))
                if rng.random() < 0.2:
                    await asyncio.sleep(rng.random() * 0.05)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                else:
                    check([(await task).text], [alone[prompt, name]])

        await asyncio.gather(*map(one, range(TASKS)))

    with ThreadPoolExecutor(THREADS + 1) as pool:
        for future in [*(pool.submit(work, i) for i in range(THREADS)), pool.submit(asyncio.run, tasks())]:
            future.result()
    assert not wrong and done["answers"] > THREADS // 2 and done["failures"], done
    for pair, answer in alone.items():
        assert engine.generate([pair[0]], P, [pair[1]])[0].text == answer
