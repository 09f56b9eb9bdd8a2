"""Addresses and keys that cannot be printed: what is secret in them is got by one method, and by nothing else."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from lloco_integrations.errors import BadInput

HIDDEN = "***"
_USER = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*://)(?P<user>[^/@:?#]*)(?P<password>:(?:(?!::)\S)*?)?@(?=[^/@]*(?:[/?#]|::|$))")
_ARGUMENT = re.compile(r"([?&;][^=&;\s]*(?:pass|pwd|secret|token|key|sig|auth|cred)[^=&;\s]*=)(?:(?!::)[^&;\s])*", re.IGNORECASE)


class Secret:
    """An address that may hold a password, or, as ``Key``, a value that is secret as a whole.

    ``str``, ``repr``, ``format``, pickles, copies in JSON and what pydantic dumps have the address without its secrets. An address without
    any is there as it is. Equal to the same value, also as a plain string.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str | Secret) -> None:
        self._value: str = value._value if isinstance(value, Secret) else value

    def get_secret_value(self) -> str:
        """The value as it was given. Raises BadInput for one that was written down without its secrets, and read again."""
        if self.is_lost:
            raise BadInput(f"{self} was written down without its secrets, in a dump or a pickle; give the whole again")
        return self._value

    @property
    def is_lost(self) -> bool:
        """Whether the secrets are gone: they do not go into a pickle or a dump."""
        return self._value == HIDDEN or f":{HIDDEN}@" in self._value or f"//{HIDDEN}@" in self._value or f"={HIDDEN}" in self._value

    def secrets(self) -> list[str]:
        """What must be in no message, longest first."""
        found: set[str] = set()
        for part in self._value.split("::"):
            for match in _USER.finditer(part):
                user, password = match["user"], (match["password"] or "").removeprefix(":")
                whole = f"{user}:{password}" if match["password"] else user
                found |= {whole, password or user, base64.b64encode(unquote(whole).encode()).decode()}
            found |= {match[0].partition("=")[2] for match in _ARGUMENT.finditer(part)}
        return sorted({s for raw in found for s in (raw, unquote(raw)) if s}, key=len, reverse=True)

    def __str__(self) -> str:
        return shown(self._value)

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return self._value == (other._value if isinstance(other, Secret) else other)

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self),)

    @classmethod
    def of(cls, value: Any) -> Self:
        """From a string, another Secret, or pydantic's SecretStr. Raises ValueError for anything else."""
        if isinstance(value, cls):
            return value
        inner = value if isinstance(value, str | Secret) else getattr(value, "get_secret_value", lambda: None)()
        if not isinstance(inner, str | Secret):
            raise ValueError(f"a string is wanted, not {type(value).__name__}")
        return cls(inner)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema as schema

        text = schema.str_schema()
        return schema.json_or_python_schema(
            json_schema=schema.no_info_after_validator_function(cls.of, text),
            python_schema=schema.no_info_plain_validator_function(cls.of),
            serialization=schema.plain_serializer_function_ser_schema(str, return_schema=text),
        )


class Key(Secret):
    """A value that is secret as a whole, such as an API key."""

    __slots__ = ()

    def secrets(self) -> list[str]:
        return [self._value] if self._value and not self.is_lost else []

    def __str__(self) -> str:
        return HIDDEN


def key_or_none(key: Key | None) -> Key | None:
    """``key``, or that of the environment's LLOCO_API_KEY where there is none, or where it was lost in a dump or a pickle."""
    if key is not None and not key.is_lost:
        return key
    named = os.environ.get("LLOCO_API_KEY")
    return Key(named) if named else None


def shown(address: str) -> str:
    """``address`` without passwords, and without arguments that are named like secrets; several may be joined by ``::``."""

    def masked(match: re.Match[str]) -> str:
        return f"{match['scheme']}{match['user']}:{HIDDEN}@" if match["password"] else f"{match['scheme']}{HIDDEN}@"

    hidden = _USER.sub(masked, address)
    return _ARGUMENT.sub(rf"\1{HIDDEN}", hidden)


def scrubbed(text: str, secrets: Iterable[Secret | None]) -> str:
    """``text`` without any of ``secrets``: what a server says may repeat what it was sent."""
    for secret in secrets:
        for value in secret.secrets() if secret is not None else ():
            pattern = re.escape(value) if len(value) > 5 else rf"(?<!\w){re.escape(value)}(?!\w)"
            text = re.sub(pattern, HIDDEN, text)
    return shown(text)


def without_user(address: str) -> tuple[str, tuple[str, str] | None]:
    """An address of http(s) without user and password, and these."""
    parts = urlsplit(address)
    if "@" not in parts.netloc:
        return address, None
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return parts._replace(netloc=host).geturl(), (unquote(name), unquote(password))
