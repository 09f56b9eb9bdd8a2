"""The transformers backend: batches, streams, stop strings, adapters, errors."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from lloco_integrations.errors import BadInput, IncompatibleAdapter, LLoCOError, PromptTooLong
from lloco_integrations.models import LLoCOModel, load_model
from lloco_integrations.types import GenerationParams
from tests import tiny

PARAMS = GenerationParams(max_new_tokens=12)
PROMPTS = ["one", "a rather longer question about nothing at all", "two", "x" * 200]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: str(save_adapter(tmp_path_factory.mktemp("adapters") / name, seed)) for name, seed in (("law", 1), ("fairy", 2))}


def save_adapter(path: Path, seed: int, hidden: int = 32, whole: list[str] | None = None) -> Path:
    from peft import LoraConfig, get_peft_model

    base = tiny.decoder(hidden=hidden)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], modules_to_save=whole, task_type="CAUSAL_LM", init_lora_weights=False
    )
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data += torch.randn_like(parameter)
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(tiny_model: str, adapters: dict[str, str]) -> LLoCOModel:
    return load_model(tiny_model, adapters=adapters, device="cpu", dtype="float32")


def test_a_batch_answers_as_each_alone(model: LLoCOModel) -> None:
    context = model.compress(["the quick brown fox " * 20])[0]
    prompts = [*PROMPTS, [context, model.text_ids("what?")]]
    together = model.generate(prompts, PARAMS)
    assert together == [model.generate([p], PARAMS)[0] for p in prompts]
    assert len({g.text for g in together}) > 1


def test_generation_continues_the_training_path(model: LLoCOModel) -> None:
    """The greedy answer is the one that ``loss`` finds the most likely, token by token."""
    context = model.compress(["some context to read " * 5])[0]
    vectors, prompt = model.compressor.read(context, 8), model.text_ids("and then?")
    resolved = model.resolve([context, prompt])
    assert resolved.n_positions == context.n_vectors + len(prompt)
    embedding = model.decoder.get_input_embeddings()
    first = model.backend.generate(
        [type(resolved)((vectors, prompt), 0 + vectors.shape[0] + len(prompt), 0)], GenerationParams(max_new_tokens=1)
    )
    losses = torch.stack([model.loss(vectors, prompt, [t]) for t in range(300)])
    best = int(losses.argmin())
    assert model.tokenizer is not None
    assert first[0].text == model.tokenizer.decode([best], skip_special_tokens=True)
    assert embedding.weight.shape[0] == 300


def test_loss_is_the_decoder_alone_whatever_answered_before(model: LLoCOModel, adapters: dict[str, str]) -> None:
    prompt, label = model.text_ids("and then?"), model.text_ids("x")
    before = model.loss(None, prompt, label)
    model.generate([PROMPTS[0]], PARAMS, adapters=[next(iter(adapters))])
    assert torch.equal(model.loss(None, prompt, label), before)


def test_streaming_gives_the_same_answer_in_pieces(model: LLoCOModel) -> None:
    for prompt in PROMPTS:
        chunks = list(model.stream(prompt, PARAMS))
        expected = model.generate([prompt], PARAMS)[0]
        assert "".join(c.delta for c in chunks) == expected.text
        assert chunks[-1].final == expected
        assert all(c.final is None for c in chunks[:-1])


def test_stop_strings_end_and_are_cut_off(model: LLoCOModel) -> None:
    full = model.generate(["one"], PARAMS)[0].text
    stop = full[3:5]
    params = GenerationParams(max_new_tokens=12, stop=(stop,))
    stopped = model.generate(["one"], params)[0]
    assert stopped.text == full[: full.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.usage.completion_tokens < 12
    streamed = list(model.stream("one", params))
    assert "".join(c.delta for c in streamed) == stopped.text


def test_sampling_follows_the_seed(model: LLoCOModel) -> None:
    def sample(seed: int) -> str:
        return model.generate(["one"], GenerationParams(max_new_tokens=12, temperature=1.5, seed=seed))[0].text

    assert sample(1) == sample(1)
    assert len({sample(s) for s in range(4)}) > 1


def test_abandoning_a_stream_stops_the_generation(model: LLoCOModel) -> None:
    stream = model.stream("one", GenerationParams(max_new_tokens=2000))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "lloco-generate"]


def test_an_error_in_the_generating_thread_reaches_the_consumer(model: LLoCOModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("boom")

    monkeypatch.setattr(model.backend.adapters.model, "generate", broken)  # type: ignore[attr-defined]
    with pytest.raises(LLoCOError, match="ValueError: boom"):
        list(model.stream("one", PARAMS))
    with pytest.raises(LLoCOError, match="ValueError: boom"):
        model.generate(["one"], PARAMS)


def test_a_prompt_over_the_window_names_both(tmp_path: Path) -> None:
    small = load_model(tiny.save_mean_pool(tmp_path / "m", window=64), device="cpu", dtype="float32")
    with pytest.raises(PromptTooLong, match=r"takes 1\d\d positions.*window has 64"):
        small.generate(["x" * 100])
    assert small.generate(["x" * 20], GenerationParams(max_new_tokens=500))[0].usage.completion_tokens <= 44


def test_adapters_in_one_batch_and_from_threads(model: LLoCOModel) -> None:
    names = [None, "law", "fairy", "law", None, "fairy"]
    alone = [model.generate(["one"], PARAMS, adapters=[n])[0] for n in names]
    assert model.generate(["one"] * 6, PARAMS, adapters=names) == alone
    assert len({g.text for g in alone}) == 3
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda n: model.generate(["one"], PARAMS, adapters=[n])[0], names * 4))
    assert answers == alone * 4


def test_adapters_leave_the_base_and_the_compressor_alone(tiny_model: str, model: LLoCOModel) -> None:
    model.generate(["one"], PARAMS, adapters=["law"])
    plain = load_model(tiny_model, device="cpu", dtype="float32")
    assert model.generate(["one"], PARAMS) == plain.generate(["one"], PARAMS)
    assert torch.equal(model.compress(["some text"])[0].vectors, plain.compress(["some text"])[0].vectors)


def test_changing_adapters_leaves_every_layer_as_peft_does(model: LLoCOModel) -> None:
    model.generate(["one"] * 2, PARAMS, adapters=["law", "fairy"])
    held = model.backend.adapters  # type: ignore[attr-defined]
    layers = [m for m in held.model.modules() if isinstance(m, BaseTunerLayer)]
    assert layers
    of_path = dict(zip(held.loaded, held.model.peft_config, strict=True))

    def state() -> list[tuple[list[str], bool]]:
        return [(layer.active_adapters, layer.disable_adapters) for layer in layers]

    for path in (*held.loaded, None, *held.loaded):
        held.choose([path], 8)
        ours = state()
        with torch.inference_mode():
            if path is None:
                held.model.base_model.disable_adapter_layers()
            else:
                held.model.base_model.enable_adapter_layers()
                held.model.set_adapter(of_path[path])
        assert ours == state()


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings")
def test_changing_to_an_adapter_that_replaces_a_whole_module(tiny_model: str, adapters: dict[str, str], tmp_path: Path) -> None:
    paths = {**adapters, "head": str(save_adapter(tmp_path / "head", 3, whole=["lm_head"]))}
    alone = {}
    for name in (*paths, "none"):
        alone[name] = load_model(tiny_model, adapters=paths, device="cpu", dtype="float32").generate(["one"], PARAMS, adapters=[name])
    assert len({made[0].text for made in alone.values()}) == 4
    model = load_model(tiny_model, adapters=paths, device="cpu", dtype="float32")
    for name in ("law", "head", "none", "fairy", "head", "law", "none"):
        assert model.generate(["one"], PARAMS, adapters=[name]) == alone[name]
    with pytest.raises(IncompatibleAdapter, match=r"head\) replaces whole modules.*ask under one adapter at a time"):
        model.generate(["one"] * 2, PARAMS, adapters=["law", "head"])


def test_adapters_that_do_not_fit(tiny_model: str, tmp_path: Path) -> None:
    wide = save_adapter(tmp_path / "wide", 0, hidden=64)
    (tmp_path / "empty").mkdir()
    paths = {"wide": str(wide), "empty": str(tmp_path / "empty"), "gone": str(tmp_path / "gone")}
    model = load_model(tiny_model, adapters=paths, device="cpu", dtype="float32")
    for name, reason in [
        ("wide", "64 features there and 32 here"),
        ("empty", "not a LoRA"),
        ("gone", "no directory"),
        ("nobody", r"no adapter is named 'nobody' \(known: empty, gone, wide\)"),
    ]:
        with pytest.raises(IncompatibleAdapter, match=reason):
            model.generate(["one"], adapters=[name])
    assert model.generate(["one"], PARAMS)[0].usage.completion_tokens
    with pytest.raises(BadInput, match="1 adapters for 2 prompts"):
        model.generate(["one", "two"], adapters=[None])


def test_adapters_are_evicted_least_recently_used_and_answer_the_same_afterwards(tiny_model: str, adapters: dict[str, str]) -> None:
    model = load_model(tiny_model, adapters={**adapters, "third": adapters["law"] + "/"}, device="cpu", dtype="float32")
    before = {name: model.generate(["one"], PARAMS, adapters=[name])[0].text for name in (*adapters, "none")}
    assert len(set(before.values())) == 3
    model.backend.max_adapters = 1
    held = model.backend.adapters  # type: ignore[attr-defined]
    for name in ("law", "fairy", "none", "law", "third", "fairy"):
        assert model.generate(["one"], PARAMS, adapters=[name])[0].text == before[name.replace("third", "law")]
        assert len(held.loaded) == 1
        assert len(held.model.peft_config) == 1
    mixed = model.generate(["one"] * 3, PARAMS, adapters=["law", "fairy", "none"])
    assert [m.text for m in mixed] == list(before.values()), "a batch may hold more adapters than stay"
    assert len(held.loaded) == 2


def test_an_adapter_that_was_learnt_anew_is_loaded_anew(tiny_model: str, tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "law", 1)
    model = load_model(tiny_model, adapter=path, device="cpu", dtype="float32")
    first = model.generate(["one"], PARAMS)[0]
    assert first.adapter == "default"
    assert first.text != model.generate(["one"], PARAMS, adapters=["none"])[0].text
    save_adapter(path, 2)
    assert model.generate(["one"], PARAMS)[0].text != first.text
