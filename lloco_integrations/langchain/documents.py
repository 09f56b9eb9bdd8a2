"""Documents whose content is a placeholder, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from pydantic import Field

from lloco_integrations import placeholder
from lloco_integrations.engine import Compressed, OnMiss
from lloco_integrations.langchain.fields import EngineFields

TEXT_KEY = "lloco_text"
POSITIONS_KEY = "lloco_positions"
TOKENS_KEY = "lloco_tokens"


class SourceText(str):
    """A document's text, of which ``repr`` shows the length only.

    Documents that reach a prompt without being formatted are printed with their metadata: the text must not go along with its placeholder.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<text of {len(self)} characters>"


def original_text(document: Document) -> str:
    """The text that ``document`` was made from; for a document that was never compressed, its content."""
    kept = document.metadata.get(TEXT_KEY)
    return str(kept) if isinstance(kept, str) else document.page_content


class CompressionFields(EngineFields):
    """How documents become placeholders.

    Attributes:
        ratio: source tokens per vector; None for the finest that is stored.
        on_miss: what to do with a text that has no summary yet: "compress" it, hand on its "text", or "raise" PlaceholderError.
        group_key: name of the metadata entry that holds a document's adapter group; kept with the summaries that are made now.
        keep_text_top_n: so many documents, from the front, are handed on as text.
    """

    ratio: int | None = Field(default=None, ge=1)
    on_miss: OnMiss = "compress"
    group_key: str | None = None
    keep_text_top_n: int = Field(default=0, ge=0)

    def compress(self, documents: Sequence[Document]) -> list[Document]:
        """Copies of ``documents``, in order, with a placeholder, or neutralised text, as content.

        The text is in ``metadata["lloco_text"]``, what it costs in a prompt in ``lloco_positions``, and what it would cost as text in
        ``lloco_tokens``. Everything else in the metadata is kept, save that what looks like a placeholder in it is made harmless.
        Compressing the outcome again is the same as compressing the originals.
        """
        if not documents:
            return []
        engine, n = self.engine, self.keep_text_top_n
        texts = [original_text(d) for d in documents]
        made = []
        for text in texts[:n]:
            plain = placeholder.neutralise(text)
            cost = engine.count(plain, templated=False).n_positions
            made.append(Compressed(plain, None, cost, cost))
        if texts[n:]:
            groups = [self._group(d) for d in documents[n:]] if self.group_key else None
            made += engine.compress(texts[n:], on_miss=self.on_miss, ratio=self.ratio, groups=groups)
        return [_replaced(d, text, m) for d, text, m in zip(documents, texts, made, strict=True)]

    def _group(self, document: Document) -> str | None:
        group = document.metadata.get(self.group_key)
        return None if group is None else str(group)


def _replaced(document: Document, text: str, made: Compressed) -> Document:
    metadata = {
        **_harmless({k: v for k, v in document.metadata.items() if k != TEXT_KEY}),
        TEXT_KEY: SourceText(text),
        POSITIONS_KEY: made.n_positions,
        TOKENS_KEY: made.n_tokens,
    }
    return document.model_copy(update={"page_content": made.content, "metadata": metadata})


def _harmless(value: Any) -> Any:
    """A copy of ``value`` with every string in it neutralised: document prompts print metadata next to the content."""
    if isinstance(value, str):
        return placeholder.neutralise(value)
    if type(value) is dict:
        return {_harmless(k): _harmless(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_harmless(v) for v in value)
    return value
