"""What a store knows about itself: its secret and how it stores vectors. Made once, then only read."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field, replace
from functools import cached_property

from lloco_integrations.errors import StoreError
from lloco_integrations.store.keys import SECRET_BYTES
from lloco_integrations.store.seal import Seal

FORMAT = 2
"""1: nothing but the values is protected, by a checksum. 2: meta data and descriptions carry a mark under the store's secret."""
STORAGES = ("exact", "int8")


@dataclass(frozen=True)
class StoreMeta:
    """Attributes:
    secret: 32 random bytes, the key of the hash that names entries, and of the marks that vouch for descriptions.
    storage: ``"exact"`` or ``"int8"``.
    created: unix seconds.
    version: of the format that the place has; equal meta data are those of one store, whatever its format.
    legacy: whether values of format 1 may be there.
    """

    secret: bytes
    storage: str
    created: float
    version: int = field(default=FORMAT, compare=False)
    legacy: bool = field(default=False, compare=False)

    @cached_property
    def seal(self) -> Seal:
        """What marks and checks descriptions of this store."""
        return Seal(self.secret, self.legacy)

    def upgraded(self) -> StoreMeta:
        """These meta data in the format of this version."""
        return replace(self, version=FORMAT)

    @staticmethod
    def new(storage: str) -> StoreMeta:
        """Fresh meta data with a secret of its own."""
        return StoreMeta(secrets.token_bytes(SECRET_BYTES), storage, time.time())

    def __repr__(self) -> str:
        return f"StoreMeta(secret=..., storage={self.storage!r}, created={self.created!r})"

    def to_json(self) -> str:
        """As kept in the store."""
        values = {"lloco_store": FORMAT, "storage": self.storage, "created": self.created, "legacy": self.legacy}
        return json.dumps({**values, "secret": self.secret.hex(), "seal": self.seal.table("meta", "", values)})

    @staticmethod
    def from_json(text: object, where: str) -> StoreMeta:
        """Reads what ``to_json`` wrote; ``where`` names the store in errors.

        Raises StoreError if it is not that, or was written by a newer version.
        """
        try:
            if not isinstance(text, (str, bytes)):
                raise TypeError(f"{type(text).__name__} in place of text")
            raw = json.loads(text)
            version = raw["lloco_store"]
            if type(version) is not int or version < 1:
                raise ValueError("format is wrong")
            if version <= FORMAT:
                legacy = version < 2 or raw["legacy"] is True
                meta = StoreMeta(bytes.fromhex(raw["secret"]), str(raw["storage"]), float(raw["created"]), version, legacy)
                if len(meta.secret) != SECRET_BYTES or meta.storage not in STORAGES:
                    raise ValueError("secret or storage is wrong")
                mark = raw.pop("seal", None)
                del raw["secret"]
                if version >= 2 and mark != meta.seal.table("meta", "", raw):
                    raise ValueError("they do not fit the secret")
                return meta
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise StoreError(
                f"the store {where} has damaged meta data ({type(error).__name__}: {error}); restore it from a backup, "
                f"or remove the store and compress again"
            ) from error
        raise StoreError(f"the store {where} has format {version}, this version reads up to {FORMAT}; upgrade lloco-integrations")


def check_storage(storage: str | None) -> None:
    """Raises StoreError unless ``storage`` is None or one this version knows."""
    if storage is not None and storage not in STORAGES:
        raise StoreError(f"storage {storage!r} is not one of {', '.join(STORAGES)}")
