"""What stands for one text in a prompt: the text, a summary of it, or text and slices of the summary in the order of the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lloco_integrations import placeholder
from lloco_integrations.show.spans import Span
from lloco_integrations.store.info import EntryInfo

AS_TEXT = 0
"""The fidelity of a span that is shown as text; any other number is the ratio of its slice of the summary."""


@dataclass(frozen=True)
class Shown:
    """What stands for a text in a prompt.

    Attributes:
        content: text and placeholders, ready for a prompt.
        key: of the summary in the store, None where ``content`` holds no placeholder.
        n_positions: what ``content`` costs in a prompt.
        n_tokens: what the whole text would cost.
        as_text: the stretches of the text that are shown as text: characters from, up to.
        fidelities: for each span that is shown, in order: characters from, up to, and its fidelity, AS_TEXT or a ratio.
    """

    content: str
    key: str | None
    n_positions: int
    n_tokens: int
    as_text: tuple[tuple[int, int], ...] = ()
    fidelities: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True)
class Entry:
    """A text, its key, and what the store knows about it (None: nothing)."""

    text: str
    key: str
    info: EntryInfo | None


TextIds = Callable[[str], list[int]]


def as_text(entry: Entry, weight: int | None, text_ids: TextIds) -> Shown:
    """The neutralised text, with a vote beside it if its group is known."""
    plain = placeholder.neutralise(entry.text)
    info = entry.info
    n = info.n_tokens if info and plain == entry.text else len(text_ids(plain)) if plain.strip() else 0
    vote = placeholder.vote(entry.key, weight) if info is not None and info.group is not None else ""
    whole = ((0, len(entry.text)),)
    return Shown(plain + vote, None, n, n, whole, ((0, len(entry.text), AS_TEXT),))


def as_summary(entry: Entry, ratio: int | None, weight: int | None) -> Shown:
    """The placeholder at ``ratio``; None is the ratio that is stored. The store must know the text."""
    info = entry.info
    assert info is not None
    shown = ratio if ratio != info.window else None
    content = placeholder.make(entry.key, shown, weight)
    fidelity = ratio or info.window or round(info.n_tokens / info.n_vectors)
    return Shown(content, entry.key, info.positions(ratio), info.n_tokens, (), ((0, len(entry.text), fidelity),))


def as_spans(
    entry: Entry, spans: Sequence[Span], fidelity: Mapping[int, int], weight: int | None, text_ids: TextIds, *, whole_summary: bool = False
) -> Shown:
    """Text and slices in the order of the source.

    Args:
        entry: the text.
        spans: of the text, end to end.
        fidelity: span's index -> AS_TEXT or a ratio; a span that is not there is left out.
        weight: of placeholder and vote, see ``groups``.
        text_ids: the tokenizer.
        whole_summary: put all of the summary in front; for summaries that cannot be sliced. Then ``fidelity`` has AS_TEXT only.

    Neighbours of one fidelity join. A window of the summary that reaches into a span shown as text is left out, so that no token is shown
    twice; a vote beside it all tells what is not shown, and the group.
    """
    info = entry.info
    n_tokens = spans[-1].last
    parts: list[str] = []  # text and placeholders in turn, a text first
    held = ""
    fidelities: list[tuple[int, int, int]] = []
    texts: list[tuple[int, int]] = []
    positions = n_shown = 0
    if whole_summary:
        assert info is not None
        parts += ["", placeholder.make(entry.key, None, weight)]
        positions += info.n_vectors
    for run in _runs(spans, fidelity, info.window if info else None, info.n_vectors if info else 0):
        if run.ratio == AS_TEXT:
            shown = entry.text[run.start : run.stop]
            held += f"{' ' if held and not held[-1].isspace() else ''}{shown}"
            texts.append((run.start, run.start + len(shown.rstrip())))
        else:
            assert info is not None
            windows = None if run.windows == (0, info.n_vectors) else run.windows
            parts += [held.rstrip(), placeholder.make(entry.key, run.ratio if run.ratio != info.window else None, weight, windows)]
            held = ""
            positions += info.positions(run.ratio, windows)
        fidelities.append((run.start, run.stop, run.ratio))
        n_shown += run.n_tokens
    parts.append(held.rstrip())
    for i in range(0, len(parts), 2):  # neutralised when joined: what was left out may have kept two halves apart
        parts[i] = placeholder.neutralise(parts[i])
        positions += len(text_ids(parts[i])) if parts[i].strip() else 0
    content = "".join(parts)
    omitted = 0 if whole_summary else n_tokens - n_shown
    has_summary = len(parts) > 1
    if omitted or (info is not None and info.group is not None and not has_summary):
        content += placeholder.vote(entry.key, weight, omitted)
    return Shown(content, entry.key if has_summary else None, positions, n_tokens, tuple(texts), tuple(fidelities))


@dataclass(frozen=True)
class _Run:
    """Neighbouring spans of one fidelity; ``windows`` where they are shown as vectors."""

    start: int
    stop: int
    ratio: int
    n_tokens: int
    windows: tuple[int, int] | None


def _runs(spans: Sequence[Span], fidelity: Mapping[int, int], window: int | None, n_windows: int) -> Iterator[_Run]:
    groups: list[tuple[int, list[int]]] = []
    for i in sorted(fidelity):
        ratio = fidelity[i]
        if groups and groups[-1][0] == ratio and groups[-1][1][-1] == i - 1:
            groups[-1][1].append(i)
        else:
            groups.append((ratio, [i]))
    taken = 0  # windows that are shown, or that reach into text that is shown
    for at, (ratio, members) in enumerate(groups):
        first, last = spans[members[0]], spans[members[-1]]
        following = groups[at + 1] if at + 1 < len(groups) else None
        windows = None
        n_tokens = last.last - first.first
        if ratio == AS_TEXT:
            if window:
                taken = -(-last.last // window)
        else:
            assert window is not None
            beside_text = following is not None and following[1][0] == members[-1] + 1 and following[0] == AS_TEXT
            begin = max(taken, first.first // window)
            end = n_windows if last is spans[-1] else last.last // window if beside_text else -(-last.last // window)
            if end <= begin:
                continue
            windows = (begin, end)
            n_tokens = min(spans[-1].last, end * window) - begin * window
            taken = end
        yield _Run(first.start, last.stop, ratio, n_tokens, windows)
