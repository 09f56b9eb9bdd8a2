"""Shared fixtures. Nothing here downloads; the tiny models are built once a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests import tiny
from tests.checkpoints import GOLDEN

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # tiny models: more threads only wait for each other

OF_EXTRAS = {
    "langchain": ["langchain_core"],
    "llama_index": ["llama_index"],
    **{
        f"hostile/test_{name}.py": ["langchain_core", "llama_index"]
        for name in ("load", "prompt_text", "secrets", "streams", "two_tenants")
    },
    "test_concurrency.py": ["langchain_core", "llama_index"],
    "test_vllm_client.py": ["langchain_core", "llama_index"],
    "vllm": ["langchain_core", "llama_index"],
}
"""What cannot even be imported without an extra; one test or one file of them is marked ``needs``."""
collect_ignore = [path for path, modules in OF_EXTRAS.items() if not all(map(find_spec, modules))]


def pytest_report_header() -> str:
    return f"left out for want of an extra: {', '.join(collect_ignore) or 'nothing'}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for module in mark.args:
            pytest.importorskip(module)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a mean_pool model directory with random weights, window 4096."""
    return str(tiny.save_mean_pool(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of a small AutoCompressor checkpoint, to be changed at will."""
    return shutil.copytree(GOLDEN / "ckpt_mha", tmp_path / "checkpoint")


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """URL of an sqlite store of this test alone."""
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


@pytest.fixture
def lloco_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LLOCO_HOME in an empty folder."""
    monkeypatch.setenv("LLOCO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def real_cache(request: pytest.FixtureRequest) -> Path:
    """A home that stays between test runs, so that the embedded default model is built once; never the user's own."""
    cache = request.config.cache
    assert cache is not None
    return Path(cache.mkdir("lloco-home"))


@pytest.fixture(scope="module")
def real_home(real_cache: Path) -> Iterator[Path]:
    """LLOCO_HOME with the embedded default model, and two threads for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLOCO_HOME", str(real_cache))
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        yield real_cache
        torch.set_num_threads(threads)


@pytest.fixture
def llama_index_settings() -> Iterator[None]:
    """LlamaIndex's Settings are the process's: as they were, afterwards."""
    import llama_index.core
    from llama_index.core import Settings

    before, tokenizer = dict(vars(Settings)), llama_index.core.global_tokenizer
    yield
    vars(Settings).clear()
    vars(Settings).update(before)
    llama_index.core.global_tokenizer = tokenizer
