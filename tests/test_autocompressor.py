"""The autocompressor beyond parity (test_golden.py): other base models, adapters, checkpoints, limits, fingerprints."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lloco_integrations import fingerprint as fingerprints
from lloco_integrations.compressors.autocompressor import AutoCompressor
from lloco_integrations.errors import BadInput, IncompatibleAdapter, IncompatibleSummary, ModelNotFound
from lloco_integrations.types import SummaryEmbeddings

GOLDEN = Path(__file__).parent / "golden"
TINY: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 2, "n_head": 2},
    "gemma2": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
    "gpt2": {"n_layer": 2, "n_head": 2},
    "gpt_neox": {"num_hidden_layers": 2, "num_attention_heads": 2},
    "llama": {"num_hidden_layers": 2, "num_attention_heads": 2},
    "mistral": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
    "opt": {"num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen2": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
}
DOCUMENTS = [[5] * 3, list(range(3, 60)), list(range(60, 20, -1)), [9, 8, 7, 6] * 4]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors on many threads are slow where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(kind: str = "llama", **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    common = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 64}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(common | TINY[kind] | options))).eval()


def tiny(model: PreTrainedModel | str = "llama", **options: Any) -> AutoCompressor:
    model = tiny_model(model) if isinstance(model, str) else model
    summary = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    return AutoCompressor(model, summary, **({"accumulate": True, "segment_length": 16, "fingerprint": "tiny"} | options))


def vectors(compressor: AutoCompressor, **options: Any) -> list[Tensor]:
    return [summary.vectors for summary in compressor.compress_ids(DOCUMENTS, **options)]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


# Base models ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def recurrence(compressor: AutoCompressor, document: list[int], with_positions: bool) -> Tensor:
    """The definition, one document at a time and with nothing left implicit."""
    model = compressor.model
    so_far = torch.zeros(1, 0, 32)
    for segment in torch.tensor([document]).split(16, dim=1):
        inputs = torch.cat([so_far, model.get_input_embeddings()(segment), compressor.embed_summary[None]], dim=1)
        options = {"position_ids": torch.arange(inputs.shape[1])[None]} if with_positions else {}
        mask = torch.ones(inputs.shape[:2], dtype=torch.long)
        hidden = model.base_model(inputs_embeds=inputs, attention_mask=mask, **options).last_hidden_state
        so_far = torch.cat([so_far, hidden[:, -4:]], dim=1) if compressor.accumulate else hidden[:, -4:]
    return so_far[0]


@pytest.mark.parametrize("accumulate", [True, False])
@pytest.mark.parametrize("kind", TINY)
def test_any_causal_lm_compresses_alike_in_any_batch(kind: str, accumulate: bool) -> None:
    compressor = tiny(kind, accumulate=accumulate)
    alone = vectors(compressor, batch_size=1)
    assert [len(v) for v in alone] == ([4, 16, 12, 4] if accumulate else [4, 4, 4, 4])
    assert_same(vectors(compressor), alone)
    assert_same(vectors(compressor, batch_size=2), alone)
    assert_same([recurrence(compressor, ids, with_positions=kind != "bloom") for ids in DOCUMENTS], alone)


def test_summaries_are_plain_tensors_of_the_models_dtype_on_the_cpu() -> None:
    compressor = tiny(tiny_model().to(torch.bfloat16))
    for summary, ids in zip(compressor.compress_ids(DOCUMENTS), DOCUMENTS, strict=True):
        assert (summary.vectors.dtype, summary.vectors.device.type) == (torch.bfloat16, "cpu")
        assert not summary.vectors.requires_grad and not summary.vectors.is_inference()
        assert (summary.n_tokens, summary.compressor, summary.window) == (len(ids), "tiny", None)
    assert compressor.compress_ids([]) == []


def test_progress_counts_every_source_token_once() -> None:
    seen: list[int] = []
    tiny().compress_ids(DOCUMENTS, progress=seen.append)
    assert sum(seen) == sum(map(len, DOCUMENTS)) and len(seen) == 4


def test_gradients_reach_the_summary_tokens_through_every_row() -> None:
    compressor = tiny()
    compressor.embed_summary = torch.nn.Parameter(compressor.embed_summary)
    assert_same([v.detach() for v in compressor.summaries(DOCUMENTS)], vectors(compressor))
    for made in compressor.summaries(DOCUMENTS):
        (gradient,) = torch.autograd.grad(made.square().sum(), [compressor.embed_summary], retain_graph=True)
        assert gradient.abs().min() > 0


def test_compression_ignores_training_mode_and_restores_it() -> None:
    compressor = tiny("gpt2")  # has dropout
    expected = vectors(compressor)
    compressor.model.train()
    compressor.model.lm_head.eval()
    assert_same(vectors(compressor), expected)
    assert compressor.model.training and compressor.model.base_model.training and not compressor.model.lm_head.training


# Adapters ------------------------------------------------------------------------------------------------------------


def lora(**options: Any) -> LoraConfig:
    """An adapter that changes the model from the start, and has dropout."""
    return LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, lora_dropout=0.5, **options)


def as_peft_model(model: PreTrainedModel) -> PreTrainedModel:
    return get_peft_model(model, lora())


def with_saved_embeddings(model: PreTrainedModel) -> PreTrainedModel:
    wrapped = get_peft_model(model, lora(modules_to_save=["embed_tokens"]))
    with torch.no_grad():
        wrapped.get_input_embeddings().modules_to_save["default"].weight.add_(1.0)
    return wrapped


def injected(model: PreTrainedModel) -> PreTrainedModel:
    return inject_adapter_in_model(lora(), model)


def by_transformers(model: PreTrainedModel) -> PreTrainedModel:
    model.add_adapter(lora(), adapter_name="group")
    return model


def merged(model: PreTrainedModel) -> PreTrainedModel:
    wrapped = get_peft_model(model, lora())
    wrapped.merge_adapter()
    return wrapped


@pytest.mark.parametrize("attach", [as_peft_model, with_saved_embeddings, injected, by_transformers, merged])
def test_adapters_are_off_while_compressing_and_as_before_afterwards(
    attach: Callable[[PreTrainedModel], PreTrainedModel],
) -> None:
    expected = vectors(tiny())
    model = attach(tiny_model()).train()
    next(p for n, p in model.named_parameters() if "lora_A" in n).requires_grad_(False)
    trainable = {name: weight.requires_grad for name, weight in model.named_parameters()}
    prompt = torch.tensor([[1, 2, 3]])
    answer = model.eval()(prompt).logits
    model.train()
    compressor = tiny(model)
    assert_same(vectors(compressor), expected)
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == trainable
    assert model.training
    torch.testing.assert_close(model.eval()(prompt).logits, answer, atol=1e-4, rtol=0)
    with torch.no_grad():
        assert (compressor.summaries(DOCUMENTS)[1] - expected[1]).abs().max() > 0.01


def test_adapter_loaded_after_the_compressor_was_made() -> None:
    plain = AutoCompressor.from_pretrained(GOLDEN / "ckpt_mha", segment_length=16)
    expected = vectors(plain)
    PeftModel.from_pretrained(plain.model, str(GOLDEN / "adapter_mha"))  # injects into plain.model in place
    assert_same(vectors(plain), expected)


def test_adapters_that_were_off_stay_off() -> None:
    model = get_peft_model(tiny_model(), lora())
    compressor = tiny(model)
    with model.disable_adapter():
        off = model(torch.tensor([[1, 2, 3]])).logits
        vectors(compressor)
        torch.testing.assert_close(model(torch.tensor([[1, 2, 3]])).logits, off)


def test_adapters_are_on_again_after_a_failure() -> None:
    model = get_peft_model(tiny_model(), lora()).eval()
    before = model(torch.tensor([[1, 2, 3]])).logits

    def fail(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(model).compress_ids(DOCUMENTS, progress=fail)
    torch.testing.assert_close(model(torch.tensor([[1, 2, 3]])).logits, before)


def test_adapter_that_cannot_be_switched_off_is_refused() -> None:
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"], bias="all"))
    with pytest.raises(IncompatibleAdapter, match=r"'default'.*bias='all'.*bias='none'"):
        vectors(tiny(model))


def test_lock_is_held_while_adapters_are_off() -> None:
    compressor, free = tiny(), []

    def try_lock() -> None:
        free.append(compressor.lock.acquire(blocking=False))

    def from_another_thread(_: int) -> None:
        thread = threading.Thread(target=try_lock)
        thread.start()
        thread.join()

    compressor.compress_ids(DOCUMENTS, progress=from_another_thread)
    assert free and not any(free)


# Limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"max_segments": 3}, {}, "document 1 has 4 segments of up to 16 tokens, the limit is 3; .*longer.*split"),
        ({}, {"segment_length": 3}, "19 segments .* need 79 positions, the limit is 64; use longer segments, or split"),
        ({}, {"segment_length": 61}, "1 segments .* need 65 positions, the limit is 64; use shorter segments"),
        ({"accumulate": False}, {"segment_length": 61}, "need 65 positions, the limit is 64; use shorter segments"),
        ({}, {"segment_length": 0}, "segment_length=0"),
        ({}, {"segment_length": [16, 16]}, r"\[16, 16\].*add up to the document's 3 tokens"),
        ({}, {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_limits_are_named(options: dict[str, Any], call: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tiny(**options).compress_ids([*DOCUMENTS, [1] * 61], **call)


def test_the_last_position_can_be_used() -> None:
    assert tiny().compress_ids([[1] * 60], segment_length=4)[0].n_vectors == 60
    with pytest.raises(BadInput, match=r"16 segments of up to 4 .* need 65 positions, the limit is 64"):
        tiny().compress_ids([[1] * 61], segment_length=4)


@pytest.mark.parametrize(("document", "message"), [([], "no tokens"), ([64], "vocabulary has 64"), ([3, -1], "from -1 to 3")])
def test_unusable_documents_are_named(document: list[int], message: str) -> None:
    with pytest.raises(BadInput, match=f"document 1 .*{message}"):
        tiny().compress_ids([[1, 2], document])


def test_the_reference_caps_at_80_segments() -> None:
    model = tiny_model()
    model.config.max_position_embeddings = 4096
    assert tiny(model).compress_ids([[1] * 80], segment_length=1)[0].n_vectors == 320
    with pytest.raises(BadInput, match=r"81 segments of up to 1 tokens, the limit is 80"):
        tiny(model).compress_ids([[1] * 81], segment_length=1)


def test_llama_2_sizes_pass_the_positions_from_segment_52_on() -> None:
    model = tiny_model()
    model.config.max_position_embeddings = 4096
    compressor = AutoCompressor(model, torch.zeros(50, 32), accumulate=True, fingerprint="paper")
    assert compressor.spec.segment_length == 1536 and compressor.spec.ratios == (30,)
    compressor._plan([[1] * (51 * 1536)], None)
    with pytest.raises(BadInput, match=r"document 0 has 52 segments .* need 4136 positions, the limit is 4096"):
        compressor._plan([[1] * (52 * 1536)], None)


def test_scaled_rope_has_more_positions() -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    scaled = tiny(tiny_model("llama", rope_parameters=rope))
    assert scaled.compress_ids([[1] * 80], segment_length=80)[0].n_vectors == 4
    with pytest.raises(BadInput, match=r"132 positions, the limit is 128"):
        scaled.compress_ids([[1] * 128], segment_length=128)


@pytest.mark.parametrize("shape", [(4, 31), (0, 32), (32,)])
def test_summary_tokens_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"embed_summary has the shape"):
        AutoCompressor(tiny_model(), torch.zeros(shape), accumulate=True, fingerprint="tiny")


def test_read_accepts_only_its_own_vectors_and_ratio() -> None:
    compressor = tiny()
    (summary,) = compressor.compress_ids([[1, 2, 3]])
    assert compressor.spec.ratios == (4,) and compressor.spec.placement == "prefix"
    assert torch.equal(compressor.read(summary), summary.vectors)
    assert torch.equal(compressor.read(summary, 4), summary.vectors)
    with pytest.raises(IncompatibleSummary, match=r"fixed ratio, here 4, and cannot be brought to 8"):
        compressor.read(summary, 8)
    with pytest.raises(IncompatibleSummary, match=r"compressor foreign.* those of tiny"):
        compressor.read(SummaryEmbeddings(summary.vectors, 3, "foreign"))


# Checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return shutil.copytree(GOLDEN / "ckpt_mha", tmp_path / "checkpoint")


def edit_config(directory: Path, **values: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(directory: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    edit(weights)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def to_bin(directory: Path, name: str = "pytorch_model.bin") -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / name)
    (directory / "model.safetensors").unlink()


def to_shards(directory: Path, suffix: str) -> None:
    """Two shards and an index, as the hub has them for large models; ``embed_summary`` is in the second."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    stem, halves = ("model" if suffix == "safetensors" else "pytorch_model"), [{}, {}]
    for i, (name, weight) in enumerate(sorted(weights.items(), reverse=True)):
        halves[i * 2 // len(weights)][name] = weight
    names = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        if suffix == "safetensors":
            save_file(half, directory / name, {"format": "pt"})
        else:
            torch.save(half, directory / name)
    where = {weight: name for name, half in zip(names, halves, strict=True) for weight in half}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert where["embed_summary.weight"] == names[1]


@pytest.mark.parametrize("form", ["single", "shards", "bin", "bin shards", "unknown class"])
def test_every_form_of_checkpoint_loads_without_a_network(checkpoint: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = vectors(AutoCompressor.from_pretrained(GOLDEN / "ckpt_mha"))
    if form == "bin":
        to_bin(checkpoint)
    elif form == "unknown class":
        edit_config(checkpoint, architectures=["SomeoneElsesModel"])
    elif form != "single":
        to_shards(checkpoint, "bin" if "bin" in form else "safetensors")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a local directory must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    compressor = AutoCompressor.from_pretrained(str(checkpoint), dtype="auto", device="cpu")
    assert compressor.embed_summary.shape == (8, 64) and compressor.accumulate and not compressor.model.training
    assert_same(vectors(compressor), expected)


def test_safetensors_are_preferred_and_pickles_never_run(checkpoint: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.write_text, (checkpoint / "ran", "code"))

    torch.save({"embed_summary.weight": Evil()}, checkpoint / "pytorch_model.bin")
    AutoCompressor.from_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"cannot read .*pytorch_model.bin"):
        AutoCompressor.from_pretrained(checkpoint)
    assert not (checkpoint / "ran").exists()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "has no config.json"),
    "config is no json": (lambda d: (d / "config.json").write_text("{"), "cannot read .*config.json"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "holds no JSON object"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "neither model.*safetensors nor pytorch_model.*bin"),
    "cut weights": (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 20), "cannot read .*model.safetensors"),
    "another kind": (lambda d: edit_config(d, summary_length=None), "summary_length=None.*another kind of model"),
    "no accumulate": (lambda d: edit_config(d, accumulate_summary=None), "accumulate_summary=None"),
    "opt": (lambda d: edit_config(d, architectures=["OPTAutoCompressorModel"]), "OPTAutoCompressorModel"),
    "no summary tokens": (
        lambda d: edit_weights(d, lambda w: w.pop("embed_summary.weight")),
        "no tensor 'embed_summary.weight' in model.safetensors",
    ),
    "shape disagrees": (lambda d: edit_config(d, summary_length=9), r"\(8, 64\).*\(9, 64\)"),
    "a weight is missing": (
        lambda d: edit_weights(d, lambda w: w.pop("model.layers.1.mlp.up_proj.weight")),
        "lacks 1 weights of LlamaForCausalLM, such as 'model.layers.1.mlp.up_proj.weight'",
    ),
    "unknown model type": (lambda d: edit_config(d, model_type="martian"), "transformers cannot load"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints_say_what_is_wrong(checkpoint: Path, case: str) -> None:
    damage, message = BROKEN[case]
    damage(checkpoint)
    with pytest.raises(ModelNotFound, match=message):
        AutoCompressor.from_pretrained(checkpoint)


@pytest.mark.parametrize("name", ["/no/such/dir", "./nothing", "~/nothing/at-all", "nothing", "a/b/c"])
def test_what_is_neither_directory_nor_hub_id(name: str) -> None:
    with pytest.raises(ModelNotFound, match=r"there is no directory"):
        AutoCompressor.from_pretrained(name)


def test_hub_ids_are_downloaded_and_pickles_only_if_needed(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        assert name == "owner/model"
        asked.append(allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    AutoCompressor.from_pretrained("owner/model")
    assert len(asked) == 1 and "pytorch_model*.bin" not in asked[0]
    to_bin(checkpoint)
    AutoCompressor.from_pretrained("owner/model")
    assert asked[1:] == [asked[0], ["pytorch_model*.bin"]]


def test_hub_failures_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ModelNotFound, match=r"'owner/model' .*no route.*check the name.*local directory"):
        AutoCompressor.from_pretrained("owner/model")


# Fingerprints --------------------------------------------------------------------------------------------------------


def of(directory: Path, **options: Any) -> str:
    return AutoCompressor.from_pretrained(directory, **options).spec.fingerprint


def test_fingerprint_ignores_what_does_not_change_vectors(checkpoint: Path) -> None:
    name = of(GOLDEN / "ckpt_mha")
    edit_config(checkpoint, torch_dtype="float16", use_cache=False, transformers_version="5.0.0", architectures=["X"])
    assert of(checkpoint, dtype=torch.bfloat16) == of(checkpoint, dtype="auto", device="cpu") == name


def test_fingerprint_changes_with_whatever_changes_vectors(checkpoint: Path) -> None:
    seen = [of(checkpoint), of(checkpoint, segment_length=32), of(GOLDEN / "ckpt_gqa")]
    edit_config(checkpoint, accumulate_summary=False)
    seen.append(of(checkpoint))
    edit_weights(checkpoint, lambda weights: weights["embed_summary.weight"].add_(1e-3))
    seen.append(of(checkpoint))
    edit_config(checkpoint, summary_length=4)
    edit_weights(checkpoint, lambda w: w.update({"embed_summary.weight": w["embed_summary.weight"][:4].clone()}))
    seen.append(of(checkpoint))
    for content in ("{}", "[]"):
        (checkpoint / "tokenizer.json").write_text(content)
        seen.append(fingerprints.fingerprint(files=fingerprints.file_hash([checkpoint / "tokenizer.json"])))
        seen.append(fingerprints.fingerprint(**_parts(checkpoint)))
    assert len(set(seen)) == len(seen) and all(len(name) == 64 for name in seen)


def _parts(directory: Path) -> dict[str, object]:
    from lloco_integrations.compressors.checkpoint import open_checkpoint

    return open_checkpoint(directory).parts()


def test_fingerprint_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    name = fingerprints.fingerprint(kind="x", length=3)
    assert name == fingerprints.fingerprint(length=3, kind="x") != fingerprints.fingerprint(kind="x", length=4)
    monkeypatch.setattr(fingerprints, "FORMAT_VERSION", 2)
    assert fingerprints.fingerprint(kind="x", length=3) != name
    for part in (object(), float("nan"), torch.zeros(1)):
        with pytest.raises(BadInput, match=r"plain JSON"):
            fingerprints.fingerprint(part=part)


def test_file_hash(tmp_path: Path) -> None:
    import hashlib

    a, b = tmp_path / "one" / "a.bin", tmp_path / "two" / "b.bin"
    for path in (a, b):
        path.parent.mkdir()
        path.write_bytes(path.name.encode())
    both = fingerprints.file_hash([a, b])
    assert both == fingerprints.file_hash([str(b), str(a)]) != fingerprints.file_hash([a])
    # As in the hub's cache, where a link leads to a blob that is named by its sha256: the same hash, nothing read.
    digest = hashlib.sha256(b.read_bytes()).hexdigest()
    blob, link = tmp_path / "blobs" / digest, tmp_path / "b.bin"
    blob.parent.mkdir()
    blob.write_bytes(b"never read")
    link.symlink_to(blob)
    assert fingerprints.file_hash([a, link]) == both
    b.write_bytes(b"changed")
    assert fingerprints.file_hash([a, b]) != both
    with pytest.raises(BadInput, match=r"same name"):
        fingerprints.file_hash([b, link])
    with pytest.raises(BadInput, match=r"cannot read .*missing"):
        fingerprints.file_hash([tmp_path / "missing"])


def test_weights_hash() -> None:
    layer = torch.nn.Linear(3, 2).to(torch.bfloat16)
    name = fingerprints.weights_hash(layer)
    assert name == fingerprints.weights_hash(dict(reversed(layer.state_dict().items())))
    assert name == fingerprints.weights_hash(layer.float())
    assert name != fingerprints.weights_hash({"weight": layer.weight})
    assert name != fingerprints.weights_hash({"weight": layer.weight.reshape(3, 2), "bias": layer.bias})
    assert fingerprints.weights_hash({"n": torch.tensor(1)}) != fingerprints.weights_hash({"n": torch.tensor(2)})
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert name != fingerprints.weights_hash(layer)
