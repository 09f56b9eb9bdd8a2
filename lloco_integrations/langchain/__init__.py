"""LLoCO in LangChain: models that read placeholders, and the retriever and compressor that make them out of documents."""

from __future__ import annotations

from lloco_integrations.errors import MissingExtra

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise MissingExtra('lloco_integrations.langchain needs langchain-core: pip install "lloco_integrations[langchain]"') from error

from lloco_integrations.langchain.chat import ChatLLoCO
from lloco_integrations.langchain.compressor import LLoCODocumentCompressor
from lloco_integrations.langchain.documents import original_text
from lloco_integrations.langchain.llm import LLoCOLLM
from lloco_integrations.langchain.retriever import LLoCORetriever

__all__ = ["ChatLLoCO", "LLoCODocumentCompressor", "LLoCOLLM", "LLoCORetriever", "original_text"]
