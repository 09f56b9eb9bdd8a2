"""LoRA adapters by their place: loaded on first use, checked against the decoder, chosen for each row of a batch, dropped when unused."""

from __future__ import annotations

import itertools
import json
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lloco_integrations.errors import IncompatibleAdapter
from lloco_integrations.fingerprint import adapter_identity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NO_ADAPTER = "__base__"  # peft's own name for "none" in a mixed batch
_MIXED = "__mixed__"


class _Loaded(NamedTuple):
    name: str
    identity: str


class Adapters:
    """The adapters of one decoder that are in memory. Not thread-safe: whoever calls ``choose`` holds the backend's lock until
    generation is over."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._names = itertools.count()
        self._applied: str | None = None
        """The adapter that all rows run under, ``_NO_ADAPTER``, ``_MIXED``, or None if that is not known."""
        self._layers: list[Any] | None = None
        """The layers that adapters are on, where that is all that changing over takes: peft's own way passes through all modules and
        the gradients of every adapter in memory, tens of milliseconds. None where an adapter replaces whole modules."""

    def choose(self, paths: Sequence[str | None], limit: int) -> dict[str, Any]:
        """Make the rows of the next batch run under the adapters at ``paths`` and return the extra arguments for ``generate``.

        An adapter whose files have changed is loaded again. At most ``limit`` stay in memory, or as many as this batch needs. Raises
        IncompatibleAdapter for one that cannot be found or does not fit, and for several where one replaces whole modules.
        """
        needed = {path: adapter_identity(path) for path in dict.fromkeys(paths) if path is not None}
        for path, identity in needed.items():
            held = self._loaded.get(path)
            if held is None or held.identity != identity:
                self._loaded[path] = self._load(path, identity)
            self._loaded.move_to_end(path)
            if held is not None and held != self._loaded[path]:
                self._delete(held)
        for path in list(self._loaded)[: max(0, len(self._loaded) - max(limit, len(needed)))]:
            self._delete(self._loaded.pop(path))
        if not self._loaded:
            return {}
        names = [_NO_ADAPTER if path is None else self._loaded[path].name for path in paths]
        if len(set(names)) == 1:  # a quarter faster than choosing row by row
            self._apply(names[0])
            return {}
        if self._layers is None:
            raise IncompatibleAdapter(
                f"one of the adapters in memory ({', '.join(self._loaded)}) replaces whole modules (modules_to_save), so prompts under several "
                f"adapters cannot share a batch; ask under one adapter at a time, or learn it without modules_to_save"
            )
        self._apply(_MIXED)
        return {"adapter_names": names}

    def _apply(self, name: str) -> None:
        if name == self._applied:
            return
        if self._layers is not None:
            for layer in self._layers:
                layer._disable_adapters = name == _NO_ADAPTER
                if name not in (_NO_ADAPTER, _MIXED):
                    layer._active_adapter = [name]
        elif name == _NO_ADAPTER:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            if name != _MIXED:
                self.model.set_adapter(name)
        self._applied = name

    @property
    def loaded(self) -> list[str]:
        """Paths of the adapters in memory, the least recently used first."""
        return list(self._loaded)

    def _load(self, path: str, identity: str) -> _Loaded:
        from peft import PeftModel
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils import AuxiliaryTrainingWrapper

        self._check(path)
        self._applied = None
        name = f"a{next(self._names)}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
                if isinstance(self.model, PeftModel):
                    self.model.load_adapter(path, adapter_name=name)
                else:
                    self.model = PeftModel.from_pretrained(self.model, path, adapter_name=name)
        except Exception as error:
            raise IncompatibleAdapter(
                f"the adapter at {path} does not fit this decoder: {error}; it was trained for another base model"
            ) from error
        self.model.eval()
        modules = list(self.model.modules())
        whole = any(isinstance(m, AuxiliaryTrainingWrapper) for m in modules)
        self._layers = None if whole else [m for m in modules if isinstance(m, BaseTunerLayer)]
        return _Loaded(name, identity)

    def _delete(self, held: _Loaded) -> None:
        self._applied = None
        self.model.set_adapter(next(reversed(self._loaded.values())).name)  # peft warns when the active one goes
        self.model.delete_adapter(held.name)

    def _check(self, path: str) -> None:
        """A directory is checked before anything is loaded: peft leaves a half-loaded adapter behind when shapes disagree."""
        directory = Path(path)
        if not directory.is_dir():
            if path.startswith((".", "/", "~")):
                raise IncompatibleAdapter(f"there is no directory {path} with an adapter")
            return
        try:
            config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
            from safetensors import safe_open

            with safe_open(directory / "adapter_model.safetensors", framework="pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        except Exception as error:
            raise IncompatibleAdapter(f"{path} is not a LoRA in PEFT format ({error})") from error
        if config.get("peft_type") != "LORA":
            raise IncompatibleAdapter(f"the adapter at {path} is of type {config.get('peft_type')}; only LORA is supported")
        model: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        modules = dict(model.named_modules())
        for key, shape in shapes.items():
            module_name, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
            module: Any = modules.get(module_name)
            if not rest or rest[0] not in "AB":
                continue
            if module is None:
                raise IncompatibleAdapter(f"the adapter at {path} was trained for another base: this decoder has no {module_name}")
            weight: Any = getattr(module, "base_layer", module).weight
            ours, theirs = (weight.shape[1], shape[1]) if rest[0] == "A" else (weight.shape[0], shape[0])
            if ours != theirs:
                raise IncompatibleAdapter(
                    f"the adapter at {path} was trained for another base: {module_name} has {theirs} features there and {ours} here"
                )
