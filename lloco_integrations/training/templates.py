"""The prompts that pipelines really send, so that a model is trained on what it will get.

Each template is a conversation with ``{context}`` and ``{question}``. They are those of LlamaIndex 0.14 (text and chat question
answering) and LangChain 1.x (the usual retrieval prompts), and plain ones. A test compares them with the frameworks' own.
"""

from __future__ import annotations

from dataclasses import dataclass

from lloco_integrations.types import Message

NO_ANSWER = "I don't know."
"""What the model learns to say when no passage holds the answer."""
REPEAT = "Repeat the text word for word."
CONTINUE = "How does the text go on?"
QUOTE = 'Which words follow "{}"?'


@dataclass(frozen=True)
class Template:
    """``weight``: how often it is drawn in training, relative to the others."""

    name: str
    weight: float
    messages: tuple[Message, ...]

    @property
    def shares_prefix(self) -> bool:
        """Whether the context comes before the question, so that many questions can share one pass over it."""
        text = "".join(m.content for m in self.messages)
        return text.index("{context}") < text.index("{question}")

    def fill(self, context: str, question: str) -> list[Message]:
        """The conversation with both put in, whatever braces they hold."""
        parts = {"{context}": context, "{question}": question}
        return [Message(m.role, _put(m.content, parts)) for m in self.messages]


def _put(text: str, parts: dict[str, str]) -> str:
    for i, (mark, _) in enumerate(parts.items()):
        text = text.replace(mark, f"\ue000{i}\ue001")
    for i, value in enumerate(parts.values()):
        text = text.replace(f"\ue000{i}\ue001", value)
    return text


_LLAMA_INDEX = (
    "Context information is below.\n---------------------\n{context}\n---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\nQuery: {question}\nAnswer: "
)
_LLAMA_INDEX_SYSTEM = (
    "You are an expert Q&A system that is trusted around the world.\n"
    "Always answer the query using the provided context information, and not prior knowledge.\n"
    "Some rules to follow:\n"
    "1. Never directly reference the given context in your answer.\n"
    "2. Avoid statements like 'Based on the context, ...' or 'The context information ...' or anything along those lines."
)
_LANGCHAIN_SYSTEM = (
    "Use the following pieces of context to answer the user's question.\n"
    "If you don't know the answer, just say that you don't know, don't try to make up an answer.\n----------------\n{context}"
)
_LANGCHAIN_TEXT = (
    "Use the following pieces of context to answer the question at the end. If you don't know the answer, just say that you "
    "don't know, don't try to make up an answer.\n\n{context}\n\nQuestion: {question}\nHelpful Answer:"
)
_LANGCHAIN_TUTORIAL = (
    "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the question. "
    "If you don't know the answer, just say that you don't know. Use three sentences maximum and keep the answer concise.\n"
)


def _user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


PLAIN = Template("plain", 4.0, _user("{context}\n\nQuestion: {question}\nAnswer:"))

TEMPLATES: tuple[Template, ...] = (
    PLAIN,
    Template("plain_short", 1.0, _user("{context}\n\n{question}")),
    Template("llama_index_text", 3.0, _user(_LLAMA_INDEX)),
    Template("llama_index_chat", 1.5, (Message("system", _LLAMA_INDEX_SYSTEM), Message("user", _LLAMA_INDEX))),
    Template("langchain_stuff", 1.5, (Message("system", _LANGCHAIN_SYSTEM), Message("user", "{question}"))),
    Template("langchain_text", 1.5, _user(_LANGCHAIN_TEXT)),
    Template("langchain_tutorial", 0.5, _user(_LANGCHAIN_TUTORIAL + "Question: {question} \nContext: {context} \nAnswer:")),
    Template("langchain_tutorial_chat", 1.0, (Message("system", _LANGCHAIN_TUTORIAL + "\n{context}"), Message("user", "{question}"))),
)
