"""What importing the package needs and does, seen from a process of its own."""

from __future__ import annotations

import subprocess
import sys

MISSING = """
import sys
sys.modules["langchain_core"] = None
import lloco_integrations
from lloco_integrations.errors import LLoCOError
try:
    import lloco_integrations.langchain
except ImportError as error:
    assert isinstance(error, LLoCOError)
    print(error)
"""

CLASSES = """
import sys
from lloco_integrations.langchain import ChatLLoCO, LLoCODocumentCompressor, LLoCOLLM, LLoCORetriever
ChatLLoCO(), LLoCOLLM(), LLoCODocumentCompressor()
print(sorted({name.partition(".")[0] for name in sys.modules} & {"langchain", "langchain_classic", "langchain_community", "llama_index"}))
print("lloco_integrations.models" in sys.modules)
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_without_langchain_the_error_says_what_to_install() -> None:
    assert 'pip install "lloco_integrations[langchain]"' in run(MISSING)


def test_making_the_classes_loads_no_model_and_no_other_framework() -> None:
    assert run(CLASSES).splitlines() == ["[]", "False"]
