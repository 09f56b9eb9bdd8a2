"""What a store knows about itself: its secret and how it stores vectors. Made once, then only read."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass

from lloco_integrations.errors import StoreError
from lloco_integrations.store.keys import SECRET_BYTES

FORMAT = 1
STORAGES = ("exact", "int8")


@dataclass(frozen=True)
class StoreMeta:
    """Attributes:
    secret: 32 random bytes, the key of the hash that names entries.
    storage: ``"exact"`` or ``"int8"``.
    created: unix seconds.
    """

    secret: bytes
    storage: str
    created: float

    @staticmethod
    def new(storage: str) -> StoreMeta:
        """Fresh meta data with a secret of its own."""
        return StoreMeta(secrets.token_bytes(SECRET_BYTES), storage, time.time())

    def __repr__(self) -> str:
        return f"StoreMeta(secret=..., storage={self.storage!r}, created={self.created!r})"

    def to_json(self) -> str:
        """As kept in the store."""
        return json.dumps({"lloco_store": FORMAT, "storage": self.storage, "secret": self.secret.hex(), "created": self.created})

    @staticmethod
    def from_json(text: object, where: str) -> StoreMeta:
        """Reads what ``to_json`` wrote; ``where`` names the store in errors.

        Raises StoreError if it is not that, or was written by a newer version.
        """
        try:
            if not isinstance(text, (str, bytes)):
                raise TypeError(f"{type(text).__name__} in place of text")
            raw = json.loads(text)
            version = int(raw["lloco_store"])
            if version <= FORMAT:
                meta = StoreMeta(bytes.fromhex(raw["secret"]), str(raw["storage"]), float(raw["created"]))
                if len(meta.secret) != SECRET_BYTES or meta.storage not in STORAGES:
                    raise ValueError("secret or storage is wrong")
                return meta
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StoreError(
                f"the store {where} has damaged meta data ({type(error).__name__}: {error}); restore it from a backup, "
                f"or remove the store and compress again"
            ) from error
        raise StoreError(f"the store {where} has format {version}, this version reads up to {FORMAT}; upgrade lloco-integrations")


def check_storage(storage: str | None) -> None:
    """Raises StoreError unless ``storage`` is None or one this version knows."""
    if storage is not None and storage not in STORAGES:
        raise StoreError(f"storage {storage!r} is not one of {', '.join(STORAGES)}")
