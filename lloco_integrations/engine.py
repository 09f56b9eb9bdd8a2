"""What both frameworks' classes do underneath: texts to placeholders, prompts with placeholders to answers.

An Engine names its model and store and loads them on first use; engines of the same model, device and dtype share the weights, and
engines of the same store share the store. So ``LLoCOLLM()`` and ``LLoCOPostprocessor()`` fit together without wiring.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lloco_integrations import placeholder
from lloco_integrations.errors import BadInput, IncompatibleSummary, PlaceholderError
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.types import Count, Generation, GenerationChunk, GenerationParams, Message

if TYPE_CHECKING:
    from lloco_integrations.compressors.base import Progress
    from lloco_integrations.models import LLoCOModel
    from lloco_integrations.store import SummaryStore

OnMiss = Literal["compress", "text", "raise"]
"""What to do with a text whose summary is not in the store: compress it now and store it, hand on the text, or raise."""

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Compressed:
    """What stands for a text in a prompt.

    ``content`` is a placeholder, or the neutralised text where there is no summary (then ``key`` is None). ``n_positions`` is
    what it costs in the prompt at the ratio asked for, ``n_tokens`` what the text costs.
    """

    content: str
    key: str | None
    n_positions: int
    n_tokens: int


@dataclass
class Engine:
    """A model and a store, by name. Cheap to make and to copy; see ``shared_model`` and ``SummaryStore.open`` for the arguments."""

    model_name: str = DEFAULT_MODEL
    store_target: Any = None
    adapters: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"

    @property
    def model(self) -> LLoCOModel:
        """The model, loaded on first use."""
        from lloco_integrations.models import shared_model

        return shared_model(self.model_name, adapters=self.adapters, device=self.device, dtype=self.dtype)

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
    ) -> list[Compressed]:
        """What stands for each of ``texts``, in order. Equal texts are compressed once; what is in the store is not compressed again.

        ``ratio``: source tokens per vector in the prompt, one of the model's. ``groups``: the adapter group of each text, kept in the
        store's entry. ``progress``: as for LLoCOModel.compress. Blank texts stand for themselves. Raises PlaceholderError for a miss
        when ``on_miss`` is "raise".
        """
        if on_miss not in ("compress", "text", "raise"):
            raise BadInput(f"on_miss is {on_miss!r}; use 'compress', 'text' or 'raise'")
        self._check_ratio(ratio)
        fingerprint = self.model.fingerprint
        keys = [self.store.key(fingerprint, text) for text in texts]
        infos = dict(zip(keys, self.store.info_many(keys), strict=True))
        missing = {k: i for i, k in reversed(list(enumerate(keys))) if infos[k] is None and texts[i].strip()}
        if missing and on_miss == "raise":
            first = texts[min(missing.values())]
            raise PlaceholderError(
                f"{len(missing)} of {len(texts)} texts have no summary in the store {self.store.url}, the first is {first[:60]!r}; "
                f"compress them first (lloco compress), or use on_miss='compress'"
            )
        if missing and on_miss == "compress":
            chosen = sorted(missing.values())
            self._store_summaries([texts[i] for i in chosen], [groups[i] if groups else None for i in chosen], progress)
            fresh = [keys[i] for i in chosen]
            infos.update(zip(fresh, self.store.info_many(fresh), strict=True))
        out = []
        for text, key in zip(texts, keys, strict=True):
            info = infos[key]
            if info is None:
                plain = placeholder.neutralise(text)
                n = len(self.model.text_ids(plain)) if plain.strip() else 0
                out.append(Compressed(plain, None, n, n))
            else:
                n_positions = -(-info.n_tokens // ratio) if ratio and info.window else info.n_vectors
                shown = ratio if ratio != info.window else None
                out.append(Compressed(placeholder.make(key, shown), key, n_positions, info.n_tokens))
        return out

    def generate(
        self,
        prompts: Sequence[str | Sequence[Message]],
        params: GenerationParams | None = None,
        adapters: Sequence[str | None] | None = None,
    ) -> list[Generation]:
        """One answer a prompt, in one batch. A prompt is a text or a conversation, with placeholders of this engine's store.

        Without a name in ``adapters``, a prompt's adapter is that of the group most of its summaries belong to (by source tokens, as
        far as ``self.adapters`` knows the group), else the one named "default", else none.
        """
        names = [name or self._adapter_of(prompt) for prompt, name in zip(prompts, adapters or [None] * len(prompts), strict=True)]
        return self.model.generate(prompts, params, store=self.store, adapters=names)

    def stream(
        self, prompt: str | Sequence[Message], params: GenerationParams | None = None, adapter: str | None = None
    ) -> Iterator[GenerationChunk]:
        """The answer in pieces; the last chunk has ``final``. See ``generate`` for the adapter."""
        return self.model.stream(prompt, params, store=self.store, adapter=adapter or self._adapter_of(prompt))

    def count(self, prompt: str | Sequence[Message], *, templated: bool = True) -> Count:
        """True positions of ``prompt``: a placeholder costs its vectors. ``templated``: whether to count the chat template, too."""
        prompter = self.model.prompter
        if prompter is None:
            raise BadInput(f"{self.model_name} has no tokenizer; it cannot count text")
        if templated or not isinstance(prompt, str):
            segments = prompter.segments(prompt) if prompt else []
        else:
            segments = [p if isinstance(p, Placeholder) else prompter.text_ids(p) for p in placeholder.split(prompt)]
        marks = [s for s in segments if isinstance(s, Placeholder)]
        n_text = sum(len(s) for s in segments if not isinstance(s, Placeholder))
        n_positions = n_tokens = 0
        for mark, info in zip(marks, self.store.info_many([m.key for m in marks]), strict=True):
            if info is None:
                raise PlaceholderError(f"the store {self.store.url} does not hold the placeholder key {mark.key!r}")
            n_positions += -(-info.n_tokens // mark.ratio) if mark.ratio and info.window else info.n_vectors
            n_tokens += info.n_tokens
        return Count(n_text + n_positions, n_text + n_tokens)

    def _store_summaries(self, texts: list[str], groups: list[str | None], progress: bool | Progress) -> None:
        summaries = self.model.compress(texts, progress=progress)
        grouped = [replace(s, group=g) if g else s for s, g in zip(summaries, groups, strict=True)]
        self.store.put_many(list(zip(texts, grouped, strict=True)))

    def _adapter_of(self, prompt: str | Sequence[Message]) -> str | None:
        if not self.adapters:
            return None
        texts = [prompt] if isinstance(prompt, str) else [m.content for m in prompt]
        keys = [mark.key for text in texts for mark in placeholder.find(text)]
        shares: Counter[str] = Counter()
        for info in self.store.info_many(keys):
            if info is not None and info.group in self.adapters:
                shares[info.group] += info.n_tokens
        fallback = "default" if "default" in self.adapters else None
        return shares.most_common(1)[0][0] if shares else fallback

    def _check_ratio(self, ratio: int | None) -> None:
        spec = self.model.spec
        if ratio is not None and ratio not in spec.ratios:
            raise IncompatibleSummary(
                f"ratio {ratio} is not one that {self.model_name} reads; use one of {', '.join(map(str, spec.ratios))}"
            )


_stores: dict[object, SummaryStore] = {}
_stores_lock = threading.Lock()


def _shared_store(target: Any) -> SummaryStore:
    from lloco_integrations.paths import home
    from lloco_integrations.store import SummaryStore

    if isinstance(target, SummaryStore):
        return target
    key = target if isinstance(target, str) else ("default", str(home())) if target is None else ("object", id(target))
    with _stores_lock:
        if key not in _stores:
            _stores[key] = SummaryStore.open(target)
        return _stores[key]
