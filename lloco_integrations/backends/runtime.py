"""What runs the decoder, and where: values only, so that naming a server loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lloco_integrations.errors import BadInput
from lloco_integrations.secret import Key, Secret, scrubbed

BACKENDS = ("transformers", "vllm", "vllm-offline")
DEFAULT_URL = "http://localhost:8000"


@dataclass(frozen=True)
class Runtime:
    """Where answers come from.

    Attributes:
        backend: "transformers" (in this process), "vllm" (a server, as ``lloco serve`` starts one), or "vllm-offline" (vLLM in this process).
        base_url: of the server, with or without ``/v1``; None is http://localhost:8000.
        served_model: the base model's name on the server; None is the only one that it has.
        api_key: sent as a bearer token.
        timeout: seconds without a new token from the server, whatever else it sends; None is 120.
        max_retries: of a request that met no server, or a server's own error (5xx, 429; its Retry-After is kept to); None is 3.
        load_adapters: ask the server to load adapters that it does not have; it reads them from its own disk, and must allow it.
        options: for "vllm-offline", what ``vllm.LLM`` takes, such as ``max_model_len``.

    Raises BadInput for a backend that there is not, or for what the chosen one does not use.
    """

    backend: str = "transformers"
    base_url: str | Secret | None = None
    served_model: str | None = None
    api_key: str | Key | None = None
    timeout: float | None = None
    max_retries: int | None = None
    load_adapters: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.base_url is not None:
            object.__setattr__(self, "base_url", Secret(self.base_url))
        if self.api_key is not None:
            object.__setattr__(self, "api_key", Key(self.api_key))
        if self.backend not in BACKENDS:
            raise BadInput(f"backend is {self.backend!r}; use one of {', '.join(map(repr, BACKENDS))}")
        if self.base_url is not None and self.backend != "vllm":
            raise BadInput(
                f"base_url is {self.base_url!r}, but backend {self.backend!r} asks no server; add backend='vllm', or leave it out"
            )
        if self.base_url is not None and not self.url.get_secret_value().startswith(("http://", "https://")):
            raise BadInput(f"base_url is {self.base_url!r}; give the server's address, such as {DEFAULT_URL}")
        if self.options and self.backend != "vllm-offline":
            raise BadInput(f"backend_options are for backend='vllm-offline', not {self.backend!r}; a server has its own, see lloco serve")
        if self.timeout is not None and not self.timeout > 0:
            raise BadInput(f"timeout is {self.timeout!r}; give seconds over 0")
        if self.max_retries is not None and self.max_retries < 0:
            raise BadInput(f"max_retries is {self.max_retries!r}; give 0 or more")

    @classmethod
    def of(cls, backend: str, options: Mapping[str, Any] | None = None, **client: Any) -> Runtime:
        """From the arguments of an application's objects: those that the backend has no use for are left out, so that what is loaded once is
        shared. ``options``: as a mapping of numbers and strings."""
        made = cls(backend, base_url=client.get("base_url"), options=_hashable(options))
        return replace(made, **client) if backend == "vllm" else made

    @property
    def in_process(self) -> bool:
        """Whether the decoder's weights are loaded by transformers, here."""
        return self.backend == "transformers"

    @property
    def url(self) -> Secret:
        """The server's address without ``/v1`` and without a slash at its end."""
        given = Secret(self.base_url or DEFAULT_URL).get_secret_value()
        return Secret(given.rstrip("/").removesuffix("/v1"))

    def scrub(self, text: str) -> str:
        """``text`` without the server's key and password, whoever says it."""
        return scrubbed(text, [self.api_key if isinstance(self.api_key, Key) else None, self.url])


def _hashable(given: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    for name, value in (given or {}).items():
        if not isinstance(value, str | int | float | bool):
            raise BadInput(f"backend_options[{name!r}] is {value!r}; give a number, a string, True or False")
    return tuple(sorted((given or {}).items()))
