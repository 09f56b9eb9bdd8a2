"""What both frameworks' classes do underneath: texts to placeholders, prompts with placeholders to answers.

An Engine names its model and store and loads them on first use; engines of the same model, device and dtype share the weights, and
engines of the same store share the store. So ``LLoCOLLM()`` and ``LLoCOPostprocessor()`` fit together without wiring.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lloco_integrations import placeholder
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.background import ended
from lloco_integrations.errors import BadInput, IncompatibleSummary, MissingExtra, PlaceholderError
from lloco_integrations.locks import ForkLock
from lloco_integrations.paths import home, located
from lloco_integrations.placeholder import Placeholder, unknown_key
from lloco_integrations.plain import listed, spoken
from lloco_integrations.secret import Secret, shown
from lloco_integrations.show import groups as grouping
from lloco_integrations.show import showing
from lloco_integrations.show.forms import Entry, Shown
from lloco_integrations.show.groups import Choice
from lloco_integrations.show.policy import FocusRecipe
from lloco_integrations.show.scoring import SpanVectors
from lloco_integrations.show.showing import Spending
from lloco_integrations.store.opening import settled
from lloco_integrations.types import NO_ADAPTER, Count, Generation, GenerationChunk, GenerationParams, Message

if TYPE_CHECKING:
    from lloco_integrations.compressors.base import Progress
    from lloco_integrations.embedding import Embedder
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.prompting import Prompter
    from lloco_integrations.show.scoring import Scorer
    from lloco_integrations.store import SummaryStore
    from lloco_integrations.store.info import EntryInfo
    from lloco_integrations.types import SummaryEmbeddings

_log = logging.getLogger(__name__)

OnMiss = Literal["compress", "text", "raise"]
"""What to do with a text whose summary is not in the store: compress it now and store it, hand on the text, or raise."""

Focus = Literal["question", "none"]
"""Whether the question decides how each span of a text is shown, or nothing does."""

DEFAULT_MODEL = "smollm2-135m"


@dataclass
class Engine:
    """A model and a store, by name. Cheap to make and to copy; see ``shared_model`` and ``SummaryStore.open`` for the arguments.

    ``adapters``: group name -> directory or hub id of a LoRA. ``runtime``: what runs the decoder, and where.
    """

    model_name: str = DEFAULT_MODEL
    store_target: Any = None
    adapters: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    max_adapters: int | None = field(default=None, compare=False)
    runtime: Runtime = field(default_factory=Runtime)
    prefix_cache_bytes: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if NO_ADAPTER in self.adapters:
            raise BadInput(f"an adapter cannot be named {NO_ADAPTER!r}, which stands for the decoder alone; give it another name")
        # As seen from here and now: after a change of directory, the same relative names may be somebody else's.
        target = self.store_target
        if isinstance(target, Secret) and not target.is_lost:
            target = target.get_secret_value()
        target = settled(target)
        self.store_target = Secret(target) if isinstance(target, str) else target
        self.adapters = {name: located(path) for name, path in self.adapters.items()}

    @property
    def model(self) -> LLoCOModel:
        """The model, loaded on first use."""
        from lloco_integrations.models import shared_model

        return shared_model(
            self.model_name,
            device=self.device,
            dtype=self.dtype,
            max_adapters=self.max_adapters,
            prefix_cache_bytes=self.prefix_cache_bytes,
            runtime=self.runtime,
        )

    @property
    def adapter_identities(self) -> dict[str, str]:
        """What each adapter is, for cache keys: a hash of its files, or its hub id."""
        from lloco_integrations.fingerprint import adapter_identity

        return {name: adapter_identity(path) for name, path in self.adapters.items()}

    @property
    def store(self) -> SummaryStore:
        """The store, opened on first use; one object a process for one target."""
        return _shared_store(self.store_target)

    def compress(
        self,
        texts: Sequence[str],
        *,
        on_miss: OnMiss = "compress",
        ratio: int | None = None,
        groups: Sequence[str | None] | None = None,
        progress: bool | Progress = False,
    ) -> list[Shown]:
        """A summary of each of ``texts``, in order. Equal texts are compressed once; what is in the store is not compressed again.

        Args:
            texts: blank ones stand for themselves.
            on_miss: what to do with a text that the store does not hold.
            ratio: source tokens per vector in the prompt, one of the model's; None is the finest.
            groups: the adapter group of each text, kept in the store's entry. A text is of one group, the one named last; None keeps
                the one that it has.
            progress: as for LLoCOModel.compress.

        Raises PlaceholderError for a miss when ``on_miss`` is "raise", IncompatibleSummary for a ratio that the model does not read.
        """
        self._check_ratio(ratio)
        texts = listed(texts, "texts", str)
        entries = self._entries(texts, on_miss, groups, (), progress, keep_groups=True)
        return showing.uniform(entries, ratio, [None] * len(texts), self.model.text_ids)

    def show(
        self,
        texts: Sequence[str],
        *,
        question: str | None = None,
        focus: Focus = "question",
        ratio: int | None = None,
        token_budget: int | None = None,
        scores: Sequence[float | None] | None = None,
        extra: Sequence[int] | None = None,
        groups: Sequence[str | None] | None = None,
        on_miss: OnMiss = "compress",
        embedder: Embedder | Literal["auto"] | None = "auto",
        progress: bool | Progress = False,
    ) -> list[Shown | None]:
        """What stands for each of ``texts`` in a prompt that asks ``question``; None for a text that is left out.

        With a question, the texts share one budget, which is spent span by span: the best spans stand as text, slices of the summary
        around them as far as the weights' vectors earn it, see ``show.policy``. Without one, or with ``focus="none"``, each text has one
        form: at ``ratio``, or what ``token_budget`` pays for, see ``show.budget``.

        Args:
            texts: blank ones stand for themselves.
            question: what the prompt will ask; None, or blank, where that is not known.
            focus: "question", or "none".
            ratio: positions that all texts together take: one for so many of their tokens, but enough to show something; None is the
                model's own (8 where it has none). Without a question one of the model's ratios, for each text; None is the finest.
            token_budget: positions that all texts together take, at most, in place of ``ratio``.
            scores: how well each text fits the question; higher is better, None is the lowest; without them the first is the best.
            extra: positions that each text costs besides, such as its title; counted against ``token_budget`` only.
            groups: the adapter group of each text; None is the one that its entry has. Of what the store holds already nothing is written:
                there it counts in this process.
            on_miss: what to do with a text that the store does not hold, where its summary is wanted.
            embedder: makes sentence embeddings for ranking spans, beside their words; None ranks by words alone, "auto" is MiniLM where
                that is installed.
            progress: as for LLoCOModel.compress.

        Raises NoRoom for a budget in which nothing has room, and what ``compress`` raises.
        """
        texts = listed(texts, "texts", str)
        if focus not in ("question", "none"):
            raise BadInput(f"focus is {focus!r}; use 'question' or 'none'")
        if ratio is not None and token_budget is not None:
            raise BadInput("token_budget decides what each text costs; leave ratio out, or leave token_budget out")
        if ratio is not None and ratio < 1:
            raise BadInput(f"ratio is {ratio}; give 1 or more source tokens for each position")
        asked = asked_of(question, focus)
        recipe = FocusRecipe.of(self.model.focus)
        elastic = self.model.spec.is_elastic
        raw = range(len(texts)) if asked is not None and elastic and not recipe.finest else ()
        if asked is None and token_budget is None:
            ratio = self._nearest(ratio) if focus == "question" else ratio
            self._check_ratio(ratio)
        entries = self._entries(texts, on_miss, groups, raw, progress)
        weights = grouping.weights(groups, scores or [1 / rank for rank in range(1, len(texts) + 1)]) if groups else [None] * len(texts)
        text_ids = self.model.text_ids
        if asked is None and token_budget is None:
            return list(showing.uniform(entries, ratio, weights, text_ids))
        ranked = scores if scores is not None else [-float(i) for i in range(len(texts))]
        if asked is None:
            assert token_budget is not None
            found = showing.by_budget(entries, token_budget, ranked, extra, weights, self.model.spec.ratios, text_ids)
        else:
            scorer = self._scorer(embedder)
            how = Spending(token_budget, ratio or recipe.ratio, recipe, scorer, extra if token_budget is not None else None)
            found = showing.focused(entries, asked, ranked, how, weights, self.model.spec.ratios, self._prompter())
        left_out = sum(1 for text, shown in zip(texts, found, strict=True) if shown is None and text.strip())
        if left_out:
            log = _log.warning if asked is None else _log.info
            log("%d of %d texts are left out, those that fit the question least: the budget has no room for them", left_out, len(texts))
        return found

    def generate(
        self,
        prompts: Sequence[str | Sequence[Message]],
        params: GenerationParams | None = None,
        adapters: Sequence[str | None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> list[Generation]:
        """One answer a prompt, in one batch. A prompt is a text or a conversation, with placeholders of this engine's store.

        Without a name in ``adapters``, a prompt's adapter is that of the group which has most of it (see ``show.groups``); if there is no such
        group or adapter, the one named "default", else none. The name "none" is the decoder alone. What an answer has that looks like
        a placeholder is made harmless: answers come back in later prompts. Setting ``cancelled`` ends the generation with an LLoCOError.
        """
        prompts = listed(prompts, "prompts")
        chosen = [self._choose(prompt, name) for prompt, name in zip(prompts, adapters or [None] * len(prompts), strict=True)]
        ending: dict[str, Any] = {} if cancelled is None else {"cancelled": cancelled}
        made = self.model.generate(prompts, params, store=self.store, adapters=[c.path for c in chosen], **ending)
        return [_reported(m, c) for m, c in zip(made, chosen, strict=True)]

    def stream(
        self, prompt: str | Sequence[Message], params: GenerationParams | None = None, adapter: str | None = None
    ) -> Iterator[GenerationChunk]:
        """The answer in pieces; the last chunk has ``final``. See ``generate`` for the adapter."""
        chosen = self._choose(prompt, adapter)
        chunks = self.model.stream(prompt, params, store=self.store, adapter=chosen.path)
        return _spoken(chunks, chosen)

    def count(self, prompt: str | Sequence[Message], *, templated: bool = True) -> Count:
        """True positions of ``prompt``: a placeholder costs its vectors. ``templated``: whether to count the chat template, too."""
        from lloco_integrations.prompting import omitted

        prompter = self._prompter()
        if templated or not isinstance(prompt, str):
            segments = prompter.segments(prompt) if prompt else []
        else:
            segments = prompter.plain(prompt)
        marks = [s for s in segments if isinstance(s, Placeholder)]
        n_text = sum(len(s) for s in segments if not isinstance(s, Placeholder))
        n_positions = n_tokens = 0
        for mark, info in zip(marks, self.store.info_many([m.key for m in marks]), strict=True):
            if info is None:
                raise PlaceholderError(unknown_key(self.store.url, mark.key))
            n_positions += info.positions(mark.ratio, mark.windows)
            n_tokens += info.tokens(mark.windows)
        return Count(n_text + n_positions, n_text + n_tokens + omitted(prompt))

    def _entries(
        self,
        texts: Sequence[str],
        on_miss: OnMiss,
        groups: Sequence[str | None] | None,
        raw: Collection[int],
        progress: bool | Progress,
        keep_groups: bool = False,
    ) -> list[Entry]:
        """The store's entry of each text. What is missing is compressed, unless it is blank, or handed on raw and of no group."""
        if on_miss not in ("compress", "text", "raise"):
            raise BadInput(f"on_miss is {on_miss!r}; use 'compress', 'text' or 'raise'")
        named = [None] * len(texts) if groups is None else listed(groups, "groups", (str, type(None)))
        if len(named) != len(texts):
            raise BadInput(f"{len(named)} groups for {len(texts)} texts; give one for each, None for a text of no group")
        fingerprint = self.model.fingerprint
        keys = [self.store.key(fingerprint, text) for text in texts]
        infos = dict(zip(keys, self.store.info_many(keys), strict=True))
        wanted = [i for i, text in enumerate(texts) if text.strip() and not (i in raw and (on_miss != "compress" or named[i] is None))]
        missing = {keys[i]: i for i in reversed(wanted) if infos[keys[i]] is None}
        if missing and on_miss == "raise":
            first = texts[min(missing.values())]
            raise PlaceholderError(
                f"{len(missing)} of {len(texts)} texts have no summary in the store {shown(self.store.url)}, the first is {first[:60]!r}; "
                f"compress them first (lloco compress), or use on_miss='compress'"
            )
        changed: list[int] = []
        if missing and on_miss == "compress":
            changed = sorted(missing.values())
            _log.info("%d of %d texts are not in the store %s yet, and are compressed now", len(changed), len(texts), shown(self.store.url))
            summaries = self.model.compress([texts[i] for i in changed], progress=progress)
            self._put([(texts[i], summary, named[i]) for i, summary in zip(changed, summaries, strict=True)])
        _name_groups({key: group for key, group in zip(keys, named, strict=True) if group is not None})
        moved = list({keys[i]: i for i in range(len(texts)) if keep_groups and _moves(infos[keys[i]], named[i])}.values())
        if moved:
            held = self.store.get_many([keys[i] for i in moved])
            self._put([(texts[i], summary, named[i]) for i, summary in zip(moved, held, strict=True) if summary is not None])
        fresh = [keys[i] for i in (*changed, *moved)]
        infos.update(zip(fresh, self.store.info_many(fresh), strict=True))
        return [Entry(text, key, _of_group(infos[key], group)) for text, key, group in zip(texts, keys, named, strict=True)]

    def _put(self, items: Sequence[tuple[str, SummaryEmbeddings, str | None]]) -> None:
        self.store.put_many([(text, replace(summary, group=group) if group else summary) for text, summary, group in items])

    def _choose(self, prompt: str | Sequence[Message], name: str | None) -> Choice:
        """The adapter for ``prompt``. Raises IncompatibleAdapter for a name that there is not."""
        groups: dict[str, float] = {}
        if self.adapters:
            texts = [prompt] if isinstance(prompt, str) else [spoken(m) for m in prompt]
            marks = [mark for text, votes in map(placeholder.split_votes, texts) for mark in (*placeholder.find(text), *votes)]
            groups = grouping.shares(marks, map(_as_named, marks, self.store.info_many([mark.key for mark in marks])))
            if marks and not groups and name is None and "default" not in self.adapters:
                _warn_of_no_group(tuple(sorted(self.adapters)))
        chosen = grouping.choose(self.adapters, groups, name)
        if self.adapters:
            _log.info("adapter %s, by groups %s", chosen.name or NO_ADAPTER, dict(groups))
        return chosen

    def _nearest(self, ratio: int | None) -> int | None:
        """The finest of the model's ratios that is no finer than ``ratio``, or its coarsest: without a question, texts are shown at those."""
        ratios = self.model.spec.ratios
        return None if ratio is None else next((r for r in ratios if r >= ratio), ratios[-1])

    def _scorer(self, embedder: Embedder | Literal["auto"] | None) -> Scorer:
        """Words, and sentence embeddings where there is a model for them."""
        from lloco_integrations.show.scoring import ByBoth, ByMeaning, ByWords

        chosen = _default_embedder(self.device) if embedder == "auto" else embedder
        return ByWords() if chosen is None else ByBoth(ByWords(), ByMeaning(chosen, _span_vectors))

    def _prompter(self) -> Prompter:
        prompter = self.model.prompter
        if prompter is None:
            raise BadInput(f"{self.model_name} has no tokenizer; it cannot read text")
        return prompter

    def _check_ratio(self, ratio: int | None) -> None:
        spec = self.model.spec
        if ratio is not None and ratio not in spec.ratios:
            raise IncompatibleSummary(
                f"ratio {ratio} is not one that {self.model_name} reads; use one of {', '.join(map(str, spec.ratios))}"
            )


