"""Adapters that say more than a LoRA does, or do not fit, or fail: the base and the other groups answer as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lloco_integrations.backends.base import Backend
from lloco_integrations.errors import IncompatibleAdapter, LLoCOError
from lloco_integrations.models import LLoCOModel, load_model
from lloco_integrations.types import GenerationParams
from tests import tiny
from tests.checkpoints import GOLDEN
from tests.test_backend import save_adapter

P = GenerationParams(max_new_tokens=8)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: str(save_adapter(folder / name, seed)) for name, seed in (("law", 1), ("tax", 2))}


@pytest.fixture(scope="module")
def alone(tiny_model: str, adapters: dict[str, str]) -> dict[str, str]:
    """What each answers in a model of its own."""
    return {name: loaded(tiny_model, adapters).generate(["one"], P, adapters=[name])[0].text for name in ("none", "law", "tax")}


def loaded(tiny_model: str, adapters: dict[str, str], **more: str) -> LLoCOModel:
    return load_model(tiny_model, adapters=adapters | more, device="cpu", dtype="float32")


def backend(model: LLoCOModel) -> Any:
    found: Backend = model.backend
    return found


def edited(source: str, target: Path, tensors: Any = None, **config: Any) -> str:
    """A copy of an adapter with other values in its configuration, and tensors that ``tensors`` has changed in place."""
    shutil.copytree(source, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors is not None:
        held = load_file(target / "adapter_model.safetensors")
        tensors(held)
        save_file(held, target / "adapter_model.safetensors")
    return str(target)


def special(path: Path, **config: Any) -> str:
    """An adapter that peft saves itself."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    made = get_peft_model(tiny.decoder(), LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj"], task_type="CAUSAL_LM", **config))
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    made.save_pretrained(path)
    return str(path)


# --- an AutoCompressor, whose compressor is the decoder that adapters are put on


def test_an_autocompressor_compresses_after_an_adapter_answered() -> None:
    model = load_model(GOLDEN / "ckpt_mha", device="cpu", dtype="float32")
    before = model.compress_ids([[5, 6, 7, 8]])[0].vectors
    adapter = [str(GOLDEN / "adapter_mha")]
    answer = model.generate([[[5, 6, 7]]], P, adapters=adapter)[0].text
    assert torch.equal(model.compress_ids([[5, 6, 7, 8]])[0].vectors, before)
    assert model.generate([[[5, 6, 7]]], P, adapters=adapter)[0].text == answer
    base = model.generate([[[5, 6, 7]]], P)[0].text
    assert base != answer
    assert torch.equal(model.compress_ids([[5, 6, 7, 8]])[0].vectors, before)
    assert model.generate([[[5, 6, 7]]], P, adapters=adapter)[0].text == answer


def test_weights_and_adapters_are_usual_tensors_also_in_inference_mode() -> None:
    with torch.inference_mode():
        model = load_model(GOLDEN / "ckpt_mha", device="cpu", dtype="float32")
        model.generate([[[5, 6, 7]]], P, adapters=[str(GOLDEN / "adapter_mha")])
    parts = {**dict(backend(model).adapters.model.named_parameters()), **dict(model.decoder.named_buffers())}
    assert [name for name, tensor in parts.items() if tensor.is_inference()] == []


# --- what a configuration may not say

REWRITE = {
    "pissa": {"init_lora_weights": "pissa"},
    "pissa_niter": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "corda": {"init_lora_weights": "corda"},
    "loftq": {"init_lora_weights": "loftq"},
    "lora_ga": {"init_lora_weights": "lora_ga"},
    "an unknown start": {"init_lora_weights": "of tomorrow"},
    "a list": {"init_lora_weights": ["pissa"]},
    "replication": {"layer_replication": [[0, 2], [0, 2]]},
    "bias": {"bias": "all"},
    "lora_only": {"bias": "lora_only"},
    "tokens": {"trainable_token_indices": [0]},
    "parameters": {"target_parameters": ["weight"]},
    "arrow": {"arrow_config": {"top_k": 1}},
    "tomorrow": {"rewrites_the_base_in_a_later_version": True},
    "a huge rank": {"r": 2_000_000},
    "no rank": {"r": None},
    "a rank of text": {"r": "8"},
    "a negative rank": {"r": -4},
    "another rank for some": {"rank_pattern": {"q_proj": 2_000_000}, "r": 5},
    "an expression": {"rank_pattern": {"(a+)+b": 4}},
    "alpha": {"lora_alpha": float("nan")},
    "infinite alpha": {"lora_alpha": float("inf")},
    "an alpha of text": {"lora_alpha": "64"},
    "another kind": {"peft_type": "LOHA"},
    "no kind": {"peft_type": ["LORA"]},
    "whole modules that are not there": {"modules_to_save": ["lm_head"]},
    "whole modules of no name": {"modules_to_save": [3]},
    "dora without magnitudes": {"use_dora": True},
    "a bias that is not there": {"lora_bias": True},
    "a switch of text": {"use_rslora": "yes"},
}


