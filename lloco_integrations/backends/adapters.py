"""LoRA adapters by group name: loaded on first use, checked against the decoder, chosen for each row of a batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import IncompatibleAdapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NO_ADAPTER = "__base__"  # peft's own name for "none" in a mixed batch


class Adapters:
    """Adapters of one decoder. Not thread-safe: whoever calls ``choose`` holds the backend's lock until generation is over."""

    def __init__(self, model: PreTrainedModel, paths: dict[str, str]) -> None:
        self.model: Any = model
        self.paths = dict(paths)
        self._loaded: set[str] = set()

    def add(self, paths: Mapping[str, str]) -> None:
        """Know these adapters too. Raises IncompatibleAdapter if a name is taken by another path."""
        for name, path in paths.items():
            if self.paths.setdefault(name, path) != path:
                raise IncompatibleAdapter(
                    f"adapter {name!r} is {self.paths[name]} already and cannot be {path} too; give one of them another name"
                )

    def choose(self, names: Sequence[str | None]) -> dict[str, Any]:
        """Make the rows of the next batch run under ``names`` and return the extra arguments for ``generate``.

        Raises IncompatibleAdapter for an unknown name or an adapter that does not fit.
        """
        for name in sorted({n for n in names if n is not None}):
            if name not in self._loaded:
                self._load(name)
        if not self._loaded:
            return {}
        return {"adapter_names": [n or _NO_ADAPTER for n in names]}

    def _load(self, name: str) -> None:
        from peft import PeftModel

        if name not in self.paths:
            known = ", ".join(sorted(self.paths)) or "none"
            raise IncompatibleAdapter(f"no adapter is named {name!r} (known: {known}); pass adapters={{{name!r}: path}}")
        path = self.paths[name]
        self._check(name, path)
        try:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(path, adapter_name=name)
            else:
                self.model = PeftModel.from_pretrained(self.model, path, adapter_name=name)
        except Exception as error:
            raise IncompatibleAdapter(
                f"adapter {name!r} at {path} does not fit this decoder: {error}; it was trained for another base model"
            ) from error
        self.model.eval()
        self._loaded.add(name)

    def _check(self, name: str, path: str) -> None:
        """A directory is checked before anything is loaded: peft leaves a half-loaded adapter behind when shapes disagree."""
        directory = Path(path)
        if not directory.is_dir():
            if path.startswith((".", "/", "~")):
                raise IncompatibleAdapter(f"adapter {name!r}: there is no directory {path}")
            return
        try:
            config = json.loads((directory / "adapter_config.json").read_text())
            from safetensors import safe_open

            with safe_open(directory / "adapter_model.safetensors", framework="pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise IncompatibleAdapter(f"adapter {name!r}: {path} is not a LoRA in PEFT format ({error})") from error
        if config.get("peft_type") != "LORA":
            raise IncompatibleAdapter(f"adapter {name!r} at {path} is of type {config.get('peft_type')}; only LORA is supported")
        model: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        modules = dict(model.named_modules())
        for key, shape in shapes.items():
            module_name, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
            module: Any = modules.get(module_name)
            if not rest or rest[0] not in "AB":
                continue
            if module is None:
                raise IncompatibleAdapter(f"adapter {name!r} at {path} was trained for another base: this decoder has no {module_name}")
            weight: Any = getattr(module, "base_layer", module).weight
            ours, theirs = (weight.shape[1], shape[1]) if rest[0] == "A" else (weight.shape[0], shape[0])
            if ours != theirs:
                raise IncompatibleAdapter(
                    f"adapter {name!r} at {path} was trained for another base: {module_name} has {theirs} features there and {ours} here"
                )
