from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore

from lloco_integrations import placeholder
from lloco_integrations.engine import Engine
from lloco_integrations.llama_index import LLoCOCompress, LLoCOLLM, LLoCOPostprocessor
from lloco_integrations.models import LLoCOModel
from lloco_integrations.store import SummaryStore
from tests import tiny

from .conftest import TEXTS, HashEmbedding


@pytest.fixture
def step(tiny_model: str, store_url: str) -> LLoCOCompress:
    return LLoCOCompress(tiny_model, store=store_url)


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that the model compresses."""
    seen: list[str] = []
    original = LLoCOModel.compress

    def recording(self: LLoCOModel, texts: Any, **kwargs: Any) -> Any:
        seen.extend(texts)
        return original(self, texts, **kwargs)

    monkeypatch.setattr(LLoCOModel, "compress", recording)
    return seen


def documents() -> list[Document]:
    return [Document(text=t, id_=f"d{i}", metadata={"n": i}) for i, t in enumerate(TEXTS)]


def test_nodes_come_back_as_they_went_in(step: LLoCOCompress, nodes: list[TextNode], compressed: list[str]) -> None:
    before = [n.to_dict() for n in nodes]
    out = step(nodes)
    assert [n.to_dict() for n in out] == before
    assert compressed == TEXTS
    step([*nodes, TextNode(text=" ")])
    assert compressed == TEXTS


async def test_async_is_the_same(step: LLoCOCompress, nodes: list[TextNode], compressed: list[str]) -> None:
    assert await step.acall(nodes) == nodes
    assert compressed == TEXTS


def test_pipeline_to_query(
    step: LLoCOCompress, installed: LLoCOLLM, post: LLoCOPostprocessor, compressed: list[str], prompts: list[str]
) -> None:
    vectors = SimpleVectorStore()
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=200, chunk_overlap=0), step, HashEmbedding()],
        vector_store=vectors,
        docstore=SimpleDocumentStore(),
    )
    nodes = pipeline.run(documents=documents())
    assert [n.embedding for n in nodes] == [HashEmbedding()._embed(n.get_content(MetadataMode.EMBED)) for n in nodes]
    assert len(compressed) == 3
    post.on_miss = "raise"  # everything is there
    response = VectorStoreIndex(nodes).as_query_engine(node_postprocessors=[post]).query("lamps of Ilse")
    assert placeholder.count(prompts[0]) == 2
    assert {n.text for n in response.source_nodes} <= set(TEXTS)
    assert len(compressed) == 3


def test_cache(step: LLoCOCompress, tiny_model: str, tmp_path: Path, compressed: list[str], post: LLoCOPostprocessor) -> None:
    def run(with_step: LLoCOCompress) -> list[Any]:
        return list(IngestionPipeline(transformations=[with_step], cache=cache).run(documents=documents()))

    cache = IngestionCache()
    first = run(step)
    assert [n.get_content() for n in run(step)] == [n.get_content() for n in first]
    assert len(compressed) == 3
    assert len(cache.cache.get_all(cache.collection)) == 1, "the second run was a hit"

    elsewhere = LLoCOCompress(tiny_model, store=f"sqlite:///{tmp_path / 'other.sqlite'}")
    run(elsewhere)
    assert len(compressed) == 6, "another store is no hit"

    step.show_progress = True
    run(step)
    assert len(cache.cache.get_all(cache.collection)) == 2, "looks do not matter"

    other_model = str(tiny.save_mean_pool(tmp_path / "model", seed=7))
    step.model = other_model
    run(step)
    assert len(compressed) == 9, "another compressor is no hit"


def test_a_store_made_anew_at_the_same_place_is_no_hit(tiny_model: str, compressed: list[str]) -> None:
    cache = IngestionCache()
    for n in (3, 6):
        step = LLoCOCompress(tiny_model, store=SummaryStore.open("memory://"))
        IngestionPipeline(transformations=[step], cache=cache).run(documents=documents())
        assert len(compressed) == n


def test_deleted_entries_heal_on_retrieval(step: LLoCOCompress, post: LLoCOPostprocessor, compressed: list[str]) -> None:
    cache = IngestionCache()
    pipeline = IngestionPipeline(transformations=[step], cache=cache)
    pipeline.run(documents=documents())
    store = step.engine.store
    assert store.delete_many(list(store.keys())) == 3
    nodes = pipeline.run(documents=documents())
    assert not list(store.keys()), "this hit left the store empty"
    out = post.postprocess_nodes([NodeWithScore(node=n) for n in nodes])
    assert all(placeholder.count(n.get_content(MetadataMode.LLM)) == 1 for n in out)
    assert len(list(store.keys())) == 3
    store.delete_many(list(store.keys()))
    IngestionPipeline(transformations=[step], cache=cache, disable_cache=True).run(documents=documents())
    assert len(list(store.keys())) == 3


def test_persist_and_reload(step: LLoCOCompress, installed: LLoCOLLM, post: LLoCOPostprocessor, tmp_path: Path, prompts: list[str]) -> None:
    index = VectorStoreIndex.from_documents(documents(), transformations=[SentenceSplitter(chunk_size=200, chunk_overlap=0), step])
    index.storage_context.persist(str(tmp_path / "index"))
    again = load_index_from_storage(StorageContext.from_defaults(persist_dir=str(tmp_path / "index")))
    post.on_miss = "raise"
    first, second = (i.as_query_engine(node_postprocessors=[post]).query("Carrow") for i in (index, again))
    assert str(first) == str(second)
    assert prompts[0] == prompts[1]
    assert placeholder.count(prompts[0]) >= 2


def test_an_index_of_compressed_nodes_works_too(
    installed: LLoCOLLM, post: LLoCOPostprocessor, nodes: list[TextNode], prompts: list[str]
) -> None:
    compressed = [n.node for n in post.postprocess_nodes([NodeWithScore(node=n) for n in nodes])]
    VectorStoreIndex(compressed).as_query_engine(node_postprocessors=[post], similarity_top_k=3).query("lamps")
    assert placeholder.count(prompts[0]) == 3


def test_serialisation(step: LLoCOCompress) -> None:
    data = json.loads(step.to_json())
    assert data["fingerprint"] == step.engine.model.fingerprint
    assert data["class_name"] == "LLoCOCompress"
    for again in (LLoCOCompress.from_dict(data), pickle.loads(pickle.dumps(step))):
        assert again.to_dict() == step.to_dict()


def test_settings_transformations(step: LLoCOCompress, installed: LLoCOLLM, compressed: list[str]) -> None:
    Settings.transformations = [SentenceSplitter(chunk_size=200, chunk_overlap=0), step]
    VectorStoreIndex.from_documents(documents())
    assert len(compressed) == 3
    assert isinstance(step.engine, Engine)