@pytest.mark.parametrize("case", REWRITE)
def test_an_adapter_cannot_change_the_base_or_stay_half_loaded(
    tiny_model: str, adapters: dict[str, str], alone: dict[str, str], tmp_path: Path, case: str
) -> None:
    bad = edited(adapters["law"], tmp_path / "bad", **REWRITE[case])
    for first in (True, False):
        model = loaded(tiny_model, adapters, bad=bad)
        base = {name: tensor.clone() for name, tensor in model.decoder.state_dict().items()}
        if not first:
            model.generate(["one"], P, adapters=["law"])
        with pytest.raises(IncompatibleAdapter, match="bad"):
            model.generate(["one"], P, adapters=["bad"])
        assert {name: model.generate(["one"], P, adapters=[name])[0].text for name in alone} == alone
        now = {name.replace(".base_layer", ""): tensor for name, tensor in model.decoder.state_dict().items() if ".lora_" not in name}
        assert now.keys() == base.keys() and all(torch.equal(tensor, base[name]) for name, tensor in now.items())


def _first(held: dict[str, torch.Tensor]) -> str:
    return next(name for name in held if name.endswith("lora_A.weight"))


TENSORS = {
    "a base weight": lambda held: held.update({"base_model.model.model.embed_tokens.weight": torch.zeros(300, 32)}),
    "a base layer": lambda held: held.update({_first(held).replace("lora_A", "base_layer"): torch.zeros(32, 32)}),
    "another adapter's weight": lambda held: held.update({_first(held).replace("lora_A", "lora_A.a0"): torch.zeros(4, 32)}),
    "a half": lambda held: held.pop(_first(held)),
    "three dimensions": lambda held: held.update({_first(held): torch.zeros(4, 32, 1)}),
    "another rank": lambda held: held.update({_first(held): torch.zeros(3, 32)}),
    "another width": lambda held: held.update({_first(held): torch.zeros(4, 31)}),
    "NaN": lambda held: held[_first(held)].fill_(float("nan")),
    "infinity": lambda held: held[_first(held)].fill_(float("-inf")),
    "huge": lambda held: held[_first(held)].fill_(3e38),
    "integers": lambda held: held.update({_first(held): torch.zeros(4, 32, dtype=torch.int32)}),
    "nothing": lambda held: held.clear(),
    "a module of nowhere": lambda held: held.update({"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": torch.zeros(4, 32)}),
    "a norm": lambda held: held.update({"base_model.model.model.norm.lora_A.weight": torch.zeros(4, 32)}),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_are_checked_before_they_are_loaded(
    tiny_model: str, adapters: dict[str, str], alone: dict[str, str], tmp_path: Path, case: str
) -> None:
    bad = edited(adapters["law"], tmp_path / "bad", TENSORS[case])
    model = loaded(tiny_model, adapters, bad=bad)
    model.generate(["one"], P, adapters=["law"])
    with pytest.raises(IncompatibleAdapter, match="bad"):
        model.generate(["one"], P, adapters=["bad"])
    assert {name: model.generate(["one"], P, adapters=[name])[0].text for name in alone} == alone


@pytest.mark.parametrize("content", ["", "[]", "null", "3", "{", '{"peft_type": "LORA"}', "[" * 100_000, "\ud800"])
def test_a_configuration_of_any_text_is_refused(tiny_model: str, adapters: dict[str, str], tmp_path: Path, content: str) -> None:
    bad = Path(edited(adapters["law"], tmp_path / "bad"))
    (bad / "adapter_config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(IncompatibleAdapter):
        loaded(tiny_model, {"bad": str(bad)}).generate(["one"], P, adapters=["bad"])


def test_what_a_lora_may_be_is_kept(tiny_model: str, tmp_path: Path) -> None:
    """Ranks and scales by module, rank-stabilised, DoRA: each answers as peft does by itself."""
    from peft import PeftModel

    made = {
        "ranks": special(
            tmp_path / "ranks", rank_pattern={"layers.1.self_attn.q_proj": 2}, alpha_pattern={"layers.1.self_attn.q_proj": 16}
        ),
        "stable": special(tmp_path / "stable", use_rslora=True),
        "dora": special(tmp_path / "dora", use_dora=True),
        "layer": special(tmp_path / "layer", layers_to_transform=[1]),
    }
    model = loaded(tiny_model, made)
    embeds = torch.randn(1, 9, 32)
    for path in made.values():
        theirs = PeftModel.from_pretrained(tiny.decoder(), path).eval()
        with backend(model).adapters.chosen([path], 8):
            ours = backend(model).adapters.model(inputs_embeds=embeds).logits
        torch.testing.assert_close(ours, theirs(inputs_embeds=embeds).logits)
        theirs.base_model.disable_adapter_layers()
        assert not torch.allclose(ours, theirs(inputs_embeds=embeds).logits, atol=1e-2)


def test_loading_an_adapter_leaves_the_random_numbers_alone(tiny_model: str, adapters: dict[str, str]) -> None:
    model = loaded(tiny_model, adapters)
    state = torch.get_rng_state()
    model.generate(["one"], P, adapters=["law"])
    assert torch.equal(torch.get_rng_state(), state)


def test_an_adapter_that_is_finite_and_still_overflows_is_no_empty_answer(
    tiny_model: str, adapters: dict[str, str], tmp_path: Path
) -> None:
    def large(held: dict[str, torch.Tensor]) -> None:
        for tensor in held.values():
            tensor.fill_(60000.0)

    model = loaded(tiny_model, adapters, bad=edited(adapters["law"], tmp_path / "bad", large, lora_alpha=60000))
    model.decoder.model.layers[0].self_attn.q_proj.weight.data.fill_(3e37)
    with pytest.raises(LLoCOError, match="no numbers"):
        model.generate(["one"], P, adapters=["bad"])


# --- what a failure leaves behind


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, torch.OutOfMemoryError, SystemExit, RuntimeError])
def test_a_failure_in_a_mixed_batch_leaves_nothing_behind(tiny_model: str, adapters: dict[str, str], error: type[BaseException]) -> None:
    model = loaded(tiny_model, adapters)
    names = ["law", "tax", None]
    alone = [model.generate(["one"], P, adapters=[name])[0].text for name in names]
    assert [g.text for g in model.generate(["one"] * 3, P, adapters=names)] == alone

    layer = model.decoder.model.layers[1].mlp
    for at in range(4):
        calls = iter(range(100))

        def fail(*_: Any, at: int = at, calls: Any = calls) -> None:
            if next(calls) == at:
                raise error("ordered by the test")

        hook = layer.register_forward_pre_hook(fail)
        with pytest.raises((error, LLoCOError)):
            model.generate(["one"] * 3, P, adapters=["tax", "law", "tax"])
        hook.remove()
        assert [g.text for g in model.generate(["one"] * 3, P, adapters=names)] == alone, "a batch of the same size"
        assert [model.generate(["one"], P, adapters=[name])[0].text for name in names] == alone
        assert model.compress(["text"])[0].n_vectors


