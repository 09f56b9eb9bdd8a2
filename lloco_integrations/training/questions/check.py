"""Which questions can be answered from the text and not without it, as a language model has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import BadInput
from lloco_integrations.training.questions.draft import Draft
from lloco_integrations.training.questions.sentences import passages

if TYPE_CHECKING:
    from lloco_integrations.evaluation.reader import Reader
    from lloco_integrations.models import LLoCOModel

KEPT, UNANSWERABLE, GUESSABLE = "kept", "unanswerable", "guessable"
_JUNCTION = 8  # tokens by which a text may take another number of positions inside its prompt than alone


@dataclass(frozen=True)
class Check:
    """Keeps a question whose answer is likely after its passage, and clearly likelier than after the question alone.

    ``most_nll`` and ``least_gain`` are negative log-likelihoods in nats a token, means over the answer.
    """

    model: LLoCOModel
    most_nll: float = 2.0
    least_gain: float = 0.5
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.model.prompter is None:
            raise BadInput(f"{self.model.name} has no tokenizer, so it cannot check questions; add its tokenizer files, or do not check")

    @property
    def identity(self) -> dict[str, Any]:
        """All that changes a verdict."""
        return {"model": self.model.fingerprint, "most_nll": self.most_nll, "least_gain": self.least_gain}

    def __call__(self, text: str, drafts: Sequence[Draft]) -> list[str]:
        """KEPT, UNANSWERABLE or GUESSABLE for each of ``drafts`` about the document ``text``."""
        return [
            UNANSWERABLE if read >= self.most_nll else KEPT if guessed - read > self.least_gain else GUESSABLE
            for read, guessed in self.likelihoods(text, drafts)
        ]

    def likelihoods(self, text: str, drafts: Sequence[Draft]) -> list[tuple[float, float]]:
        """NLL of each answer after passage and question, and after the question alone."""
        from lloco_integrations.evaluation.reader import Reader

        if not drafts:
            return []
        backend: Any = self.model.backend
        reader = Reader(backend, batch_size=self.batch_size)
        guessed = self._nll(reader, "", drafts)
        read: dict[int, float] = {}
        for begin, end in passages(text):
            inside = [i for i, d in enumerate(drafts) if begin <= d.start < end]
            if inside:
                read.update(zip(inside, self._nll(reader, text[begin:end].strip(), [drafts[i] for i in inside]), strict=True))
        return [(read[i], guessed[i]) for i in range(len(drafts))]

    def _nll(self, reader: Reader, passage: str, drafts: Sequence[Draft]) -> list[float]:
        """One pass over ``passage`` for all questions about it."""
        from lloco_integrations.evaluation.prompts import overhead, share
        from lloco_integrations.training.templates import PLAIN

        prompter = self.model.prompter
        assert prompter is not None
        targets = [prompter.text_ids(d.answer) for d in drafts]
        longest = max(overhead(prompter, PLAIN, d.question) + len(t) for d, t in zip(drafts, targets, strict=True))
        room = max(0, reader.window - longest - _JUNCTION)
        while (n := len(prompter.text_ids(passage))) > room:
            passage = passage[: min(len(passage) - 1, len(passage) * room // n)]
        prompts = share(prompter, PLAIN, passage, [d.question for d in drafts])
        return reader.nll(reader.prefill(prompts.prefix), prompts.branches, targets)
