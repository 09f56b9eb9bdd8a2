"""Documents whose content is a placeholder, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import yaml
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from pydantic import Field, model_validator

from lloco_integrations.embedding import Embedder, Wrapped
from lloco_integrations.engine import Focus, OnMiss, asked_of
from lloco_integrations.errors import BadInput
from lloco_integrations.langchain.fields import EngineFields
from lloco_integrations.placeholder import neutralise
from lloco_integrations.plain import listed, plain
from lloco_integrations.show import groups as grouping
from lloco_integrations.show.forms import Shown

TEXT_KEY = "lloco_text"
POSITIONS_KEY = "lloco_positions"
TOKENS_KEY = "lloco_tokens"
PASSAGES_KEY = "lloco_passages"
SHOWN_KEY = "lloco_shown"


class SourceText(str):
    """A document's text, of which ``repr`` shows the length only.

    Documents that reach a prompt without being formatted are printed with their metadata: the text must not go along with its placeholder.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<text of {len(self)} characters>"

    def __format__(self, spec: str) -> str:
        """For a template that names it: then it becomes prompt text."""
        return format(neutralise(str(self)), spec)


for _representer in (yaml.representer.SafeRepresenter, yaml.SafeDumper, yaml.representer.Representer, yaml.Dumper):
    _representer.add_representer(SourceText, lambda dumper, text: dumper.represent_str(str(text)))


def original_text(document: Document) -> str:
    """The text that ``document`` was made from; for a document that was never compressed, its content."""
    kept = document.metadata.get(TEXT_KEY)
    return str(kept) if isinstance(kept, str) else document.page_content