@pytest.mark.parametrize("at", range(4))
def test_an_interrupt_while_adapters_change_is_not_remembered_as_done(
    tiny_model: str, adapters: dict[str, str], alone: dict[str, str], at: int
) -> None:
    """Ctrl-C after any number of layers: the next answer is under the adapter that it names."""
    model = loaded(tiny_model, adapters)
    model.generate(["one"], P, adapters=["tax"])
    held = backend(model).adapters
    held.choose([adapters["law"]], 8)
    layers = held._layers

    class Interrupted(list):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            for i, layer in enumerate(list.__iter__(self)):
                if i == at % len(layers):
                    raise KeyboardInterrupt
                yield layer

    held._layers = Interrupted(layers)
    with pytest.raises(KeyboardInterrupt):
        model.generate(["one"], P, adapters=["tax"])
    held._layers = layers
    for name in ("law", "tax", "none", "tax", "law"):
        assert model.generate(["one"], P, adapters=[name])[0].text == alone[name]


@pytest.mark.parametrize("what", ["add_adapter", "set_peft_model_state_dict"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_load_that_fails_half_way_is_undone(
    tiny_model: str, adapters: dict[str, str], alone: dict[str, str], monkeypatch: pytest.MonkeyPatch, what: str, error: type[BaseException]
) -> None:
    model = loaded(tiny_model, adapters)
    model.generate(["one"], P, adapters=["law"])

    def broken(*_: Any, **__: Any) -> None:
        raise error("ordered by the test")

    with monkeypatch.context() as patch:
        if what == "add_adapter":
            patch.setattr("peft.tuners.lora.layer.LoraLayer.update_layer", broken)
        else:
            patch.setattr("peft.set_peft_model_state_dict", broken)
        with pytest.raises((error, IncompatibleAdapter)):
            model.generate(["one"], P, adapters=["tax"])
    assert not any(".lora_" in name and ".a1" in name for name, _ in model.decoder.named_modules())
    for name, answer in alone.items():
        assert model.generate(["one"], P, adapters=[name])[0].text == answer


@pytest.mark.parametrize("kind", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens"]}])
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings", "ignore::UserWarning")
def test_what_cannot_share_a_batch_says_so_and_leaves_the_others_alone(
    tiny_model: str, adapters: dict[str, str], tmp_path: Path, kind: dict[str, Any]
) -> None:
    from peft import LoraConfig, get_peft_model

    config: Any = {"r": 4, "lora_alpha": 64, "target_modules": ["q_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM"} | kind
    torch.manual_seed(5)
    get_peft_model(tiny.decoder(), LoraConfig(**config)).save_pretrained(tmp_path / "odd", save_embedding_layers=False)
    model = loaded(tiny_model, adapters, odd=str(tmp_path / "odd"))
    alone = {name: model.generate(["one"], P, adapters=[name])[0].text for name in ("none", "law", "tax", "odd")}
    for _ in range(2):
        with pytest.raises(IncompatibleAdapter, match=r"cannot share a batch.*one adapter at a"):
            model.generate(["one"] * 2, P, adapters=["law", "odd"])
        for name, answer in alone.items():
            assert model.generate(["one"], P, adapters=[name])[0].text == answer
    model.backend.max_adapters = 2
    assert model.generate(["one"], P, adapters=["law"])[0].text == alone["law"]
    assert model.generate(["one"], P, adapters=["tax"])[0].text == alone["tax"]
    assert [g.text for g in model.generate(["one"] * 2, P, adapters=["law", "tax"])] == [alone["law"], alone["tax"]], "the odd one is gone"


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings", "ignore::UserWarning")
def test_one_that_replaces_a_module_and_one_that_changes_it(tiny_model: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    paths = {}
    for name, config in (
        ("whole", {"target_modules": ["q_proj"], "modules_to_save": ["up_proj"]}),
        ("lora", {"target_modules": ["up_proj"]}),
    ):
        torch.manual_seed(6)
        made = get_peft_model(tiny.decoder(), LoraConfig(r=4, lora_alpha=64, init_lora_weights=False, task_type="CAUSAL_LM", **config))  # type: ignore[arg-type]
        for key, parameter in made.named_parameters():
            if "modules_to_save" in key:
                parameter.data += torch.randn_like(parameter)
        made.save_pretrained(tmp_path / name)
        paths[name] = str(tmp_path / name)
    alone = {name: loaded(tiny_model, paths).generate(["one"], P, adapters=[name])[0].text for name in (*paths, "none")}
    assert len(set(alone.values())) == 3
    model = loaded(tiny_model, paths)
    for name in ("whole", "lora", "none", "lora", "whole", "none"):
        assert model.generate(["one"], P, adapters=[name])[0].text == alone[name]
    with pytest.raises(IncompatibleAdapter, match="one batch|share a batch"):
        model.generate(["one"] * 2, P, adapters=["whole", "lora"])
    assert model.generate(["one"], P, adapters=["lora"])[0].text == alone["lora"]
