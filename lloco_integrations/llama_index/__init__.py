"""LLoCO for LlamaIndex: an LLM that reads placeholders, and the parts that put them into prompts.

For example::

    from llama_index.core import Settings, VectorStoreIndex
    from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, install

    install(Settings, LLoCOLLM())
    engine = index.as_query_engine(node_postprocessors=[LLoCOPostprocessor(ratio=16)])
"""

from __future__ import annotations

from lloco_integrations.errors import MissingExtra

try:
    from lloco_integrations.llama_index.folder import read_folder
    from lloco_integrations.llama_index.ingestion import LLoCOCompress
    from lloco_integrations.llama_index.llm import LLoCOLLM
    from lloco_integrations.llama_index.node import LLoCONode
    from lloco_integrations.llama_index.postprocessor import LLoCOPostprocessor
    from lloco_integrations.llama_index.prompt_helper import LLoCOPromptHelper
    from lloco_integrations.llama_index.retriever import LLoCORetriever
    from lloco_integrations.llama_index.settings import PositionTokenizer, install
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "llama_index":
        raise
    raise MissingExtra('LlamaIndex is not installed: pip install "lloco_integrations[llama-index]"') from error

__all__ = [
    "LLoCOCompress",
    "LLoCOLLM",
    "LLoCONode",
    "LLoCOPostprocessor",
    "LLoCOPromptHelper",
    "LLoCORetriever",
    "PositionTokenizer",
    "install",
    "read_folder",
]
