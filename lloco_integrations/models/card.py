"""``lloco_adapter.json``: what an adapter was learnt for, kept beside its weights so that it is not put on another model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lloco_integrations.errors import IncompatibleAdapter

CARD = "lloco_adapter.json"
FORMAT = 1


@dataclass(frozen=True)
class AdapterCard:
    """``compressor``: fingerprint of the compressor whose summaries it reads; ``settings``: how it was learnt, and from what;
    ``validation``: held-out loss in nats a token by ratio, before and after."""

    model: str
    compressor: str
    group: str | None = None
    questions: int = 0
    documents: int = 0
    steps: int = 0
    version: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Put it into ``directory``."""
        (directory / CARD).write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_card(directory: Path) -> AdapterCard | None:
    """The card in ``directory``; None for an adapter without one. Raises IncompatibleAdapter for a damaged one."""
    path = directory / CARD
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise IncompatibleAdapter(
                f"{path} has a format that this version does not read (it reads {FORMAT}); upgrade lloco_integrations"
            )
        card = AdapterCard(**values)
        if not all(isinstance(value, str) for value in (card.model, card.compressor, card.version, card.group or "")):
            raise ValueError("a name is no string")
        if not all(isinstance(value, dict) for value in (card.settings, card.validation)):
            raise ValueError("the settings are no mapping")
        if not all(isinstance(value, int) for value in (card.questions, card.documents, card.steps)):
            raise ValueError("a number is no integer")
        return card
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IncompatibleAdapter(f"{path} cannot be read ({error!r}); learn the adapter again") from error


def check_card(path: str, model: str, compressor: str) -> None:
    """Raise IncompatibleAdapter if the adapter in the directory ``path`` says that it reads summaries of another compressor."""
    card = read_card(Path(path).expanduser())
    if card is not None and card.compressor != compressor:
        raise IncompatibleAdapter(
            f"the adapter at {path} was learnt on summaries of {card.model} (compressor {card.compressor[:16]}), and {model} is "
            f"compressor {compressor[:16]}; learn it again with lloco finetune, or load the model that it was learnt for"
        )
