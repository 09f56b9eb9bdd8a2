"""What is written down and read again: indices, ingestion with its cache and docstore, and every class of ours."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore

from lloco_integrations.llama_index import (
    LLoCOCompress,
    LLoCOLLM,
    LLoCONode,
    LLoCOPostprocessor,
    LLoCOPromptHelper,
    LLoCORetriever,
    PositionTokenizer,
)
from lloco_integrations.store import SummaryStore

from .conftest import TEXTS, HashEmbedding, whole_summaries
from .test_ingestion import compressed, documents, step
from .test_pipelines import marks

__all__ = ["compressed", "step"]

QUESTION = "the lamps of Carrow"


def placed(step: LLoCOCompress) -> list[Any]:
    return [SentenceSplitter(chunk_size=200, chunk_overlap=0), step, HashEmbedding()]


def ask(index: VectorStoreIndex, post: LLoCOPostprocessor, k: int = 3) -> Any:
    return index.as_query_engine(node_postprocessors=[post], similarity_top_k=k).query(QUESTION)


@pytest.mark.parametrize("retrieving", [False, True], ids=["postprocessor", "retriever"])
def test_an_index_read_from_disk_answers_as_before(
    retrieving: bool, nodes: list[TextNode], installed: LLoCOLLM, post: LLoCOPostprocessor, tmp_path: Path, prompts: list[str]
) -> None:
    def run(index: VectorStoreIndex) -> Any:
        if retrieving:
            return RetrieverQueryEngine.from_args(LLoCORetriever(index.as_retriever(), postprocessor=post)).query(QUESTION)
        return ask(index, post, 2)

    index = VectorStoreIndex(nodes)
    before = run(index)
    index.storage_context.persist(str(tmp_path / "index"))
    written = "".join(p.read_text() for p in (tmp_path / "index").iterdir())
    assert "<|lloco:" not in written
    again = run(load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path / "index"))))  # type: ignore[arg-type]
    assert str(again) == str(before)
    assert prompts[0] == prompts[1]
    assert [(n.id_, n.score, n.text) for n in again.source_nodes] == [(n.id_, n.score, n.text) for n in before.source_nodes]


def test_a_persisted_pipeline_is_a_cache_hit_in_the_next_process(step: LLoCOCompress, tmp_path: Path, compressed: list[str]) -> None:
    pipeline = IngestionPipeline(transformations=placed(step), docstore=None, cache=IngestionCache())
    first = pipeline.run(documents=documents())
    pipeline.persist(str(tmp_path / "pipeline"))
    compressed.clear()
    step.engine.store.delete_many(list(step.engine.store.keys()))
    again = IngestionPipeline(transformations=placed(LLoCOCompress.from_dict(json.loads(step.to_json()))))
    again.load(str(tmp_path / "pipeline"))
    assert [n.to_dict() for n in again.run(documents=documents())] == [n.to_dict() for n in first]
    assert compressed == [], "from the cache"


@pytest.mark.parametrize("asynchronous", [False, True])
@whole_summaries
async def test_a_changed_document_brings_its_new_summary_and_takes_the_old_node_away(
    asynchronous: bool, step: LLoCOCompress, installed: LLoCOLLM, post: LLoCOPostprocessor, compressed: list[str], prompts: list[str]
) -> None:
    vectors = SimpleVectorStore()
    pipeline = IngestionPipeline(
        transformations=placed(step), docstore=SimpleDocumentStore(), vector_store=vectors, docstore_strategy=DocstoreStrategy.UPSERTS
    )

    async def run(given: list[Document]) -> list[Any]:
        return list(await pipeline.arun(documents=given) if asynchronous else pipeline.run(documents=given))

    first = await run(documents())
    assert await run(documents()) == []
    assert compressed == TEXTS, "unchanged documents are not looked at again"
    changed = documents()
    changed[1] = Document(text="The harbour of Carrow never freezes now.", id_="d1", metadata={"n": 1})
    [new] = await run(changed)
    assert compressed == [*TEXTS, changed[1].text]
    assert set(vectors.data.embedding_dict) == {first[0].id_, first[2].id_, new.id_}
    post.on_miss = "raise"
    response = ask(VectorStoreIndex([first[0], first[2], new]), post)
    assert len(marks(prompts)) == 3
    assert {n.text for n in response.source_nodes} == {TEXTS[0], TEXTS[2], changed[1].text}


@whole_summaries
def test_upserts_and_deletes_of_an_index(installed: LLoCOLLM, post: LLoCOPostprocessor, step: LLoCOCompress, prompts: list[str]) -> None:
    Settings.transformations = placed(step)[:2]
    index = VectorStoreIndex.from_documents(documents())
    ask(index, post)
    first = marks(prompts)
    assert index.refresh_ref_docs([*documents()[:2], Document(text="Ilse has left.", id_="d2")]) == [False, False, True]
    prompts.clear()
    assert {n.text for n in ask(index, post).source_nodes} == {*TEXTS[:2], "Ilse has left."}
    assert len(set(marks(prompts)) & set(first)) == 2
    index.delete_ref_doc("d2", delete_from_docstore=True)
    prompts.clear()
    assert {n.text for n in ask(index, post).source_nodes} == set(TEXTS[:2])
    assert len(marks(prompts)) == 2
    index.insert(Document(text="Ilse is back.", id_="d3"))
    post.on_miss = "raise"
    assert "Ilse is back." in {n.text for n in ask(index, post).source_nodes}


@pytest.mark.slow
def test_two_worker_processes_fill_one_store(tiny_model: str, store_url: str, tmp_path: Path) -> None:
    """In a process of its own: LlamaIndex starts its workers by ``spawn``, which imports the main module again."""
    script = tmp_path / "ingest.py"
    script.write_text(
        textwrap.dedent(f"""
        from llama_index.core import Document
        from llama_index.core.ingestion import IngestionPipeline
        from llama_index.core.node_parser import SentenceSplitter
        from lloco_integrations.llama_index import LLoCOCompress

        if __name__ == "__main__":
            step = LLoCOCompress({tiny_model!r}, store={store_url!r})
            splitter = SentenceSplitter(chunk_size=200, chunk_overlap=0, tokenizer=str.split)
            pipeline = IngestionPipeline(transformations=[splitter, step])
            nodes = pipeline.run(documents=[Document(text=f"Lamp {{i}} is lit.") for i in range(6)], num_workers=2)
            print(sorted(n.text for n in nodes))
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    texts = [f"Lamp {i} is lit." for i in range(6)]
    assert done.stdout.strip() == str(texts)
    store, fingerprint = SummaryStore.open(store_url), LLoCOCompress(tiny_model, store=store_url).fingerprint
    infos = store.info_many([store.key(fingerprint, text) for text in texts])
    assert [info and info.n_tokens for info in infos] == [len(text) for text in texts]


