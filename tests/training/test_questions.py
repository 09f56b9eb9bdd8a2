"""What the rules make of sentences, and what becomes of an LLM's answers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lloco_integrations.errors import BadInput
from lloco_integrations.training.questions.draft import BLANK
from lloco_integrations.training.questions.llm import as_ask, llm_drafts, locate, pairs_of
from lloco_integrations.training.questions.local import local_drafts
from lloco_integrations.training.questions.sentences import passages, sentences
from lloco_integrations.training.synthesize import Counts, make_questions
from tests.training.test_synthesize import MILL


def asked(text: str, n: int = 40, title: str = "") -> dict[str, str]:
    return {d.question: d.answer for d in local_drafts(text, title, n, random.Random(0))}


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        ("Cordelia Vance founded the Salt Endowment in 1920.", "Who founded the Salt Endowment in 1920?", "Cordelia Vance"),
        ("Cordelia Vance founded the Salt Endowment in 1920.", "In which year did Cordelia Vance found the Salt Endowment?", "1920"),
        ("His widow, Honoria Stallworth, spent seven years in court.", "Who spent seven years in court?", "Honoria Stallworth"),
        ("The lens was made by Josef Andelin, an optician of Aldersea.", "By whom was the lens made?", "Josef Andelin"),
        ("The bursar is Leopold Strang, who came in 2006.", "Who is the bursar?", "Leopold Strang"),
        ("They all depend on Juno Brask, the head night assistant.", "Who is the head night assistant?", "Juno Brask"),
        ("Juno Brask, the head night assistant, joined in 2005.", "In which year did Juno Brask join?", "2005"),
        ("On 3 May 1891 a storm broke the lantern of the tower.", "On which date did a storm break the lantern of the tower?", "3 May 1891"),
        ("The canteen seats forty-six people at long tables.", "How many people does the canteen seat at long tables?", "forty-six people"),
        ("Eleven people were on the hill that night.", "How many people were on the hill that night?", "Eleven people"),
        ("The solar tower is 21 metres tall and made of brick.", "How tall is the solar tower?", "21 metres"),
        ("The grindstone was cast in Harl and weighs 610 kilograms.", "How much does the grindstone weigh?", "610 kilograms"),
        ("Averil College pays 71 per cent of the income.", "What percentage of the income does Averil College pay?", "71 per cent"),
        ("The observatory cat is called Gasket and is grey.", "What is the observatory cat called?", "Gasket"),
        ("A goat named Duchess walked into the dome.", "Which goat walked into the dome?", "Duchess"),
        ("The rain gauge is a copper funnel sunk in turf.", "What is the rain gauge?", "a copper funnel sunk in turf"),
        ("Visitors sit on a movable ladder seat known as the Pulpit.", "What is the name of the movable ladder seat?", "the Pulpit"),
        ("Until 1974 the shutter was moved by pedals and a chain.", "Until which year was the shutter moved by pedals and a chain?", "1974"),
        ("The wet roof rolls on iron cannonballs and ropes.", "What rolls on iron cannonballs and ropes?", "The wet roof"),
    ],
)  # fmt: skip
def test_a_statement_becomes_a_question(text: str, question: str, answer: str) -> None:
    assert asked(text).get(question) == answer


def test_a_pronoun_is_resolved_or_left_alone() -> None:
    found = asked("Bram Otterley came from Harl. He retired in 1984 after a long illness.")
    assert found["In which year did Bram Otterley retire?"] == "1984"
    found = asked("It was opened in 1984 after a long delay. They built the tower in 1990 without plans.")
    assert found and all(BLANK in question for question in found)
    found = asked("The Mill stands in Harl near the bridge. It was opened in 1984 by the mayor.", title="The Mill")
    assert found["In which year was the Mill opened by the mayor?"] == "1984"


def test_a_blank_with_two_right_answers_is_left_out() -> None:
    text = "The roof rolls on twenty-four cannonballs. The roof rolls on thirty cannonballs."
    assert not [q for q, a in asked(text).items() if a.startswith(("twenty", "thirty"))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Moss met Mr. J. R. Hale at 3.5 kilometres. He left.", ["Dr. Moss met Mr. J. R. Hale at 3.5 kilometres.", "He left."]),
        ("# A Heading\nThe first. The *second* one.\n\nA Title\n=======\nThe `third`.", ["The first.", "The second one.", "The third."]),
        ("- One item here.\n- Two [items](http://x.y) here.", ["One item here.", "Two items here."]),
        ("| a | b |\n|---|---|\n| 1. | 2. |\n\nAfter the table.", ["After the table."]),
        ("```\ncode. More.\n```\nAfter the code.", ["After the code."]),
        ("---\ntitle: x\n---\nText of\nthe page.", ["Text of the page."]),
        ("See Fig. 3 and No. 4. See also p. 5.", ["See Fig. 3 and No. 4.", "See also p. 5."]),
        ("It ends\r\nhere. So.\r\n\r\nA hyphen-\r\nated word is lost.", ["It ends here.", "So."]),
        ('He said "Go away." Then he left.', ['He said "Go away."', "Then he left."]),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    assert [s.text for s in sentences(text)] == expected


@pytest.mark.parametrize("text", ["word " * 3000, "One sentence here. " * 900, "A paragraph of words.\n\n" * 900, "x" * 9000, "short"])
def test_passages_hold_the_whole_text(text: str) -> None:
    spans = passages(text)
    assert "".join(text[a:b] for a, b in spans).strip() == text.strip()
    assert all(b - a <= 2420 and (text[0] == "w" or len(text[a:b].split()) <= 320) for a, b in spans)


LINES = "1. **Q:** Who runs the mill? | **A:** josef andelin.\nQ: How heavy is the stone? | A: 700 kilograms\nQ: no | A: Crater"


@pytest.mark.parametrize(
    "output",
    [
        "Here you are:\nQ: Who? | A: Ann\nQ2: When? | A: 1920",
        "1. Question: Who?\n   Answer: Ann\n\n2. Question: When?\n   Answer: 1920\n",
        "<think>Q: x | A: y</think>\n- **Q: Who?** | **A: Ann**\n- **Q: When?** | **A: 1920**",
        '```json\n[{"question": "Who?", "answer": "Ann"}, {"question": "When?", "answer": 1920}]\n```',
        '{"questions": [{"Q": "Who?", "A": "Ann"}, {"q": "When?", "answers": ["1920"]}]}',
        '{"question": "Who?", "answer": "Ann"}\n{"question": "When?", "answer": "1920"}\n',
    ],
)
def test_what_an_llm_writes_is_read_leniently(output: str) -> None:
    assert list(pairs_of(output)) == [("Who?", "Ann"), ("When?", "1920")]


@pytest.mark.parametrize(
    ("answer", "found"),
    [("josef ANDELIN", "Josef Andelin"), ('"the Crater".', "the Crater"), ("640  crowns", "640 crowns"), ("Jo", None), ("", None)],
)
def test_an_answer_is_found_in_the_passage_as_it_stands_there(answer: str, found: str | None) -> None:
    at = locate(answer, MILL.text)
    assert (at and MILL.text[slice(*at)]) == found


def test_only_usable_answers_of_an_llm_are_kept() -> None:
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return LINES

    questions, counts = make_questions(MILL, per_document=7, ask=ask)
    assert [(q.id, q.question, q.answers) for q in questions] == [("mill#1", "Who runs the mill?", ("Josef Andelin",))]
    assert counts == Counts(made=1, kept=1, unusable=2)
    (prompt,) = prompts
    assert prompt.startswith("Write 7 questions") and MILL.text in prompt and "Document: The Mill" in prompt
    assert llm_drafts(MILL.text, "", 3, lambda prompt: "I cannot do that.") == ([], 1)
    contradicting = "Q: What is it called? | A: Crater\nQ: What is it called? | A: mill"
    assert llm_drafts(MILL.text, "", 3, lambda prompt: contradicting)[0] == []


def test_an_llm_is_asked_about_all_parts_of_a_long_document() -> None:
    text = "\n\n".join(f"Paragraph {i} is about tower {i}. " + "It goes on and on. " * 60 for i in range(6))
    prompts: list[str] = []
    llm_drafts(text, "", 3, lambda prompt: prompts.append(prompt) or "")  # type: ignore[func-returns-value]
    assert len(prompts) == 3 and all(p.startswith("Write 1 questions") for p in prompts) and len(set(prompts)) == 3


class Completer:
    def complete(self, prompt: str) -> Any:
        return type("Response", (), {"text": f"completed {prompt}"})()


class Chat:
    def __init__(self, content: object = "invoked") -> None:
        self.content = content

    def invoke(self, prompt: str) -> Any:
        return type("Message", (), {"content": self.content})()


def plain(prompt: str) -> str:
    return f"plain {prompt}"


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        (Completer(), "completed p"),
        (Completer, "completed p"),
        (lambda: Completer(), "completed p"),
        (Chat(), "invoked"),
        (Chat([{"type": "text", "text": "in"}, "voked"]), "invoked"),
        (plain, "plain p"),
        (lambda: plain, "plain p"),
    ],
)
def test_an_llm_is_whatever_can_be_asked(llm: object, said: str) -> None:
    assert as_ask(llm)("p") == said


@pytest.mark.parametrize(
    ("llm", "said"), [(3, "is of type int, which cannot be asked"), (lambda: "text", "is of type str"), (lambda: 1 / 0, "ZeroDiv")]
)
def test_what_is_no_llm(llm: object, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        as_ask(llm, "it")
    with pytest.raises(BadInput, match="gave an object of type int in place of text"):
        as_ask(lambda prompt: 3, "it")("p")
