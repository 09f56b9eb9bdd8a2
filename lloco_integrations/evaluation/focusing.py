"""What a question points to in one document: its best sentences as text, and slices of its summary around them."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from lloco_integrations import placeholder
from lloco_integrations.evaluation.contexts import Context
from lloco_integrations.show.forms import Entry
from lloco_integrations.show.scoring import ByBoth, ByMeaning, ByWords
from lloco_integrations.show.showing import Spending, cut_of, focused
from lloco_integrations.store.info import EntryInfo

if TYPE_CHECKING:
    from lloco_integrations.embedding import Embedder
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.show.policy import FocusRecipe
    from lloco_integrations.types import SummaryEmbeddings

_KEY = "a" * placeholder.KEY_LENGTH


class Focusing:
    """Ranks sentences by words and by ``embedder``, as an Engine does; what was embedded of a document is kept for further questions."""

    def __init__(self, model: LLoCOModel, embedder: Embedder) -> None:
        self.model = model
        self._scorer = ByBoth(ByWords(), ByMeaning(embedder))
        self._vector_bytes = embedder.embed_question("?").nbytes
        self._last: tuple[str, int] | None = None

    def context(self, text: str, question: str, budget: int, recipe: FocusRecipe, summary: SummaryEmbeddings | None = None) -> Context:
        """What stands for ``text`` in ``budget`` positions. Slices are those of ``summary``; without it there is text alone.

        ``find_seconds`` is what choosing takes once the sentences of the text are embedded. Raises NoRoom for a budget without room.
        """
        prompter = self.model.prompter
        assert prompter is not None
        info = None
        kept = len(text.encode()) + len(cut_of(prompter, text).sentences) * self._vector_bytes
        if summary is not None:
            n_bytes = summary.vectors.numel() * summary.vectors.element_size()
            info = EntryInfo(
                summary.n_vectors,
                summary.n_tokens,
                self.model.spec.hidden_size,
                summary.compressor,
                summary.window,
                None,
                n_bytes,
                0.0,
            )
            kept += n_bytes
        how = Spending(budget, recipe.ratio, recipe, self._scorer)
        choose = partial(focused, [Entry(text, _KEY, info)], question, [1.0], how, [None], self.model.spec.ratios, prompter)
        if self._last != (text, budget):
            choose()  # what is kept of a text is made now, not while the time is taken
            self._last = (text, budget)
        began = time.perf_counter()
        [shown] = choose()
        seconds = time.perf_counter() - began
        assert shown is not None  # else there was no room
        content, _ = placeholder.split_votes(shown.content)
        vectors = {}
        if summary is not None:
            vectors = {mark: self.model.compressor.read(summary.part(mark.windows), mark.ratio) for mark in placeholder.find(content)}
        return Context(content, shown.n_positions, shown.n_tokens, kept, None, seconds, vectors=vectors or None)
