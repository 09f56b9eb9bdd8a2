"""Names of entries: keyed BLAKE2b of (fingerprint, text) under the store's own secret."""

from __future__ import annotations

import base64
import hashlib
import re

from lloco_integrations.errors import BadInput
from lloco_integrations.placeholder import KEY_LENGTH

SECRET_BYTES = 32
_DIGEST_BYTES = 16
_PERSON = b"lloco-store-key1"
# 26 characters hold 130 bits: the last two are zero, which leaves eight possible last characters.
_KEY = re.compile(rf"[a-z2-7]{{{KEY_LENGTH - 1}}}[aeimquy4]")


def is_key(value: object) -> bool:
    """Whether ``value`` could have been made by ``make_key``; nothing else ever reaches a file name or a query."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def make_key(secret: bytes, fingerprint: str, text: str) -> str:
    """The key of ``text`` compressed by ``fingerprint``: 26 characters of lower case base32 (128 bit).

    Raises BadInput if either is not a string. Lone surrogates, which PDF readers produce, are accepted.
    """
    if not isinstance(fingerprint, str) or not isinstance(text, str):
        raise BadInput(f"a key is made of two strings (fingerprint, text), not ({type(fingerprint).__name__}, {type(text).__name__})")
    name = fingerprint.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, key=secret, person=_PERSON)
    digest.update(len(name).to_bytes(8, "big"))
    digest.update(name)
    digest.update(text.encode("utf-8", "surrogatepass"))
    return base64.b32encode(digest.digest()).decode("ascii").rstrip("=").lower()