def parts(model: str, store: str) -> list[Any]:
    llm = LLoCOLLM(model, store=store, max_new_tokens=3, stop=["x"], adapters={"law": "some/place"}, context_window=500)
    return [
        llm,
        LLoCOPostprocessor(model, store=store, ratio=8, max_documents=1, on_miss="text"),
        LLoCOCompress(model, store=store, group_key="field"),
        LLoCOPromptHelper(llm, chunk_size_limit=90),
        LLoCONode(text="text", llm_text="<|lloco:" + "a" * 26 + "|>", metadata={"page": 1}),
    ]


@pytest.mark.parametrize("i", range(5), ids=["llm", "postprocessor", "compress", "prompt_helper", "node"])
def test_components_are_the_same_after_every_kind_of_copy(i: int, tiny_model: str, store_url: str) -> None:
    part = parts(tiny_model, store_url)[i]
    kind = type(part)
    dump = part.to_dict()
    assert dump["class_name"] == kind.class_name()
    assert json.loads(json.dumps(dump)) == dump
    for again in (
        kind.from_dict(copy.deepcopy(dump)),
        kind.from_json(part.to_json()),
        pickle.loads(pickle.dumps(part)),
        copy.copy(part),
        copy.deepcopy(part),
        part.model_copy(),
    ):
        assert type(again) is kind
        assert again.to_dict() == dump


def test_a_pickled_retriever_and_tokenizer_work_as_before(llm: LLoCOLLM, post: LLoCOPostprocessor, index: VectorStoreIndex) -> None:
    tokenizer = PositionTokenizer(llm)
    [node] = post.postprocess_nodes([NodeWithScore(node=TextNode(text="lamps " * 10))])
    shown = "word " + node.get_content(MetadataMode.LLM)
    for twin in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert twin(shown) == tokenizer(shown) == [0] * 20
        assert twin("word") == tokenizer("word") != [0] * 4
    retriever = LLoCORetriever(index.as_retriever(), postprocessor=post)
    for again in (pickle.loads(pickle.dumps(retriever)), copy.deepcopy(retriever)):
        assert again.retrieve(QUESTION) == retriever.retrieve(QUESTION)


def test_an_object_in_its_pickle_brings_no_weights(llm: LLoCOLLM, post: LLoCOPostprocessor, step: LLoCOCompress) -> None:
    for part in (llm, post, step):
        assert part.engine.model is not None
        assert len(pickle.dumps(part)) < 20_000
