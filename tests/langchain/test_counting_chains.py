"""Chains that cut, collapse or drop by token counts: a placeholder counts as its vectors, and is never cut."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_classic.chains import (
    ConversationalRetrievalChain,
    LLMChain,
    ReduceDocumentsChain,
    RetrievalQAWithSourcesChain,
    StuffDocumentsChain,
)
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, trim_messages
from langchain_core.prompts import PromptTemplate
from langchain_text_splitters import CharacterTextSplitter, RecursiveCharacterTextSplitter

from lloco_integrations.errors import PlaceholderError
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM, LLoCORetriever
from tests.langchain.parts import HashEmbeddings, documents, vector_store
from tests.langchain.scripted import marks, scripted

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
BOTH = pytest.mark.parametrize("kind", [ChatLLoCO, LLoCOLLM])
TEMPLATE = PromptTemplate.from_template("{context}\nQ: {question}")
QUESTION = "Where?"


def stuffing(model: Any) -> StuffDocumentsChain:
    return StuffDocumentsChain(llm_chain=LLMChain(llm=model, prompt=TEMPLATE), document_variable_name="context")


def vectors(found: list[Document]) -> int:
    return sum(d.metadata["lloco_positions"] for d in found)


@BOTH
def test_a_prompt_is_as_long_as_its_vectors_and_its_text(kind: Any, named: dict[str, Any], compressor: LLoCODocumentCompressor) -> None:
    chain = stuffing(kind(**named))
    found = compressor.compress(documents())
    around = len("\n\n") * 3 + len("\nQ: Where?")
    assert chain.prompt_length(found, question=QUESTION) == vectors(found) + around
    assert chain.prompt_length(documents(), question=QUESTION) == sum(len(d.page_content) for d in documents()) + around


@BOTH
async def test_documents_collapse_by_the_cost_of_their_vectors(
    kind: Any, named: dict[str, Any], compressor: LLoCODocumentCompressor
) -> None:
    """Room for two summaries a prompt: two prompts collapse two each, whole, and a third combines the answers."""
    model, found = kind(**named), compressor.compress(documents())
    room = max(stuffing(model).prompt_length(pair, question=QUESTION) or 0 for pair in (found[:2], found[2:]))
    chain = ReduceDocumentsChain(combine_documents_chain=stuffing(model), token_max=room)
    for ask in ("invoke", "ainvoke"):
        inputs = {"input_documents": found, "question": QUESTION}
        with scripted("one", "two", "both") as asked:
            result = chain.invoke(inputs) if ask == "invoke" else await chain.ainvoke(inputs)
        assert [marks(prompt) for prompt in asked] == [[d.page_content for d in found[:2]], [d.page_content for d in found[2:]], []]
        assert result["output_text"] == "both"


def test_where_the_text_would_be_collapsed_summaries_are_not(named: dict[str, Any], compressor: LLoCODocumentCompressor) -> None:
    llm, found = LLoCOLLM(**named), compressor.compress(documents())
    chain = ReduceDocumentsChain(combine_documents_chain=stuffing(llm), token_max=300)
    calls = []
    for given in (documents(), found):
        with scripted("short") as asked:
            chain.invoke({"input_documents": given, "question": QUESTION})
        calls.append(len(asked))
    assert calls[0] > calls[1] == 1
    assert marks(*asked) == [d.page_content for d in found]


@BOTH
def test_documents_are_dropped_by_the_cost_of_their_vectors(kind: Any, named: dict[str, Any], compressor: LLoCODocumentCompressor) -> None:
    model, found = kind(**named), compressor.compress(documents())
    limit = vectors(found[:3])
    ours = LLoCORetriever(**named, vectorstore=vector_store(), k=4, focus="none")
    sourced = RetrievalQAWithSourcesChain(
        combine_documents_chain=stuffing(model), retriever=ours, reduce_k_below_max_tokens=True, max_tokens_limit=limit
    )
    talking = ConversationalRetrievalChain(
        combine_docs_chain=stuffing(model), question_generator=LLMChain(llm=model, prompt=TEMPLATE), retriever=ours, max_tokens_limit=limit
    )
    for chain in (sourced, talking):
        assert len(chain._reduce_tokens_below_limit(found)) == 3
        assert len(chain._reduce_tokens_below_limit(documents())) < 3


def test_trimming_messages_drops_whole_ones(chat: ChatLLoCO, compressor: LLoCODocumentCompressor) -> None:
    first, second, *_ = (d.page_content for d in compressor.compress(documents()))
    talk = [HumanMessage(f"{first} one?"), AIMessage("yes"), HumanMessage(f"{second} two?")]
    room = chat.get_num_tokens_from_messages(talk)
    assert trim_messages(talk, max_tokens=room, token_counter=chat) == talk
    left = trim_messages(talk, max_tokens=room - 1, token_counter=chat, strategy="last", start_on="human")
    assert [marks(str(m.content)) for m in left] == [[second]]


def test_a_memory_of_so_many_tokens_forgets_whole_turns(chat: ChatLLoCO, compressor: LLoCODocumentCompressor) -> None:
    from langchain_classic.memory import ConversationTokenBufferMemory

    turns = [f"{d.page_content} one?" for d in compressor.compress(documents()[:2])]
    room = chat.get_num_tokens_from_messages([HumanMessage(turns[1]), AIMessage("yes")])
    memory = ConversationTokenBufferMemory(llm=chat, max_token_limit=room, return_messages=True)
    for turn in turns:
        memory.save_context({"input": turn}, {"output": "yes"})
    assert [m.content for m in memory.buffer] == [turns[1], "yes"]


def test_a_splitter_that_counts_with_the_model_keeps_placeholders_whole(chat: ChatLLoCO, compressor: LLoCODocumentCompressor) -> None:
    text = "\n\n".join(d.page_content for d in compressor.compress(documents()))
    splitter = CharacterTextSplitter(chunk_size=80, chunk_overlap=0, separator="\n\n", length_function=chat.get_num_tokens)
    pieces = splitter.split_text(text)
    assert len(pieces) > 1
    assert marks(*pieces) == marks(text)


def test_a_splitter_that_cuts_a_placeholder_is_found_out(chat: ChatLLoCO, compressor: LLoCODocumentCompressor) -> None:
    """Summaries are made after splitting; the other way round, the answer is an error and not a lost context."""
    splitter = RecursiveCharacterTextSplitter(chunk_size=20, chunk_overlap=0)
    pieces = [d.page_content for d in splitter.split_documents(compressor.compress(documents()[:1]))]
    for prompt in (pieces[0], "\n\n".join(pieces)):
        with pytest.raises(PlaceholderError, match="cut"):
            chat.invoke(prompt)


def test_splitting_a_compressed_document_by_meaning_needs_its_text(compressor: LLoCODocumentCompressor) -> None:
    """An embedding of a placeholder says nothing about its document: index first, compress what was found."""
    embed = HashEmbeddings().embed_query
    (made,) = compressor.compress(documents()[:1])
    assert embed(made.page_content) != embed(made.metadata["lloco_text"]) == embed(documents()[0].page_content)
