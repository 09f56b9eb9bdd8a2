"""The verdict on made-up rows: good, mixed, bad, too few to tell, and rows that are missing."""

from __future__ import annotations

from typing import Any

import pytest

from lloco_integrations.evaluation.verdict import verdict


def interval(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def row(kind: str, positions: float, ratio: int | None = None, **more: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("rel", "rel_reason", "over_none", "over_truncate", "unanswerable", "wrongly_says_unknown"))
    return {"kind": kind, "ratio": ratio, "positions": positions, "source_tokens": 400, **empty, **more}


def lloco(ratio: int, rel: float, over_truncate: float, half: float = 3.0) -> dict[str, Any]:
    return row(
        "lloco",
        400 / ratio,
        ratio,
        rel=interval(rel, 0.07),
        over_none=interval(50 * rel, half),
        over_truncate=interval(over_truncate, half),
    )


def report(*ours: dict[str, Any], n: int = 100, documents: int = 40, full: bool = True, **more: Any) -> dict[str, Any]:
    rows = {"none": row("none", 0), "truncate@8": row("truncate", 50, 8)}
    if full:
        rows["raw+lora"] = row("raw+lora", 400)
    rows |= {f"{r['kind']}@{r['ratio']}": r for r in ours}
    return {"rows": rows, "primary": "f1", "n_questions": n, "n_documents": documents, "n_unanswerable": 0, **more}


def test_good() -> None:
    assert verdict(report(lloco(4, 0.9, 20), lloco(8, 0.81, 15))) == (
        "Here 4x keeps 90 % [83, 97] of the gain at 25 % of the positions. 8x keeps 81 % [74, 88] of the gain at 12 % of the positions."
    )


def test_mixed() -> None:
    said = verdict(report(lloco(8, 0.81, 15), lloco(32, 0.3, -1.2), lloco(16, 0.5, 2.0)))
    assert said.startswith("Here 8x keeps 81 % [74, 88] of the gain at 12 % of the positions. 16x is not worth it")
    assert "16x is not worth it: it is not clearly better than the text cut to the same positions (+2.0 [-1.0, +5.0] F1)." in said
    assert said.endswith("32x is not worth it: it is no better than the text cut to the same positions (-1.2 [-4.2, +1.8] F1).")


def test_bad() -> None:
    said = verdict(report(lloco(8, 0.02, -15), lloco(16, -0.04, -10)))
    assert said.startswith("Nothing is worth it here: 8x is not clearly better than no context")
    assert "16x is no better than no context (-2.0 [-5.0, +1.0] F1)" in said
    assert "keeps" not in said


@pytest.mark.parametrize(("n", "documents"), [(29, 29), (100, 4)])
def test_too_few(n: int, documents: int) -> None:
    said = verdict(report(lloco(8, 0.81, 15), n=n, documents=documents))
    assert said.startswith(f"Too few to tell: {n} questions about {documents} documents.")
    assert "keeps" not in said


def test_no_gain_to_share() -> None:
    ours = {**lloco(8, 0, 15), "rel": None, "rel_reason": "raw+lora is not clearly better than none", "over_none": interval(9, 4)}
    said = verdict(report(ours))
    assert "8x is better than no context by +9.0 [+5.0, +13.0] F1 at 12 % of the positions." in said
    assert "How much of the gain is kept cannot be said: raw+lora is not clearly better than none." in said


def test_what_was_not_measured_is_said() -> None:
    ours = {**lloco(8, 0, 15), "rel": None, "rel_reason": "raw+lora was not measured"}
    ours["over_none"] = interval(9, 4)
    assert "Not compared with raw+lora, which were not measured." in verdict(report(ours, full=False))
    alone = {**ours, "over_none": None, "over_truncate": None}
    said = verdict({**report(alone), "rows": {"lloco@8": alone}})
    assert "8x was compared with nothing; add none, truncate and raw+lora" in said
    assert "add lloco to the methods" in verdict(report())


def test_another_compressor_is_named() -> None:
    card = report(lloco(8, 0.81, 15))
    card["rows"]["llmlingua"] = row("texts", 52, rel=interval(0.4, 0.1), over_none=interval(20, 5))
    assert verdict(card).endswith("llmlingua keeps 40 % [30, 50] of the gain at 13 % of the positions.")


def test_rows_that_read_summaries_are_told_apart() -> None:
    said = verdict(report(lloco(8, 0.5, 15), {**lloco(8, 0.7, 15), "kind": "lloco+adapter"}, {**lloco(8, 0, -9), "kind": "lloco+retrieve"}))
    assert said.startswith("Here 8x keeps 50 % [43, 57] of the gain at 12 % of the positions. lloco+adapter@8 keeps 70 % [63, 77]")
    assert "lloco+retrieve@8 is not worth it: it is no better than no context" in said
    alone = verdict(report({**lloco(8, 0.7, 15), "kind": "lloco+adapter"}))
    assert alone.startswith("Here lloco+adapter@8 keeps 70 % [63, 77] of the gain")


def test_passages_found_for_the_question_are_compared() -> None:
    differences = {4: interval(-9, 3), 8: interval(9, 3), 16: interval(1, 3)}
    card = report(*({**lloco(ratio, 0.8, 15), "over_retrieve": d} for ratio, d in differences.items()))
    card["rows"]["retrieve@8"] = row("retrieve", 50, 8, rel=interval(0.4, 0.1), over_none=interval(20, 5))
    said = verdict(card)
    assert (
        "Against raw passages found for the question, at the same positions: 4x is worse (-9.0 [-12.0, -6.0] F1), "
        "8x is better (+9.0 [+6.0, +12.0] F1), 16x is not clearly different (+1.0 [-2.0, +4.0] F1)."
    ) in said
    assert said.endswith("retrieve@8 keeps 40 % [30, 50] of the gain at 12 % of the positions.")


def test_sentences_found_for_the_question_are_compared() -> None:
    ours = {**lloco(8, 0.8, 15), "kind": "focus", "ratio": 30, "positions": 13}
    card = report({**ours, "over_sentences": interval(1, 3)}, {**lloco(8, 0.3, 15), "over_sentences": interval(-9, 3)})
    card["rows"]["sentences@8"] = row("sentences", 50, 8, rel=interval(0.4, 0.1), over_none=interval(20, 5))
    said = verdict(card)
    assert said.startswith(
        "Here 8x keeps 30 % [23, 37] of the gain at 12 % of the positions. focus@30 keeps 80 % [73, 87] of the gain at 3 %"
    )
    assert (
        "Against the best sentences as text alone, at the same positions: 8x is worse (-9.0 [-12.0, -6.0] F1), "
        "focus@30 is not clearly different (+1.0 [-2.0, +4.0] F1)."
    ) in said
    assert said.endswith("sentences@8 keeps 40 % [30, 50] of the gain at 12 % of the positions.")


def test_questions_without_an_answer() -> None:
    card = report(lloco(8, 0.8, 1), n=0, n_unanswerable=50)
    for one in card["rows"].values():
        one["unanswerable"] = {"n": 50, "says_unknown": interval(40, 10)}
    said = verdict(card)
    assert said.startswith("Of the 50 questions that no document answers, these rows say that they do not know: none on 40 % [30, 50]")
    assert "gain" not in said
    assert "where there is an answer" not in said