def asked_of(question: str | None, focus: Focus) -> str | None:
    """The question that decides how texts are shown; None where none does."""
    return question if focus == "question" and question is not None and question.strip() else None


@functools.cache
def _warn_of_no_group(names: tuple[str, ...]) -> None:
    _log.warning(
        "the texts of this prompt belong to no group, so none of the adapters answers (%s); name the group in the metadata of nodes and "
        "documents ({'group': ...}), with lloco compress --group, or give adapter= (said once)",
        ", ".join(names),
    )


def _reported(made: Generation, chosen: Choice) -> Generation:
    return replace(made, text=placeholder.neutralise(made.text), adapter=chosen.name, groups=chosen.groups)


def _spoken(chunks: Iterator[GenerationChunk], chosen: Choice) -> Iterator[GenerationChunk]:
    """``chunks`` with the choice reported; what could still become a placeholder is held back until it is clear."""
    heard = said = ""
    with ended(chunks):
        for chunk in chunks:
            heard += chunk.delta
            if chunk.final is not None:
                final = _reported(chunk.final, chosen)
                yield GenerationChunk(final.text[len(said) :], final)
            elif (more := placeholder.settled(heard)) != said:
                yield GenerationChunk(more[len(said) :])
                said = more


def _moves(info: EntryInfo | None, group: str | None) -> bool:
    return info is not None and group is not None and info.group != group


