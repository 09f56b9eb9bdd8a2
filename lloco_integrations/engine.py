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

from lloco_integrations import placeholder, voting
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.budget import spend
from lloco_integrations.errors import BadInput, IncompatibleSummary, PlaceholderError
from lloco_integrations.forms import Compressed, Entry, as_summary, as_text
from lloco_integrations.paths import home, located
from lloco_integrations.placeholder import Placeholder, unknown_key
from lloco_integrations.store.opening import settled
from lloco_integrations.types import NO_ADAPTER, Count, Generation, GenerationChunk, GenerationParams, Message
from lloco_integrations.voting import Choice

if TYPE_CHECKING:
    from lloco_integrations.compressors.base import Progress
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore
    from lloco_integrations.store.info import EntryInfo
    from lloco_integrations.types import SummaryEmbeddings

_log = logging.getLogger(__name__)

OnMiss = Literal["compress", "text", "raise"]
"""What to do with a text whose summary is not in the store: compress it now and store it, hand on the text, or raise."""

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
        self.store_target = settled(self.store_target)
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
        scores: Sequence[float | None] | None = None,
        raw: Collection[int] = (),
        keep_groups: bool = False,
        progress: bool | Progress = False,
    ) -> list[Compressed]:
        """What stands for each of ``texts``, in order. Equal texts are compressed once; what is in the store is not compressed again.

        Args:
            texts: blank ones stand for themselves.
            on_miss: what to do with a text that the store does not hold.
            ratio: source tokens per vector in the prompt, one of the model's; None is the finest.
            groups: the adapter group of each text, the one named last; None is the one that its entry has. It is kept in the entry of a
                text that is compressed now. Of what the store holds already nothing is written: there it counts in this process.
            scores: how well each text fits the question; they decide between groups, see ``voting``.
            raw: indices of texts to hand on as text.
            keep_groups: write ``groups`` into the entries that the store holds already, too, as where documents are put in.
            progress: as for LLoCOModel.compress.

        Raises PlaceholderError for a miss when ``on_miss`` is "raise".
        """
        self._check_ratio(ratio)
        entries = self._entries(texts, on_miss, groups, raw, progress, keep_groups)
        weights = voting.weights(groups, scores) if groups and scores else [None] * len(texts)
        return [
            as_text(entry, weight, self.model.text_ids) if i in raw or entry.info is None else as_summary(entry, ratio, weight)
            for i, (entry, weight) in enumerate(zip(entries, weights, strict=True))
        ]

    def fit(
        self,
        texts: Sequence[str],
        budget: int,
        *,
        scores: Sequence[float | None] | None = None,
        extra: Sequence[int] | None = None,
        on_miss: OnMiss = "compress",
        groups: Sequence[str | None] | None = None,
        progress: bool | Progress = False,
    ) -> list[Compressed | None]:
        """As ``compress``, but all of it costs at most ``budget`` positions: each text as text or at a ratio of its own, see ``spend``.

        None for a text that is left out. ``scores``: higher is better; without them, the first text is the best. ``extra``: positions
        that each text costs besides, such as its title. Raises BadInput for a budget in which not one text has room.
        """
        entries = self._entries(texts, on_miss, groups, (), progress)
        ranked = scores if scores is not None else [-float(i) for i in range(len(texts))]
        weights = voting.weights(groups, scores) if groups and scores else [None] * len(texts)
        forms = []
        for entry, weight in zip(entries, weights, strict=True):
            some = [as_text(entry, weight, self.model.text_ids)]
            if entry.info is not None:
                ratios = self.model.spec.ratios if entry.info.window else (None,)
                some += [as_summary(entry, ratio, weight) for ratio in ratios]
            forms.append(some)
        more = extra or [0] * len(texts)
        costs = [[form.n_positions + n for form in some] for some, n in zip(forms, more, strict=True)]
        chosen = spend(budget, costs, ranked)
        left_out = chosen.count(None)
        if left_out:
            _log.warning("token_budget=%d leaves out %d of %d texts, those of the lowest score", budget, left_out, len(texts))
        return [None if form is None else some[form] for form, some in zip(chosen, forms, strict=True)]

    def generate(
        self,
        prompts: Sequence[str | Sequence[Message]],
        params: GenerationParams | None = None,
        adapters: Sequence[str | None] | None = None,
    ) -> list[Generation]:
        """One answer a prompt, in one batch. A prompt is a text or a conversation, with placeholders of this engine's store.

        Without a name in ``adapters``, a prompt's adapter is that of the group which has most of it (see ``voting``); if there is no such
        group or adapter, the one named "default", else none. The name "none" is the decoder alone. What an answer has that looks like
        a placeholder is made harmless: answers come back in later prompts.
        """
        chosen = [self._choose(prompt, name) for prompt, name in zip(prompts, adapters or [None] * len(prompts), strict=True)]
        made = self.model.generate(prompts, params, store=self.store, adapters=[c.path for c in chosen])
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
        prompter = self.model.prompter
        if prompter is None:
            raise BadInput(f"{self.model_name} has no tokenizer; it cannot count text")
        if templated or not isinstance(prompt, str):
            segments = prompter.segments(prompt) if prompt else []
        else:
            segments = [
                p if isinstance(p, Placeholder) else prompter.text_ids(p) for p in placeholder.split(placeholder.split_votes(prompt)[0])
            ]
        marks = [s for s in segments if isinstance(s, Placeholder)]
        n_text = sum(len(s) for s in segments if not isinstance(s, Placeholder))
        n_positions = n_tokens = 0
        for mark, info in zip(marks, self.store.info_many([m.key for m in marks]), strict=True):
            if info is None:
                raise PlaceholderError(unknown_key(self.store.url, mark.key))
            n_positions += -(-info.n_tokens // mark.ratio) if mark.ratio and info.window else info.n_vectors
            n_tokens += info.n_tokens
        return Count(n_text + n_positions, n_text + n_tokens)

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
        named = list(groups or [None] * len(texts))
        fingerprint = self.model.fingerprint
        keys = [self.store.key(fingerprint, text) for text in texts]
        infos = dict(zip(keys, self.store.info_many(keys), strict=True))
        wanted = [i for i, text in enumerate(texts) if text.strip() and not (i in raw and (on_miss != "compress" or named[i] is None))]
        missing = {keys[i]: i for i in reversed(wanted) if infos[keys[i]] is None}
        if missing and on_miss == "raise":
            first = texts[min(missing.values())]
            raise PlaceholderError(
                f"{len(missing)} of {len(texts)} texts have no summary in the store {self.store.url}, the first is {first[:60]!r}; "
                f"compress them first (lloco compress), or use on_miss='compress'"
            )
        changed: list[int] = []
        if missing and on_miss == "compress":
            changed = sorted(missing.values())
            _log.info("%d of %d texts are not in the store %s yet, and are compressed now", len(changed), len(texts), self.store.url)
            summaries = self.model.compress([texts[i] for i in changed], progress=progress)
            self._put([(texts[i], summary, named[i]) for i, summary in zip(changed, summaries, strict=True)])
        _name_groups({key: group for key, group in zip(keys, named, strict=True) if group is not None})
        moved = list({keys[i]: i for i in range(len(texts)) if keep_groups and _moves(infos[keys[i]], named[i])}.values())
        if moved:
            held = self.store.get_many([keys[i] for i in moved])
            self._put([(texts[i], summary, named[i]) for i, summary in zip(moved, held, strict=True) if summary is not None])
        fresh = [keys[i] for i in (*changed, *moved)]
        infos.update(zip(fresh, self.store.info_many(fresh), strict=True))
        return [Entry(text, key, infos[key]) for text, key in zip(texts, keys, strict=True)]

    def _put(self, items: Sequence[tuple[str, SummaryEmbeddings, str | None]]) -> None:
        self.store.put_many([(text, replace(summary, group=group) if group else summary) for text, summary, group in items])

    def _choose(self, prompt: str | Sequence[Message], name: str | None) -> Choice:
        """The adapter for ``prompt``. Raises IncompatibleAdapter for a name that there is not."""
        groups: dict[str, float] = {}
        if self.adapters:
            texts = [prompt] if isinstance(prompt, str) else [m.content for m in prompt]
            marks = [mark for text, votes in map(placeholder.split_votes, texts) for mark in (*placeholder.find(text), *votes)]
            groups = voting.shares(marks, map(_as_named, marks, self.store.info_many([mark.key for mark in marks])))
            if marks and not groups and name is None and "default" not in self.adapters:
                _warn_of_no_group(tuple(sorted(self.adapters)))
        chosen = voting.choose(self.adapters, groups, name)
        if self.adapters:
            _log.info("adapter %s, by groups %s", chosen.name or NO_ADAPTER, dict(groups))
        return chosen

    def _check_ratio(self, ratio: int | None) -> None:
        spec = self.model.spec
        if ratio is not None and ratio not in spec.ratios:
            raise IncompatibleSummary(
                f"ratio {ratio} is not one that {self.model_name} reads; use one of {', '.join(map(str, spec.ratios))}"
            )


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
    group = _named_groups.get(mark.key)
    return info if info is None or group is None else replace(info, group=group)


_stores: dict[object, SummaryStore] = {}
_stores_lock = threading.Lock()


def _shared_store(target: Any) -> SummaryStore:
    from lloco_integrations.store import SummaryStore

    if isinstance(target, SummaryStore):
        return target
    target = settled(target)
    key = target if isinstance(target, str) else ("default", str(home().absolute())) if target is None else ("object", id(target))
    with _stores_lock:
        if key not in _stores:
            _stores[key] = SummaryStore.open(target)
        return _stores[key]