class CompressionFields(EngineFields):
    """How documents become placeholders.

    The question decides how a budget of positions is spent on all documents together: the sentences that fit it best stand as text, slices
    of the summaries around them as far as the model's vectors earn it (docs/elastic.md). A document of which nothing is shown is left out.

    Attributes:
        ratio: all documents together take one position for so many of their tokens, but enough to show something; None is the model's
            own, 8 for the default model. With ``focus="none"``, source tokens per vector of each document: one of the model's ratios, None
            is the finest.
        token_budget: most positions that all contents may take together, in place of ``ratio``.
        focus: "question", or "none": each document in one form, whatever is asked.
        embeddings: ranks sentences, beside their words: LangChain Embeddings, or None for words alone; "auto" is, for a retriever, that of
            the vector store behind it, where there is one, else MiniLM if sentence-transformers is installed.
        on_miss: for a text whose summary is wanted and not in the store: "compress" it now, hand on its "text", or "raise" PlaceholderError.
        group_key: name of the metadata entry that holds a document's adapter group, which is kept in the store: where documents are
            of several groups, a model answers with the adapter of the one with most of the ranks (1, 1/2, 1/3, ...).
        documents: where whole documents are found by the metadata entry ``id_key`` of their passages: a LangChain store, a mapping of
            Documents, or a function. The passages then vote for their documents, and these are handed on in their place, with the ids
            of the passages in ``metadata["lloco_passages"]``.
        id_key: see ``documents``; the default is that of ParentDocumentRetriever.
        max_documents: most whole documents to hand on; None is all that have a vote.
    """

    ratio: int | None = Field(default=None, ge=1)
    token_budget: int | None = Field(default=None, ge=1)
    focus: Focus = "question"
    embeddings: Any = Field(default="auto", repr=False)
    on_miss: OnMiss = "compress"
    group_key: str | None = "group"
    documents: Any = Field(default=None, repr=False)
    id_key: str = "doc_id"
    max_documents: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check_budget(self) -> Self:
        if self.token_budget is not None and self.ratio is not None:
            raise BadInput("token_budget decides what each text costs; leave ratio out, or leave token_budget out")
        return self

    def compress(self, documents: Sequence[Document], question: str | None = None) -> list[Document]:
        """Copies of ``documents``, in order, with what stands for them in a prompt that asks ``question`` as content.

        In the metadata, ``lloco_text`` is the text, ``lloco_positions`` what the content costs in a prompt, ``lloco_tokens`` what the text
        would cost, and, where the question decided, ``lloco_shown`` which characters of it are shown as text, pairs of from, up to.
        Everything else in the metadata is kept, save that what looks like a placeholder in it is made harmless.
        Compressing the outcome again is the same as compressing the originals.
        """
        documents = listed(documents, "documents", Document)
        if not documents:
            return []
        if self.documents is not None:
            documents = self._whole(documents)
        texts = [original_text(d) for d in documents]
        made = self.engine.show(
            texts,
            question=question,
            focus=self.focus,
            ratio=self.ratio,
            token_budget=self.token_budget,
            scores=[1 / rank for rank in range(1, len(documents) + 1)],
            groups=[self._group(d) for d in documents],
            on_miss=self.on_miss,
            embedder=self._embedder(),
        )
        marked = asked_of(question, self.focus) is not None
        return [_replaced(d, text, m, marked) for d, text, m in zip(documents, texts, made, strict=True) if m is not None]

    def _embedder(self) -> Embedder | Literal["auto"] | None:
        """What ranks sentences."""
        chosen = self._own_embeddings() if self.embeddings == "auto" else self.embeddings
        if chosen is None:
            return "auto" if self.embeddings == "auto" else None
        if not isinstance(chosen, Embeddings):
            raise BadInput(f"embeddings is a {type(chosen).__name__}; give LangChain Embeddings, None for words alone, or leave it out")
        named = (n for n in (getattr(chosen, "model", None), getattr(chosen, "model_name", None)) if isinstance(n, str))
        name = f"langchain:{type(chosen).__name__}:{next(named, id(chosen))}"
        return Wrapped(name, chosen.embed_documents, chosen.embed_query)

    def _own_embeddings(self) -> Embeddings | None:
        """The application's own, where they can be told."""
        return None

    def _whole(self, passages: Sequence[Document]) -> list[Document]:
        """The documents that ``passages`` vote for. A passage without ``id_key`` stands for itself. Raises BadInput for a missing one."""
        names = [p.metadata.get(self.id_key) for p in passages]
        if all(name is None for name in names):
            raise BadInput(
                f"documents= is given, but no passage has {self.id_key!r} in its metadata; name its document there, or set id_key="
            )
        found = grouping.documents([("document", n) if n is not None else ("passage", i) for i, n in enumerate(names)])
        out = []
        for (kind, name), ranks in list(found.items())[: self.max_documents]:
            if kind == "passage":
                out.append(passages[name])
                continue
            document = self._fetch(str(name))
            voters = [passages[rank].id for rank in ranks if passages[rank].id is not None]
            out.append(document.model_copy(update={"metadata": {**document.metadata, PASSAGES_KEY: voters}}))
        return out

    def _fetch(self, name: str) -> Document:
        if isinstance(self.documents, Mapping):
            found = self.documents.get(name)
        else:
            found = self.documents.mget([name])[0] if hasattr(self.documents, "mget") else self.documents(name)
        if not isinstance(found, Document):
            raise BadInput(
                f"documents= has no Document {name!r}, which the {self.id_key!r} of a passage names (it gives {type(found).__name__}); "
                f"add it, or leave documents= out"
            )
        return found

    def _group(self, document: Document) -> str | None:
        group = document.metadata.get(self.group_key) if self.group_key is not None else None
        return None if group is None else str(group)


def _replaced(document: Document, text: str, made: Shown, marked: bool) -> Document:
    metadata = {
        **plain({k: v for k, v in document.metadata.items() if k not in (TEXT_KEY, SHOWN_KEY)}),
        TEXT_KEY: SourceText(text),
        POSITIONS_KEY: made.n_positions,
        TOKENS_KEY: made.n_tokens,
    }
    if marked:
        metadata[SHOWN_KEY] = [list(stretch) for stretch in made.as_text]
    return document.model_copy(update={"page_content": made.content, "metadata": metadata, "id": plain(document.id)})
