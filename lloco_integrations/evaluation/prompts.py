"""A template, a context and its questions -> what is read once, and what follows for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lloco_integrations.errors import BadInput
from lloco_integrations.placeholder import KEY_LENGTH, Placeholder, neutralise
from lloco_integrations.prompting import flatten
from lloco_integrations.training.templates import TEMPLATES, Template

if TYPE_CHECKING:
    import torch

    from lloco_integrations.prompting import Prompter

_MARK = "a" * KEY_LENGTH
_ANY_QUESTION = "\ue002"  # begins like no other question, so that no prefix reaches into the questions


@dataclass(frozen=True)
class Prompts:
    """Prompts that begin alike: ``prefix`` is what all share, ``branches`` the token ids that follow for each question."""

    prefix: tuple[list[int] | torch.Tensor, ...]
    branches: tuple[list[int], ...]


def find_template(name: str) -> Template:
    """The template of that name. Raises BadInput if there is none, or if its question comes before the context."""
    found = next((t for t in TEMPLATES if t.name == name), None)
    usable = ", ".join(t.name for t in TEMPLATES if t.shares_prefix)
    if found is None:
        raise BadInput(f"there is no template {name!r}; use one of {usable}")
    if not found.shares_prefix:
        raise BadInput(
            f"the template {name!r} asks before it shows the context, so that questions cannot share one pass over it; use one of {usable}"
        )
    return found


def share(
    prompter: Prompter,
    template: Template,
    content: str | list[int] | torch.Tensor,
    questions: Sequence[str],
    vectors: Mapping[Placeholder, torch.Tensor] | None = None,
) -> Prompts:
    """The prompts of ``questions`` about ``content``, a text, token ids or vectors ``(n, hidden_size)``.

    ``vectors``: what the placeholders in a text stand for; a text without this may hold anything, and is neutralised.
    Prefix and branch put together are exactly what the model would get for that question alone.
    """
    shown = f"<|lloco:{_MARK}|>" if not isinstance(content, str) else content if vectors else neutralise(content)
    flat = [_flat(prompter, template, shown, question) for question in (_ANY_QUESTION, *questions)]
    n = 0
    while n < min(map(len, flat)) - 1 and all(ids[n] == flat[0][n] for ids in flat):
        n += 1
    prefix: list[list[int] | torch.Tensor] = [[]]
    for item in flat[0][:n]:
        if isinstance(item, Placeholder):
            prefix += [vectors[item] if vectors else content, []]  # type: ignore[list-item]  # a text without vectors holds none
        else:
            prefix[-1].append(item)  # type: ignore[union-attr]
    branches = tuple([i for i in ids[n:] if not isinstance(i, Placeholder)] for ids in flat[1:])
    return Prompts(tuple(piece for piece in prefix if len(piece)), branches)


def overhead(prompter: Prompter, template: Template, question: str) -> int:
    """Positions that the template and ``question`` take, the context not counted."""
    return len(_flat(prompter, template, f"<|lloco:{_MARK}|>", question)) - 1


def _flat(prompter: Prompter, template: Template, shown: str, question: str) -> list[int | Placeholder]:
    return flatten(prompter.segments(template.fill(shown, neutralise(question))))
