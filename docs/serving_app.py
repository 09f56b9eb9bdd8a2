"""A small application: a handbook and a report, each with its own adapter, and questions about them.

    python docs/serving_app.py                                  # the decoder in this process
    python docs/serving_app.py --backend vllm                   # on a server that lloco serve has started
    python docs/serving_app.py --backend vllm-offline           # through vLLM in this process

Nothing else changes between the three.
"""

from __future__ import annotations

import argparse

from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import TextNode

from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, install

TEXTS = {
    "handbook": "Leave is approved by the head of the department. A request goes in two weeks before, on the green form, to room 12.",
    "report": "In 1911 the observatory lit its first electric lamp. The dome was painted blue in the spring, at the expense of the town.",
}
QUESTIONS = ("Who approves leave?", "When was the first lamp lit?", "What colour is the dome?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="transformers", choices=("transformers", "vllm", "vllm-offline"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--store", default=None)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--adapter", action="append", default=[], help="NAME=PLACE; NAME is handbook or report")
    parser.add_argument("--base-url", default=None, help="of the server; else http://localhost:8000")
    args = parser.parse_args()

    names = {"model": args.model, "store": args.store, "dtype": args.dtype, "backend": args.backend, "base_url": args.base_url}
    adapters = dict(one.split("=", 1) for one in args.adapter)
    from llama_index.core import Settings

    llm = install(Settings, LLoCOLLM(**names, adapters=adapters, max_new_tokens=12))
    nodes = [TextNode(id_=group, text=text, metadata={"group": group}) for group, text in TEXTS.items()]
    index = VectorStoreIndex(nodes, embed_model=MockEmbedding(embed_dim=8))
    engine = index.as_query_engine(llm=llm, similarity_top_k=2, node_postprocessors=[LLoCOPostprocessor(**names, ratio=4)])
    for question in QUESTIONS:
        print(f"{question} {engine.query(question)}")


if __name__ == "__main__":
    main()
