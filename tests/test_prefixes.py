"""What a prompt begins with is read once: the answers are the same, and nothing stale is used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from lloco_integrations.backends import prefixes
from lloco_integrations.backends.prefixes import Prefix, Prefixes
from lloco_integrations.backends.transformers import TransformersBackend
from lloco_integrations.errors import BadInput
from lloco_integrations.models import LLoCOModel, load_model
from lloco_integrations.types import GenerationParams, ResolvedPrompt
from tests import tiny
from tests.test_backend import save_adapter

PARAMS = GenerationParams(max_new_tokens=12)
TEXTS = ["The ferry to Skarv leaves at nine. " * 12, "Lighthouses are painted in spring. " * 10, "No dogs are let in. " * 20]
QUESTIONS = ["When?", "And who paints them, and with what?"]


@pytest.fixture
def model(tiny_model: str, tmp_path: Path) -> LLoCOModel:
    adapters = {name: str(save_adapter(tmp_path / name, seed)) for name, seed in (("law", 1), ("fairy", 2))}
    return load_model(tiny_model, adapters=adapters, device="cpu", dtype="float32")


@pytest.fixture
def backend(model: LLoCOModel) -> TransformersBackend:
    assert isinstance(model.backend, TransformersBackend)
    return model.backend


def prompt(model: LLoCOModel, texts: list[str], question: str) -> ResolvedPrompt:
    """As a chain makes it: words, summaries, words."""
    pieces: list[Any] = [model.text_ids("Context: ")]
    for summary in model.compress(texts):
        pieces += [model.compressor.read(summary), model.text_ids(".")]
    pieces.append(model.text_ids(f"{question} Answer:"))
    return ResolvedPrompt(tuple(pieces), sum(map(len, pieces)), 0)


@contextmanager
def counting(model: LLoCOModel) -> Iterator[list[int]]:
    """Positions of each forward pass of the decoder."""
    passes: list[int] = []
    layer: Any = model.decoder.base_model.layers[0]
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append((args or [kwargs["hidden_states"]])[0].shape[1]), with_kwargs=True
    )
    try:
        yield passes
    finally:
        handle.remove()


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[:2], TEXTS])
@pytest.mark.parametrize("adapter", [None, "law"])
def test_answers_are_those_of_the_whole_prompt(
    model: LLoCOModel, backend: TransformersBackend, texts: list[str], adapter: str | None
) -> None:
    path = None if adapter is None else model.adapters[adapter]
    asked = [prompt(model, texts, question) for question in QUESTIONS]
    backend.keep_prefixes(0)
    whole = [backend.generate([one], PARAMS, [path])[0].text for one in asked]
    assert backend.prefixes.nbytes == 0
    backend.keep_prefixes(prefixes.DEFAULT_BYTES)
    first = [backend.generate([one], PARAMS, [path])[0].text for one in asked]
    again = [backend.generate([one], PARAMS, [path])[0].text for one in asked]
    streamed = ["".join(chunk.delta for chunk in backend.stream(one, PARAMS, path)) for one in asked]
    together = [made.text for made in backend.generate(asked, PARAMS, [path] * len(asked))]
    assert backend.prefixes.nbytes > 0
    assert whole == first == again == streamed == together


def test_a_batch_of_all_kinds_answers_as_each_alone(model: LLoCOModel, backend: TransformersBackend) -> None:
    text = ResolvedPrompt((model.text_ids("A question about nothing at all, without any summary. " * 3),), 162, 162)
    asked = [prompt(model, TEXTS[:1], "When?"), text, prompt(model, TEXTS, "Who?"), prompt(model, TEXTS[:1], "And where is it?"), text]
    paths = [None, model.adapters["law"], model.adapters["law"], model.adapters["fairy"], None]
    backend.keep_prefixes(0)
    alone = [backend.generate([one], PARAMS, [path])[0].text for one, path in zip(asked, paths, strict=True)]
    backend.keep_prefixes(prefixes.DEFAULT_BYTES)
    for _ in range(2):
        assert [made.text for made in backend.generate(asked, PARAMS, paths)] == alone


def test_a_second_question_reads_only_what_follows(model: LLoCOModel, backend: TransformersBackend) -> None:
    first, second = (prompt(model, TEXTS[:2], question) for question in QUESTIONS)
    with counting(model) as passes:
        backend.generate([first], GenerationParams(max_new_tokens=1))
        rest = sum(map(len, first.pieces[-2:]))
        assert passes == [first.n_positions - rest, rest]
        backend.generate([second], GenerationParams(max_new_tokens=1))
        assert passes[2:] == [sum(map(len, second.pieces[-2:]))]


def test_what_a_batch_shares_is_read_once(model: LLoCOModel, backend: TransformersBackend) -> None:
    asked = [prompt(model, TEXTS[:2], question) for question in (*QUESTIONS, "Why?")]
    with counting(model) as passes:
        backend.generate(asked, GenerationParams(max_new_tokens=1))
    longest = max(sum(map(len, one.pieces[-2:])) for one in asked)
    assert passes == [asked[0].n_positions - sum(map(len, asked[0].pieces[-2:])), longest]


def test_each_adapter_has_its_own(model: LLoCOModel, backend: TransformersBackend) -> None:
    one = prompt(model, TEXTS[:1], "When?")
    with counting(model) as passes:
        for path in (None, model.adapters["law"], None, model.adapters["law"]):
            backend.generate([one], GenerationParams(max_new_tokens=1), [path])
    rest = sum(map(len, one.pieces[-2:]))
    assert [n for n in passes if n != rest] == [one.n_positions - rest] * 2


def test_an_adapter_that_was_learnt_anew_reads_anew(model: LLoCOModel, backend: TransformersBackend) -> None:
    one, path = prompt(model, TEXTS[:1], "When?"), model.adapters["law"]
    before = backend.generate([one], PARAMS, [path])[0].text
    save_adapter(Path(path), 5)
    after = backend.generate([one], PARAMS, [path])[0].text
    backend.prefixes = Prefixes(0)
    assert backend.generate([one], PARAMS, [path])[0].text == after != before


def test_a_decoder_that_was_trained_reads_anew(model: LLoCOModel, backend: TransformersBackend) -> None:
    one = prompt(model, TEXTS[:1], "When?")
    before = backend.generate([one], PARAMS)[0].text
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.mul_(1.5)
    after = backend.generate([one], PARAMS)[0].text
    backend.keep_prefixes(0)
    assert backend.generate([one], PARAMS)[0].text == after != before


def test_what_is_held_is_bounded_by_bytes(model: LLoCOModel, backend: TransformersBackend) -> None:
    asked = [prompt(model, [text], "When?") for text in TEXTS]
    backend.generate(asked[:1], PARAMS)
    one = backend.prefixes.nbytes
    backend.keep_prefixes(int(2.2 * one))
    for prompt_ in asked:
        backend.generate([prompt_], PARAMS)
        assert one <= backend.prefixes.nbytes <= backend.prefixes.limit
    backend.keep_prefixes(one // 2)
    assert backend.prefixes.nbytes == 0
    backend.generate(asked[:1], PARAMS)
    assert backend.prefixes.nbytes == 0


def test_the_least_recently_used_goes_first() -> None:
    prefix = Prefix(((torch.zeros(1, 1, 64, 8), torch.zeros(1, 1, 64, 8)),))
    held = Prefixes(2 * prefix.nbytes)
    held.put(b"a", prefix)
    held.put(b"b", prefix)
    assert held.get(b"a") is prefix
    held.put(b"c", prefix)
    assert [held.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]


def test_keys_tell_apart_what_is_read_differently() -> None:
    rows = torch.ones(4, 8)
    keys = [
        prefixes.key([[1, 2], rows]),
        prefixes.key([[1], [2], rows]),
        prefixes.key([[1, 2], rows.bfloat16()]),
        prefixes.key([[1, 2], rows[:2], rows[2:]]),
        prefixes.key([[1, 2], rows * 1.0001]),
        prefixes.key([[1, 2], rows], "adapter"),
    ]
    assert len(set(keys)) == len(keys)
    assert prefixes.key([[1, 2], rows.clone()]) == keys[0]


@pytest.mark.parametrize(
    ("pieces", "n"),
    [
        (([1] * 10, torch.zeros(60, 8), [2] * 3), 2),
        (([1] * 10, torch.zeros(40, 8), [2] * 30), 0),  # too short
        (([1] * 10, torch.zeros(60, 8)), 0),  # nothing would be left to read
        (([1] * 200,), 0),
        ((torch.zeros(50, 8), [1], torch.zeros(50, 8), [2] * 3), 3),
    ],
)
def test_what_is_read_by_itself(pieces: tuple[Any, ...], n: int) -> None:
    assert prefixes.context(ResolvedPrompt(pieces, sum(map(len, pieces)), 0)) == n


def test_a_decoder_with_a_sliding_window_reads_prompts_whole() -> None:
    config = MistralConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=32,
    )
    torch.manual_seed(0)
    backend = TransformersBackend(MistralForCausalLM(config).eval(), tiny.tokenizer())
    asked = ResolvedPrompt(([5] * 10, torch.randn(90, 32), [7] * 9), 109, 0)
    backend.generate([asked], PARAMS)
    assert not prefixes.keeps_all(config) and backend.prefixes.nbytes == 0


@pytest.mark.needs("langchain_core", "llama_index.core")
def test_applications_set_the_bound(tiny_model: str, tmp_path: Path) -> None:
    from lloco_integrations.langchain import ChatLLoCO
    from lloco_integrations.llama_index import LLoCOLLM

    names: Any = {"model": tiny_model, "store": f"sqlite:///{tmp_path}/s.sqlite", "device": "cpu", "dtype": "float32"}
    for n, llm in enumerate([LLoCOLLM(**names, prefix_cache_bytes=0), ChatLLoCO(**names, prefix_cache_bytes=1000)]):
        assert llm.engine.model.backend.prefixes.limit == 1000 * n  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="prefix_cache_bytes is -1"):
        load_model(tiny_model).backend.keep_prefixes(-1)  # type: ignore[attr-defined]


def test_no_warning_of_what_goes_away_reaches_a_user(model: LLoCOModel, backend: TransformersBackend) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", DeprecationWarning)
        for adapter in (None, "law"):
            asked = prompt(model, TEXTS, QUESTIONS[0])
            path = adapter and str(model.adapters[adapter])
            first = backend.generate([asked], PARAMS, [path])
            assert backend.generate([asked], PARAMS, [path]) == first
            assert list(backend.stream(asked, PARAMS, path))[-1].final == first[0]
        assert backend.prefixes.nbytes


class OldForward:
    def forward(self, inputs_embeds: Any, past_key_values: Any = None) -> None: ...


class NewForward:
    def forward(self, inputs_embeds: Any, cache: Any = None) -> None: ...


@pytest.mark.parametrize(("model", "name"), [(OldForward(), "past_key_values"), (NewForward(), "cache")])
def test_a_cache_is_given_by_the_name_that_a_decoder_takes(model: Any, name: str) -> None:
    cache = object()
    assert prefixes.argument(cache, model) == {name: cache}
    assert prefixes.argument(None, model) == {}
