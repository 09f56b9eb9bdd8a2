"""The arguments of both LLM classes, and what one call makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import AliasChoices, Field

from lloco_integrations import placeholder
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.engine import Engine
from lloco_integrations.errors import BadInput
from lloco_integrations.langchain.fields import EngineFields, meant
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.secret import Key, key_or_none
from lloco_integrations.types import GenerationParams

NOT_A_TOKEN = -1
"""Stands in ``get_token_ids`` for each position that a summary vector takes."""

_PER_CALL = ("model", "adapter", "temperature", "max_tokens", "top_p", "top_k", "repetition_penalty", "seed")
_SYNONYMS = {"max_new_tokens": "max_tokens", "model_name": "model"}
_NO_EFFECT = {"stream", "stream_usage", "streaming", "timeout", "max_retries", "api_key"}


@dataclass(frozen=True)
class Call:
    """One call: the engine, how to decode, and the adapter."""

    engine: Engine
    params: GenerationParams
    adapter: str | None


class DecoderFields(EngineFields):
    """How to answer.

    Attributes:
        adapters: group name -> directory or hub id of a LoRA.
        adapter: name of the adapter for all prompts; "none" is the model alone. None takes that of the group which has most of the
            prompt (the group comes from the documents' metadata, see CompressionFields), else the one named "default", else none.
            An answer's metadata tell the ``adapter``, and under ``groups`` each group's share.
        max_adapters: how many adapters stay in memory; the least recently used goes first.
        prefix_cache_bytes: memory for what has been read of documents, so that a second question about them is answered sooner; None is
            512 MiB, 0 keeps nothing. A server has its own cache.
        temperature: 0 is greedy.
        max_tokens: longest answer in tokens (``max_new_tokens`` is accepted, too).
        top_p: nucleus sampling, 1 for all.
        top_k: sampling among so many tokens, 0 for all.
        repetition_penalty: 1 for none.
        seed: makes sampling repeatable.
        stop: strings that end an answer; ``stop`` of a call replaces them.
        timeout, max_retries, api_key: for a server: seconds that it may be silent, requests tried again after a fault of its own, its key
            (the environment's LLOCO_API_KEY). A model in this process has no use for them.
        served_model: the base model's name on the server, if it has several.
        load_adapters: let the server load adapters that it does not have, from its own disk.
        backend_options: what ``vllm.LLM`` takes, for "vllm-offline".
    """

    adapters: dict[str, str] | None = None
    adapter: str | None = None
    max_adapters: int = Field(default=8, ge=1)
    prefix_cache_bytes: int | None = Field(default=None, ge=0)
    temperature: float = 0.0
    max_tokens: int = Field(default=256, validation_alias=AliasChoices("max_tokens", "max_new_tokens"))
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    timeout: float | None = None
    max_retries: int | None = None
    api_key: Key | None = Field(default_factory=lambda: key_or_none(None))
    served_model: str | None = None
    load_adapters: bool = False
    backend_options: dict[str, Any] | None = None

    @property
    def engine(self) -> Engine:
        """The core that does the work; cheap to make, shares weights and store with all others in this process."""
        adapters = dict(self.adapters or {})
        runtime = self._runtime()
        return Engine(self.model, self.store, adapters, self.device, self.dtype, self.max_adapters, runtime, self.prefix_cache_bytes)

    def _runtime(self) -> Runtime:
        return Runtime.of(
            self.backend,
            self.backend_options,
            base_url=self.base_url,
            served_model=self.served_model,
            api_key=key_or_none(self.api_key),
            timeout=self.timeout,
            max_retries=self.max_retries,
            load_adapters=self.load_adapters,
        )

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """Everything that changes an answer. LangChain overwrites "stop" with the call's, so ours has another name."""
        return {
            "model": self.model,
            "store": self.store_name,
            "adapters": self.engine.adapter_identities,
            "adapter": self.adapter,
            "dtype": self.dtype,
            "backend": self.backend,
            "served_model": self.served_model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
            "default_stop": self.stop,
        }

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of ``text``; a placeholder gives NOT_A_TOKEN as many times as it takes positions in the prompt.

        Raises PlaceholderError if the store does not hold it.
        """
        custom = getattr(self, "custom_get_token_ids", None)
        if custom is not None:
            return list(custom(text))
        engine, ids = self.engine, []
        prompter = engine.model.prompter
        if prompter is None:
            raise BadInput(f"{self.model} has no tokenizer; it cannot count text")
        for part in placeholder.split(placeholder.split_votes(text)[0]):
            if isinstance(part, Placeholder):
                ids += [NOT_A_TOKEN] * engine.count(str(part), templated=False).n_positions
            else:
                ids += prompter.text_ids(part)
        return ids

    def _bound(self, kwargs: Mapping[str, Any]) -> tuple[Self, dict[str, Any]]:
        """This model with the arguments of a call in place of its own, and the arguments that are not ours."""
        rest = dict(kwargs)
        named = {_SYNONYMS.get(name, name): rest.pop(name) for name in (*_SYNONYMS, *_PER_CALL) if name in rest}
        return (self.model_copy(update=named) if named else self), rest

    def _call(self, stop: Sequence[str] | None, kwargs: Mapping[str, Any]) -> Call:
        """Raises BadInput for an argument that means nothing here."""
        bound, rest = self._bound(kwargs)
        stop = [stop] if isinstance(stop, str) else stop
        for name in rest:
            if name in ("tools", "tool_choice", "functions") and rest[name]:
                raise BadInput(f"{type(self).__name__} cannot call tools; leave {name} out")
            if name not in _NO_EFFECT and rest[name] is not None:
                raise BadInput(f"{type(self).__name__} was called with {name!r}; {meant(name, {*_PER_CALL, *_SYNONYMS, 'stop'})}")
        if isinstance(stop, str):
            stop = [stop]
        params = GenerationParams(
            max_new_tokens=bound.max_tokens,
            temperature=bound.temperature,
            top_p=bound.top_p,
            top_k=bound.top_k,
            repetition_penalty=bound.repetition_penalty,
            stop=tuple(stop if stop is not None else bound.stop or ()),
            seed=bound.seed,
        )
        return Call(bound.engine, params, bound.adapter)


def warn_about_tools(tools: Sequence[Any] | None) -> None:
    """Tool schemas are in no prompt of ours, so they cost nothing."""
    if tools:
        warnings.warn("this model cannot call tools; their schemas are not counted", stacklevel=3)
