"""What an engine must be told about LoRAs before it starts: their rank and the modules that they change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lloco_integrations.errors import IncompatibleAdapter

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Those that vLLM can be started with."""
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte")


@dataclass(frozen=True)
class LoraFacts:
    """``rank``: one of RANKS that holds all; ``modules``: names such as q_proj."""

    rank: int
    modules: tuple[str, ...]


def facts(paths: Iterable[str]) -> LoraFacts:
    """Of all adapters in the directories ``paths``. Raises IncompatibleAdapter for one that is not a LoRA of linear layers: one that changes
    token embeddings can kill an engine that is given prompt embeddings."""
    most, modules = 1, set[str]()
    for path in paths:
        try:
            config = json.loads((Path(path).expanduser() / "adapter_config.json").read_text(encoding="utf-8"))
            rank, targets = int(config["r"]), config["target_modules"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            raise IncompatibleAdapter(
                f"{path} is not a LoRA in PEFT format ({error!r}); name the folder that has adapter_config.json"
            ) from error
        if config.get("peft_type") != "LORA" or not isinstance(targets, list):
            raise IncompatibleAdapter(
                f"the adapter at {path} is of type {config.get('peft_type')} on {targets!r}; give a LoRA with a list of modules"
            )
        names = {str(target).rpartition(".")[2] for target in targets}
        touched = sorted({*names, *(config.get("modules_to_save") or ())} & set(_EMBEDDINGS))
        if touched:
            raise IncompatibleAdapter(f"the adapter at {path} changes {', '.join(touched)}; learn it again on linear layers only")
        most, modules = max(most, rank), modules | names
    return LoraFacts(fitting(most), tuple(sorted(modules)))


def fitting(rank: int, ranks: Sequence[int] = RANKS) -> int:
    """The smallest of ``ranks`` that holds ``rank``. Raises IncompatibleAdapter for one over all of them."""
    found = next((r for r in ranks if r >= rank), None)
    if found is None:
        raise IncompatibleAdapter(f"an adapter has rank {rank}, and vLLM serves up to {ranks[-1]}; learn it again with a smaller one")
    return found
