"""LLoCO for LlamaIndex and LangChain: answer questions from summary embeddings of documents in place of their text.

Importing this imports neither torch nor a framework; names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lloco_integrations.engine import Engine
    from lloco_integrations.errors import LLoCOError
    from lloco_integrations.models import LLoCOModel, load_model
    from lloco_integrations.store import SummaryStore
    from lloco_integrations.types import GenerationParams, Message, SummaryEmbeddings

__version__ = "0.1.0"

_WHERE = {
    "Engine": "engine",
    "GenerationParams": "types",
    "LLoCOError": "errors",
    "LLoCOModel": "models",
    "Message": "types",
    "SummaryEmbeddings": "types",
    "SummaryStore": "store",
    "load_model": "models",
}
__all__ = [
    "Engine",
    "GenerationParams",
    "LLoCOError",
    "LLoCOModel",
    "Message",
    "SummaryEmbeddings",
    "SummaryStore",
    "__version__",
    "load_model",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"lloco_integrations.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'lloco_integrations' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
