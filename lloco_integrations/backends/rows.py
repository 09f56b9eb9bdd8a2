"""A prompt as one tensor, for a decoder that runs elsewhere: token embeddings are looked up here, in the one tensor that this needs.

A server trusts what it gets: one row that is not finite stays in its cache and spoils later answers, and a wrong width can kill an
engine. So everything is checked before it is sent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lloco_integrations.errors import BadInput, IncompatibleSummary, ModelNotFound, PromptTooLong
from lloco_integrations.types import ResolvedPrompt

LARGEST = 65504.0
"""The largest number of float16: beyond it, a server that computes in float16 has infinities."""
_NAMES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")


class PromptRows:
    """Makes ``inputs_embeds`` of resolved prompts.

    Args:
        embeddings: ``(vocabulary, hidden_size)``, floating point.
        dtype: of what is made; a server casts it to its own.
    """

    def __init__(self, embeddings: torch.Tensor, dtype: torch.dtype | None = None) -> None:
        self.embeddings = embeddings
        self.dtype = dtype or embeddings.dtype

    @property
    def hidden_size(self) -> int:
        return int(self.embeddings.shape[1])

    def of(self, prompt: ResolvedPrompt) -> torch.Tensor:
        """``(n_positions, hidden_size)``, contiguous, on the CPU, every value finite after any cast.

        Raises IncompatibleSummary for vectors of another width, or with a value that is not a number of float16's range, and BadInput
        for a token that the decoder does not have.
        """
        rows = torch.cat([self._rows(piece).to(self.dtype) for piece in prompt.pieces]).contiguous()
        worst = rows.abs().amax() if rows.numel() else rows.new_zeros(())
        if not float(worst) <= LARGEST:  # nor if it is NaN
            raise IncompatibleSummary(
                f"the prompt has a summary vector that is not finite, or over {LARGEST:.0f}, the largest number of float16 (here: "
                f"{float(worst):g}); compress its document again"
            )
        return rows

    def _rows(self, piece: list[int] | torch.Tensor) -> torch.Tensor:
        if isinstance(piece, list):
            ids = torch.tensor(piece, dtype=torch.long, device=self.embeddings.device)
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.embeddings.shape[0]:
                raise BadInput(
                    f"the prompt has token {int(ids.max())}, and the decoder's vocabulary is {self.embeddings.shape[0]}; the tokenizer is another "
                    f"model's"
                )
            return self.embeddings[ids]
        if piece.ndim != 2 or not piece.is_floating_point() or piece.shape[1] != self.hidden_size:
            raise IncompatibleSummary(
                f"summary vectors are {tuple(piece.shape)} {piece.dtype}, and the decoder reads floating point (n, {self.hidden_size}); "
                f"load the model that they were made for"
            )
        return piece.detach().to("cpu")


def check_room(prompt: ResolvedPrompt, window: int) -> None:
    """Raise PromptTooLong unless ``prompt`` leaves at least one position of ``window`` to the answer."""
    if prompt.n_positions >= window:
        raise PromptTooLong(
            f"the prompt takes {prompt.n_positions} positions, and the model's window has {window}, of which the answer "
            f"needs at least one; retrieve fewer nodes, or ask for a coarser ratio"
        )


def read_embeddings(directory: Path) -> torch.Tensor:
    """The token embeddings ``(vocabulary, hidden_size)`` of the Hugging Face model in ``directory``, dtype as saved; no other weight is read.

    Raises ModelNotFound if no safetensors file there holds them, or if the model scales them before it reads them (then a server would not
    see what we send as it sees its own).
    """
    from safetensors import safe_open

    config = _json(directory / "config.json")
    if str(config.get("model_type", "")).startswith("gemma") or config.get("embedding_multiplier", 1.0) != 1.0:
        raise ModelNotFound(
            f"the model in {directory} scales its token embeddings ({config.get('model_type')}); serve a Llama-like decoder"
        )
    index = _json(directory / "model.safetensors.index.json").get("weight_map", {})
    files = sorted({directory / str(file) for name, file in index.items() if name.endswith(_NAMES)}) or sorted(
        directory.glob("*.safetensors")
    )
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.endswith(_NAMES):
                    found: torch.Tensor = file.get_tensor(name)
                    return found
    raise ModelNotFound(f"{directory} has no safetensors file with one of {', '.join(_NAMES)}; save the decoder with save_pretrained")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
