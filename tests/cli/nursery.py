"""Imports everything once, then forks a ``lloco`` for every line of JSON (its words) on its standard input: cheap ones to kill.

Answers with the child's process id. {"wait": pid} is answered with its exit status.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

import torch
from llama_index.core.node_parser import SentenceSplitter

import lloco_integrations.backends.transformers
import lloco_integrations.models.load
import lloco_integrations.store.codec  # noqa: F401
from lloco_integrations.cli import app


def run(words: list[str]) -> int:
    out = os.open(os.devnull, os.O_WRONLY)
    os.dup2(out, 1)
    try:
        app(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    return 1


def main() -> None:
    torch.set_num_threads(1)
    SentenceSplitter(chunk_size=64, chunk_overlap=0).split_text("One sentence. Another one.")
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, dict):
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                os._exit(run(order))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
