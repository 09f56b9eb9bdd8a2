"""Models: presets, where weights come from, loading a compressor and its decoder."""

from lloco_integrations.models.load import load_model, shared_model
from lloco_integrations.models.model import LLoCOModel
from lloco_integrations.models.presets import DEFAULT_MODEL, PRESETS, Preset

__all__ = ["DEFAULT_MODEL", "PRESETS", "LLoCOModel", "Preset", "load_model", "shared_model"]
