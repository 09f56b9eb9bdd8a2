"""A small set of documents and questions, and adapters that change answers."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

WORDS = [
    "harbour",
    "lamp",
    "brother",
    "almanac",
    "ferry",
    "owl",
    "tide",
    "bread",
    "clock",
    "comet",
    "ladder",
    "winter",
    "salt",
    "rope",
    "glass",
]


def lora(model: Any, directory: Path, seed: int = 1) -> Path:
    """A random LoRA over a copy of ``model`` in PEFT format, strong enough to change answers."""
    import copy

    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(copy.deepcopy(model), config).save_pretrained(directory)
    return directory


class Words:
    """An embedder that knows words by their spelling alone: texts are as near as they share words."""

    name = "words"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), 256), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % 256] += 1
            row /= max(float(np.linalg.norm(row)), 1e-6)
        return rows

    def embed_question(self, question: str) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self.embed([question])[0]
        return row


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """``files(documents, questions a document)``: paths of a docs and a qa file."""

    def make(documents: int = 3, questions: int = 2, name: str = "set", choices: bool = False) -> tuple[Path, Path]:
        docs, qa = [], []
        for d in range(documents):
            text = " ".join(WORDS[(d + i * 7) % len(WORDS)] for i in range(20 + 5 * d))
            docs.append({"doc_id": f"{name}/{d}", "title": "", "text": text})
            for q in range(questions):
                row = {"id": f"{name}/{d}/{q}", "doc_id": f"{name}/{d}", "question": f"Which word {q}?", "answers": [WORDS[d + q]]}
                qa.append({**row, "choices": [WORDS[d + q], WORDS[d + q + 1]], "answer_index": 0} if choices else row)
        return write_lines(tmp_path / f"{name}.docs.jsonl", docs), write_lines(tmp_path / f"{name}.qa.jsonl", qa)

    return make


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Words:
    """Words in place of MiniLM, which takes seconds to load."""
    embedder = Words()
    monkeypatch.setattr("lloco_integrations.embedding.load", lambda device="auto": embedder)
    return embedder
