"""Every error this package raises on purpose. Each message names the value, the limit and the remedy.

They derive from RuntimeError, never from ValueError or TypeError: LlamaIndex's ``compact`` and ``refine``
synthesizers swallow those two and answer "Empty Response" in their place.
"""

from __future__ import annotations


class LLoCOError(RuntimeError):
    """Base of all errors raised on purpose by this package."""


class ModelNotFound(LLoCOError):
    """No preset, directory or hub model of that name, or its files are incomplete."""


class IncompatibleSummary(LLoCOError):
    """Summary embeddings that this model cannot read, or a ratio they cannot be brought to."""


class IncompatibleAdapter(LLoCOError):
    """An adapter (LoRA) trained for another base model, or not an adapter at all."""


class PlaceholderError(LLoCOError):
    """A prompt with a broken placeholder, or one whose key the store does not hold."""


class PromptTooLong(LLoCOError):
    """A prompt that does not fit the decoder's window."""


class BadInput(LLoCOError):
    """A document, question or argument that cannot be used as it is."""


class NoRoom(BadInput):
    """A budget of prompt positions in which no part of any text has room."""


class StoreError(LLoCOError):
    """The store cannot be opened, read or written."""


class DamagedEntry(StoreError):
    """A stored value whose checksum or format is wrong; it is reported by key and never decoded."""


class TrainingError(LLoCOError):
    """Training that cannot start, or that stopped because it went wrong (NaN, nothing learnt, disk full)."""


class ServerError(LLoCOError):
    """A server that runs the decoder cannot be reached, refuses a request, or failed."""


class MissingExtra(LLoCOError, ImportError):
    """An optional dependency is not installed; the message says which extra brings it."""
