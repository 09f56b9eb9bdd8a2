"""Text with placeholders -> ordered segments -> ``inputs_embeds``.

The text half decides what is a special token: only the chat template may be. Text from users and documents is tokenised with
``split_special_tokens=True``, so a document cannot smuggle in ``<|im_end|>``. The tensor half puts vectors and token embeddings
in a row. Training builds its prompts with the same functions, so a model reads what it was trained on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

from lloco_integrations import placeholder
from lloco_integrations.errors import BadInput
from lloco_integrations.locks import ForkLock
from lloco_integrations.placeholder import Placeholder
from lloco_integrations.plain import legible, spoken
from lloco_integrations.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Segment = list[int] | Placeholder
"""Token ids, or a placeholder that stands for vectors."""

_MARK = "\ue000{}\ue001"
_NO_LIMIT = 1 << 62


class Prompter:
    """Turns prompts into segments for one tokenizer.

    ``chat`` says whether the tokenizer's chat template is used; without it, a prompt goes to the model as it is.
    ``placement`` is ``"inline"``, or ``"prefix"`` to move all summary embeddings in front of the prompt (the paper's way).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, chat: bool, placement: str = "inline") -> None:
        self.tokenizer = tokenizer
        # Splitting special tokens is a switch inside the tokenizer, which is not thread-safe: it is turned on a copy, under a lock.
        self._encoder = copy.deepcopy(tokenizer)
        self._encoder.model_max_length = _NO_LIMIT  # a document may be longer than the window: no warning
        self._lock = ForkLock()
        self.chat = chat
        self.placement = placement

    def segments(self, prompt: str | Sequence[Message]) -> list[Segment]:
        """Segments of ``prompt``: a plain text (sent as one user turn when ``chat``) or a conversation.

        Raises PlaceholderError on a broken placeholder and BadInput on an empty conversation.
        """
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        if not messages:
            raise BadInput("the prompt has no messages; pass at least one")
        if self.chat:
            segments = self._chat_segments(messages)
        elif len(messages) == 1:
            segments = self.plain(spoken(messages[0]))
        else:
            text = "\n".join(f"{_role(m)}: {spoken(m)}" for m in messages)
            segments = self.plain(f"{text}\nassistant:")
        if self.placement == "prefix":
            vectors = [s for s in segments if isinstance(s, Placeholder)]
            ids = [i for s in segments if not isinstance(s, Placeholder) for i in s]
            segments = [*vectors, ids] if ids else [*vectors]
        if not segments:
            raise BadInput("the prompt is empty; ask something")
        return segments

    def text_ids(self, text: str) -> list[int]:
        """Ids of ordinary text: nothing in it becomes a special token."""
        return self._ids(text, split_special_tokens=True)

    def token_ends(self, text: str) -> list[int] | None:
        """Where each of ``text_ids(text)`` ends in ``text``, in characters, never falling; None from a tokenizer that does not tell."""
        if not self._encoder.is_fast:
            return None
        with self._lock:
            offsets = self._encoder(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)[
                "offset_mapping"
            ]
        return list(accumulate((end for _, end in offsets), max))

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        text: Any = self.tokenizer.decode(list(ids))
        return str(text)

    def _special_ids(self, text: str) -> list[int]:
        return self._ids(text, split_special_tokens=False)

    def _ids(self, text: str, *, split_special_tokens: bool) -> list[int]:
        with self._lock:
            ids: list[int] = self._encoder(legible(text), add_special_tokens=False, split_special_tokens=split_special_tokens)["input_ids"]
        return ids

    def plain(self, text: str) -> list[Segment]:
        """Segments of ``text`` alone, without any template."""
        out: list[Segment] = []
        for part in placeholder.split(placeholder.split_votes(text)[0]):
            _append(out, part if isinstance(part, Placeholder) else self.text_ids(part))
        return out

    def _chat_segments(self, messages: list[Message]) -> list[Segment]:
        marked = [{"role": _role(m), "content": _MARK.format(i)} for i, m in enumerate(messages)]
        try:
            rendered: Any = self.tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
        except Exception as error:
            roles = [_role(m) for m in messages]
            raise BadInput(f"this model's chat template refuses the roles {roles}: {error}; use system, user and assistant") from error
        out: list[Segment] = []
        rest = str(rendered)
        for i, message in enumerate(messages):
            before, found, rest = rest.partition(_MARK.format(i))
            if not found:
                raise BadInput(f"this model's chat template drops the message of role {message.role!r}; leave it out")
            _append(out, self._special_ids(before))
            for segment in self.plain(spoken(message)):
                _append(out, segment)
        _append(out, self._special_ids(rest))
        return out


def omitted(prompt: str | Sequence[Message]) -> int:
    """Tokens of the texts in ``prompt`` that are not shown in it."""
    texts = [prompt] if isinstance(prompt, str) else [spoken(message) for message in prompt]
    return sum(map(placeholder.omitted, texts))


def _role(message: Message) -> str:
    """As chat templates know it: what a tool said is told by the user."""
    return "user" if message.role == "tool" else message.role


def flatten(segments: Sequence[Segment]) -> list[int | Placeholder]:
    """Token ids and placeholders one by one."""
    flat: list[int | Placeholder] = []
    for segment in segments:
        flat.extend([segment] if isinstance(segment, Placeholder) else segment)
    return flat


def embed(
    segments: Sequence[Segment],
    token_embeddings: Callable[[torch.Tensor], torch.Tensor],
    vectors: Callable[[Placeholder], torch.Tensor],
) -> torch.Tensor:
    """``inputs_embeds (n_positions, hidden_size)`` of ``segments``, in the dtype and on the device of the token embeddings."""
    probe = token_embeddings(torch.zeros(0, dtype=torch.long, device=device_of(token_embeddings)))
    rows = []
    for segment in segments:
        if isinstance(segment, Placeholder):
            rows.append(vectors(segment).to(device=probe.device, dtype=probe.dtype))
        else:
            rows.append(token_embeddings(torch.tensor(segment, dtype=torch.long, device=probe.device)))
    return torch.cat(rows)


def device_of(module: Any) -> torch.device:
    weight = getattr(module, "weight", None)
    return weight.device if isinstance(weight, torch.Tensor) else torch.device("cpu")


def _append(out: list[Segment], segment: Segment) -> None:
    if isinstance(segment, Placeholder):
        out.append(segment)
    elif segment:
        if out and isinstance(out[-1], list):
            out[-1] = [*out[-1], *segment]
        else:
            out.append(segment)
