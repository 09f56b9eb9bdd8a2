from __future__ import annotations

import subprocess
import sys

ABSENT = """
import sys
sys.modules["llama_index"] = None
sys.modules["llama_index.core"] = None
import lloco_integrations
try:
    import lloco_integrations.llama_index
except ImportError as error:
    print(type(error).__name__, error)
"""


def test_without_llama_index_it_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", ABSENT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'MissingExtra LlamaIndex is not installed: pip install "lloco_integrations[llama-index]"'


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, lloco_integrations.llama_index as l; l.LLoCOLLM(); l.LLoCOPostprocessor(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
