"""Models: presets, where weights come from, loading a compressor and its decoder. Importing it imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lloco_integrations.models.presets import DEFAULT_MODEL, PRESETS, Preset

if TYPE_CHECKING:
    from lloco_integrations.models.load import load_model, shared_model
    from lloco_integrations.models.model import LLoCOModel

__all__ = ["DEFAULT_MODEL", "PRESETS", "LLoCOModel", "Preset", "load_model", "shared_model"]


def __getattr__(name: str) -> Any:
    if name in ("load_model", "shared_model"):
        from lloco_integrations.models import load

        return getattr(load, name)
    if name == "LLoCOModel":
        from lloco_integrations.models.model import LLoCOModel

        return LLoCOModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
