"""What the LLM, the postprocessor, the ingestion step and the prompt helper share: a model and a store, by name."""

from __future__ import annotations

import difflib
import os
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseComponent

from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.engine import DEFAULT_MODEL, Engine
from lloco_integrations.secret import Secret


class Wired(BaseComponent):
    """Fields that name a model and a store; ``engine`` is what does the work.

    ``store`` may be a URL or path, None (the default store), a SummaryStore, or an object with ``mget`` and ``mset``. Objects
    live in a private attribute; what is serialised is their URL, or None if no URL opens them again. Dumps and pickles have an address
    without its password: give the whole again where they are read.

    ``backend`` and ``base_url``: give an LLM's neighbours the same, and they share what it has loaded; see docs/serving.md.
    """

    model: str = Field(default=DEFAULT_MODEL, description="Preset, model directory or hub id.")
    store: Secret | None = Field(default=None, description="URL of the summary store; None is the default store.")
    device: str = Field(default="auto", description="auto, or a torch device.")
    dtype: str = Field(default="auto", description="auto, float32, bfloat16 or float16.")
    backend: str = Field(default="transformers", description="What runs the decoder: transformers, vllm or vllm-offline.")
    base_url: Secret | None = Field(default=None, description="Address of the vLLM server; None is http://localhost:8000.")

    _store: Any = PrivateAttr(default=None)

    def __init__(self, *, store: Any = None, **fields: Any) -> None:
        fields.pop("class_name", None)  # from a dump
        known = {name for c in type(self).__mro__ if hasattr(c, "model_fields") for name in c.model_fields}
        unknown = sorted(set(fields) - known)
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            raise TypeError(f"{type(self).__name__} has no argument {', '.join(unknown)}{f'; did you mean {near[0]}?' if near else ''}")
        if isinstance(fields.get("model"), os.PathLike):
            fields["model"] = os.fspath(fields["model"])
        held, url = _held(store)
        fields["store"] = url
        super().__init__(**fields)
        self._store = held
        self._runtime()  # what cannot be is said now

    @property
    def engine(self) -> Engine:
        """The engine for the names as they are now; it loads model and store on first use."""
        adapters = dict(getattr(self, "adapters", None) or {})
        store = self._store if self._store is not None else self.store
        limits = [getattr(self, name, None) for name in ("max_adapters", "prefix_cache_bytes")]
        return Engine(self.model, store, adapters, self.device, self.dtype, limits[0], self._runtime(), limits[1])

    def _runtime(self) -> Runtime:
        return Runtime(self.backend, self.base_url)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for name, held in (state.get("__pydantic_private__") or {}).items():  # LlamaIndex makes the object anew, of its fields alone
            if held is not None:
                setattr(self, name, held)


def _held(store: Any) -> tuple[Any, Secret | None]:
    """The store object to keep, if ``store`` is one, and the URL to serialise."""
    from lloco_integrations.store import SummaryStore

    if store is None:
        return None, None
    if isinstance(store, str | Secret | os.PathLike):
        return None, Secret(os.fspath(store) if isinstance(store, os.PathLike) else store)
    opened = SummaryStore.open(store)
    return opened, None if opened.url.startswith("object:") else Secret(opened.url)
