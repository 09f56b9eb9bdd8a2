"""LoRA adapters by their place: loaded on first use, checked against the decoder, chosen for each row of a batch, dropped when unused."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from lloco_integrations.backends.adapter_files import AdapterFiles, read_adapter
from lloco_integrations.errors import IncompatibleAdapter
from lloco_integrations.fingerprint import adapter_identity
from lloco_integrations.undisturbed import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NO_ADAPTER = "__base__"  # peft's own name for "none" in a mixed batch
_MIXED = "__mixed__"


class _Loaded(NamedTuple):
    name: str
    identity: str
    files: AdapterFiles  # without its tensors


class Adapters:
    """The adapters of one decoder that are in memory. Not thread-safe: whoever calls ``chosen`` or ``choose`` holds the backend's lock until
    generation is over."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._base: Any = model
        self.model: Any = model
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._names = itertools.count()
        self._applied: str | None = None
        """The adapter that all rows run under, ``_NO_ADAPTER``, ``_MIXED``, or None if that is not known."""
        self._layers: list[Any] | None = None
        """The layers that adapters are on, where that is all that changing over takes: peft's own way passes through all modules and
        the gradients of every adapter in memory, tens of milliseconds. None where an adapter replaces whole modules."""
        self._under_way = False

    @contextmanager
    def chosen(self, paths: Sequence[str | None], limit: int) -> Iterator[dict[str, Any]]:
        """As ``choose``. Whatever ends the block, an error or Ctrl-C, leaves nothing of this batch on the decoder's layers."""
        if self._under_way:  # what ended the last one could not even be tidied up after
            self._tidy()
        self._under_way = True
        try:
            yield self.choose(paths, limit)
        except BaseException:
            self._tidy()
            raise
        self._under_way = False

    def choose(self, paths: Sequence[str | None], limit: int) -> dict[str, Any]:
        """Make the rows of the next batch run under the adapters at ``paths`` and return the extra arguments for ``generate``.

        An adapter whose files have changed is loaded again. At most ``limit`` stay in memory, or as many as this batch needs. Raises
        IncompatibleAdapter for one that cannot be found or does not fit, and for several where one cannot share a batch.
        """
        needed = {path: adapter_identity(path) for path in dict.fromkeys(paths) if path is not None}
        changed = [path for path, identity in needed.items() if path in self._loaded and self._loaded[path].identity != identity]
        others = [path for path in self._loaded if path not in needed]
        leaving = others[: max(0, len(others) + len(needed) - max(limit, len(needed)))]
        if any(self._loaded[path].files.saved for path in (*changed, *leaving)):  # peft leaves something of those behind
            self.reset()
        for path in changed:
            self._delete(path)
        while missing := [path for path in needed if path not in self._loaded]:  # loading one may take others off
            self._load(missing[0], needed[missing[0]], needed)
        for path in needed:
            self._loaded.move_to_end(path)
        for path in leaving:
            self._delete(path)
        if not self._loaded:
            return {}
        names = [_NO_ADAPTER if path is None else self._loaded[path].name for path in paths]
        if len(set(names)) == 1:  # a quarter faster than choosing row by row
            self._apply(names[0])
            return {}
        alone = next((f"{path}) {held.files.alone}" for path, held in self._loaded.items() if held.files.alone), None)
        if alone is not None:
            raise IncompatibleAdapter(
                f"one of the adapters in memory ({alone}, so prompts under several adapters cannot share a batch; ask under one adapter at a "
                f"time, or learn it as a plain LoRA on linear layers"
            )
        self._apply(_MIXED)
        return {"adapter_names": names}

    def reset(self) -> None:
        """Take every adapter off: the decoder is as it was before the first one. They are loaded again when they are wanted."""
        self._applied = self._layers = None
        self._loaded.clear()
        _unwrap(self._base)
        self.model = self._base
        self._under_way = False

    @property
    def loaded(self) -> list[str]:
        """Paths of the adapters in memory, the least recently used first."""
        return list(self._loaded)

    def _apply(self, name: str) -> None:
        if name == self._applied:
            return
        self._applied = None  # until it is done: an interrupted change is begun anew
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

    def _tidy(self) -> None:
        """Take peft's hooks off, which an error leaves behind, and choose anew next time."""
        self._applied = None
        for module in self._base.modules():
            for key, hook in list(module._forward_pre_hooks.items()):
                if isinstance(hook, functools.partial) and "adapter_names" in hook.keywords:
                    del module._forward_pre_hooks[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
        self._under_way = False

    def _load(self, path: str, identity: str, needed: Collection[str]) -> None:
        """Put the adapter at ``path`` on the decoder. If that fails, every adapter is taken off: none stays half loaded."""
        files = read_adapter(path, self._base)
        rivals = [other for other, held in self._loaded.items() if files.clashes(held.files)]
        if any(other in needed for other in rivals):
            raise IncompatibleAdapter(
                f"the adapters at {path} and {rivals[0]} cannot be in one batch: one replaces a module that the other changes; ask under one at "
                f"a time"
            )
        if rivals:
            self.reset()
        name = f"a{next(self._names)}"
        try:
            self.model = attach(self.model, files, name)
            kinds = _wrappers()
            modules = list(self.model.modules())
            self._applied = None
            self._layers = None if any(isinstance(m, kinds[1]) for m in modules) else [m for m in modules if isinstance(m, kinds[0])]
            self._loaded[path] = _Loaded(name, identity, replace(files, tensors={}))
        except BaseException as error:
            self.reset()
            if isinstance(error, Exception):
                raise IncompatibleAdapter(
                    f"the adapter at {path} cannot be put on this decoder: {type(error).__name__}: {error}; learn it again"
                ) from error
            raise

    def _delete(self, path: str) -> None:
        self._applied = None
        held = self._loaded.pop(path, None)
        if held is None:
            return
        if not self._loaded:
            self.reset()
            return
        try:
            self.model.set_adapter(next(reversed(self._loaded.values())).name)  # peft warns when the active one goes
            self.model.delete_adapter(held.name)
        except BaseException:
            self.reset()
            raise


def attach(model: Any, files: AdapterFiles, name: str) -> Any:
    """``model``, a Hugging Face model or a PeftModel around one, as a PeftModel that has the adapter ``files`` under ``name``.

    Only what ``files`` names is changed. Raises whatever peft does, and IncompatibleAdapter if it makes something else of the files.
    """
    from peft import LoraConfig, PeftModel, PeftModelForCausalLM, set_peft_model_state_dict

    layer = _wrappers()[0]
    with undisturbed(inference=False), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        config = LoraConfig(**files.config)
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            kind: Any = PeftModelForCausalLM if files.config["task_type"] == "CAUSAL_LM" else PeftModel
            model = kind(model, config, name)
        result: Any = set_peft_model_state_dict(model, files.tensors, adapter_name=name)
        inner = model.get_base_model()
        got = {at for at, module in inner.named_modules() if isinstance(module, layer) and name in module.scaling}
        if result.unexpected_keys or got != files.modules:
            raise IncompatibleAdapter(f"peft puts it on {len(got)} modules in place of {len(files.modules)}")
        model.requires_grad_(False)
        return model.eval()


def _wrappers() -> tuple[Any, Any]:
    """What peft puts around a layer, and around a module that is replaced as a whole."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    return BaseTunerLayer, AuxiliaryTrainingWrapper


def _unwrap(model: Any) -> None:
    """Put the modules of ``model`` back where an adapter, whole or half, stands around them."""
    layer, whole = _wrappers()
    while True:
        found = [(m, n, child) for m in model.modules() for n, child in m.named_children() if isinstance(child, (layer, whole))]
        if not found:
            break
        for parent, name, child in found:
            parent._modules[name] = child.original_module if isinstance(child, whole) else child.get_base_layer()
    for name in ("peft_config", "prepare_inputs_for_generation", "active_adapter"):
        model.__dict__.pop(name, None)
