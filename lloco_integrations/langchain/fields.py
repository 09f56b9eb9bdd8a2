"""What every class of this package has in common: the arguments that name a model and a store."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.engine import DEFAULT_MODEL, Engine
from lloco_integrations.errors import BadInput
from lloco_integrations.secret import Secret, shown


class EngineFields(BaseModel):
    """A model and a store by name; nothing is loaded before it is used, and nothing loaded is kept in the object.

    Attributes:
        model: preset, directory or hub id, as ``load_model`` takes it (``model_name`` is accepted, too).
        store: where summary embeddings live: None (the default store), a URL, a SummaryStore, or any LangChain ByteStore.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32", "bfloat16" or "float16".
        backend: what runs the decoder: "transformers" in this process, "vllm" (a server), or "vllm-offline" (vLLM in this process); give
            an LLM's neighbours the same, and they share what it has loaded. See docs/serving.md.
        base_url: of the vLLM server; None is http://localhost:8000.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    model: str = Field(default=DEFAULT_MODEL, validation_alias=AliasChoices("model", "model_name"))
    store: Any = Field(default=None, repr=False)
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "transformers"
    base_url: Secret | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_arguments(cls, values: Any) -> Any:
        known = set(cls.model_fields)
        for field in cls.model_fields.values():
            if isinstance(field.validation_alias, AliasChoices):
                known |= {choice for choice in field.validation_alias.choices if isinstance(choice, str)}
        for name in sorted(set(values) - known) if isinstance(values, dict) else []:
            raise BadInput(f"{cls.__name__} has no argument {name!r}; {meant(name, known)}")
        return values

    @field_validator("model", "store", mode="before")
    @classmethod
    def _accept_path(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("store")
    @classmethod
    def _hide_password(cls, value: Any) -> Any:
        return Secret(value) if isinstance(value, str) else value

    @field_serializer("store")
    def _dump_without_password(self, value: Any) -> Any:
        return str(value) if isinstance(value, Secret) else value

    @property
    def engine(self) -> Engine:
        """The core that does the work; cheap to make, shares weights and store with all others in this process."""
        return Engine(self.model, self.store, device=self.device, dtype=self.dtype, runtime=self._runtime())

    def _runtime(self) -> Runtime:
        return Runtime(self.backend, self.base_url)

    @model_validator(mode="after")
    def _check_runtime(self) -> Self:
        self._runtime()
        return self

    @property
    def store_name(self) -> str | None:
        """The store as traces and cache keys name it: without passwords, and different for different stores."""
        if self.store is None or isinstance(self.store, Secret):
            return None if self.store is None else str(self.store)
        store = self.engine.store
        return f"{shown(store.url)}#{store.key('', 'identity')[:8]}"


def meant(name: str, known: set[str]) -> str:
    """The remedy for an unknown argument."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(sorted(known))}"