_span_vectors = SpanVectors()


@functools.cache
def _default_embedder(device: str) -> Embedder | None:
    from lloco_integrations import embedding

    try:
        return embedding.load(device)
    except MissingExtra:
        _log.info("sentence-transformers is not installed, so spans are ranked by their words alone (said once)")
        return None


_named_groups: dict[str, str] = {}
"""Key -> the group that a query named for an entry. Keys of different stores differ; the oldest are forgotten."""
_MOST_NAMED = 100_000


def _name_groups(groups: dict[str, str]) -> None:
    for key, group in groups.items():
        _named_groups.pop(key, None)
        _named_groups[key] = group
    while len(_named_groups) > _MOST_NAMED:
        _named_groups.pop(next(iter(_named_groups), ""), None)


def _as_named(mark: Placeholder, info: EntryInfo | None) -> EntryInfo | None:
    return _of_group(info, _named_groups.get(mark.key))


def _of_group(info: EntryInfo | None, group: str | None) -> EntryInfo | None:
    return info if info is None or group is None else replace(info, group=group)


_stores: dict[object, SummaryStore] = {}
_stores_lock = ForkLock(wait=False)


def _shared_store(target: Any) -> SummaryStore:
    from lloco_integrations.store import SummaryStore

    if isinstance(target, SummaryStore):
        return target
    target = target.get_secret_value() if isinstance(target, Secret) else target
    target = settled(target)
    key = target if isinstance(target, str) else ("default", str(home().absolute())) if target is None else ("object", id(target))
    with _stores_lock:
        if key not in _stores:
            _stores[key] = SummaryStore.open(target)
        return _stores[key]
