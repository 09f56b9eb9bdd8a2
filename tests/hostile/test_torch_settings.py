"""What others set in torch, for the process or for their thread, changes no answer of ours."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import lloco_integrations
from lloco_integrations.compressors.mean_pool import Projector
from lloco_integrations.engine import Engine
from lloco_integrations.models import load_model
from lloco_integrations.types import GenerationParams, SummaryEmbeddings
from tests.checkpoints import GOLDEN
from tests.test_backend import save_adapter

P = GenerationParams(max_new_tokens=6)
TEXT = "The lamp of the lighthouse was lit in 1911, and again after the war. " * 6


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default bfloat16": lambda: default_dtype(torch.bfloat16),
    "default float16": lambda: default_dtype(torch.float16),
    "default float64": lambda: default_dtype(torch.float64),
    "default device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "deterministic": deterministic,
    "two threads": lambda: threads(2),
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: str(save_adapter(folder / name, seed)) for name, seed in (("law", 1), ("tax", 2))}


def everything(model_path: str, adapters: dict[str, str]) -> list[Any]:
    """Load, compress, read at two ratios, answer, mixed, sampled and streamed."""
    model = load_model(model_path, adapters=adapters, device="cpu", dtype="float32")
    (summary,) = model.compress([TEXT])
    prompts: list[Any] = [[summary, model.text_ids("What?")], "one"]
    made = model.generate([*prompts, "two"], P, adapters=["law", "tax", "none"])
    sampled = model.generate(["one"], GenerationParams(6, temperature=1.0, top_p=0.9, top_k=20, repetition_penalty=1.2, seed=3))
    streamed = [chunk.delta for chunk in model.stream(prompts[0], P, adapter="law")]
    return [
        summary.vectors.clone(),
        model.compressor.read(summary, 16).clone(),
        *model.compressor.encoder.projector.state_dict().values(),  # type: ignore[attr-defined]
        made,
        sampled,
        streamed,
    ]


def paper(*_: Any) -> list[Any]:
    model = load_model(GOLDEN / "ckpt_mha", device="cpu", dtype="float32")
    (summary,) = model.compress_ids([[5, 6, 7, 8] * 4])
    return [summary.vectors.clone(), model.generate([[summary, [5, 6, 7]]], P, adapters=[str(GOLDEN / "adapter_mha")])]


@pytest.mark.parametrize("of", [everything, paper])
@pytest.mark.parametrize("setting", SETTINGS)
def test_all_is_the_same_to_the_bit(
    tiny_model: str, adapters: dict[str, str], setting: str, of: Callable[[str, dict[str, str]], list[Any]]
) -> None:
    expected = of(tiny_model, adapters)
    with SETTINGS[setting]():
        got = of(tiny_model, adapters)
    for ours, theirs in zip(got, expected, strict=True):
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype and ours.device == theirs.device
            if setting == "two threads":
                torch.testing.assert_close(ours, theirs)
            else:
                assert torch.equal(ours, theirs)
        else:
            assert ours == theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("setting", SETTINGS)
def test_coarsening(setting: str, dtype: torch.dtype) -> None:
    summary = SummaryEmbeddings(torch.randn(9, 8).to(dtype), 34, "x", window=4)
    expected = summary.coarsen(16).vectors
    with SETTINGS[setting]():
        got = summary.coarsen(16).vectors
    assert got.dtype == dtype and torch.equal(got, expected)


def test_a_projector_is_float32_when_others_load_models() -> None:
    state = Projector(8, salience=True).state_dict()
    state["slots"].normal_()
    with default_dtype(torch.bfloat16):
        projector = Projector.of_state(state)
    assert all(torch.equal(value, state[name]) for name, value in projector.state_dict().items())


def test_queries_while_another_thread_changes_the_default_dtype(tiny_model: str, store_url: str) -> None:
    """As transformers does while it loads a model in bfloat16."""
    engine = Engine(tiny_model, store_url, device="cpu", dtype="float32")
    prompts = [c.content for ratio in (4, 8, 16) for c in engine.compress([TEXT, TEXT[:90]], ratio=ratio)]
    expected = engine.generate(prompts, P)
    stop = threading.Event()

    def restless() -> None:
        while not stop.is_set():
            torch.set_default_dtype(torch.bfloat16)
            torch.set_default_dtype(torch.float32)

    thread = threading.Thread(target=restless)
    thread.start()
    try:
        for _ in range(6):
            assert engine.generate(prompts, P) == expected
    finally:
        stop.set()
        thread.join()
        torch.set_default_dtype(torch.float32)


MAKERS = re.compile(r"torch\.(?:zeros|ones|full|empty|eye|linspace|rand|randn|arange|tensor)\(")


def test_every_tensor_of_the_package_is_made_with_a_dtype() -> None:
    """In what runs where an application runs: training and evaluation are processes of their own."""
    found = []
    for path in sorted(Path(lloco_integrations.__file__).parent.rglob("*.py")):
        if not {"training", "evaluation"} & set(path.parts):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if MAKERS.search(line) and "dtype=" not in line and "**on" not in line:
                    found.append(f"{path.name}:{number}: {line.strip()}")
    assert found == []
