"""Twelve houses with coloured doors and roofs: documents, questions and a tiny model to learn them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lloco_integrations.prompting import Prompter
from lloco_integrations.training.contexts import Context, load_contexts
from lloco_integrations.training.data import Mix, Sampler
from lloco_integrations.training.pretrain import PretrainConfig
from lloco_integrations.training.trainee import LoraSettings, MeanPoolTrainee
from tests import tiny

PROMPTER = Prompter(tiny.tokenizer(), chat=True)
LORA = LoraSettings(4, 8)


def write(folder: Path, name: str = "houses") -> tuple[Path, Path]:
    """``NAME.docs.jsonl`` and ``NAME.qa.jsonl`` in ``folder``."""
    docs, qa = folder / f"{name}.docs.jsonl", folder / f"{name}.qa.jsonl"
    words = ["red", "blue", "green", "pink"]
    with docs.open("w") as d, qa.open("w") as q:
        for i in range(12):
            text = f"In house {i} the door is {words[i % 4]} and the roof is {words[(i + 1) % 4]}."
            d.write(json.dumps({"doc_id": str(i), "title": f"House {i}", "text": text}) + "\n")
            for part, at in (("door", i), ("roof", i + 1)):
                q.write(json.dumps({"id": f"{i}{part}", "doc_id": str(i), "question": f"{part}?", "answers": [words[at % 4]]}) + "\n")
    return docs, qa


def contexts(files: tuple[Path, Path]) -> list[Context]:
    return load_contexts([files], PROMPTER.text_ids, 400, 8)


def sampler(files: tuple[Path, Path], **options: object) -> Sampler:
    settings: dict[str, object] = {"end": 2, "rows": 3, "mix": Mix(quote_tokens=8), **options}
    return Sampler(contexts(files), PROMPTER, lambda step: {4: 0.5, 8: 0.5}, **settings)  # type: ignore[arg-type]


def trainee(**options: object) -> MeanPoolTrainee:
    torch.manual_seed(0)
    settings: dict[str, object] = {"encoder_layers": 1, "lora": LORA, "segment_length": 64, **options}
    return MeanPoolTrainee(tiny.decoder(seed=0), **settings)  # type: ignore[arg-type]


def config(steps: int, **options: object) -> PretrainConfig:
    settings: dict[str, object] = {"rows": 3, "lr": 5e-3, "warmup": 2, "curriculum": ((1.0, {4: 1.0}),), **options}
    return PretrainConfig(steps=steps, **settings)  # type: ignore[arg-type]


def stir(model: torch.nn.Module, std: float = 0.05) -> None:
    """Random values for all that is trained: LoRAs start at zero, which hides mistakes."""
    torch.manual_seed(1)
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=std)
