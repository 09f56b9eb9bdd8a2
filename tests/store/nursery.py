"""Imports torch once, then forks a writer for every line of JSON on its standard input: cheap processes to kill.

{"url", "name", "ack", "count", "go"}: opens the store once the file "go" exists, puts one text after another (forever
if count is 0), and appends every key to the file "ack" once it was acknowledged. {"wait": pid} prints its exit status.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import traceback
from typing import Any

import safetensors.torch  # noqa: F401
import torch

from lloco_integrations.store import SummaryStore
from lloco_integrations.types import SummaryEmbeddings


def write(order: dict[str, Any]) -> None:
    while not os.path.exists(order["go"]):
        time.sleep(0.001)
    store = SummaryStore.open(order["url"])
    ack = os.open(order["ack"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for n in itertools.count() if order["count"] == 0 else range(order["count"]):
        vectors = torch.full((4, 1000), float(n))
        items = [
            (f"{order['name']} {n}", SummaryEmbeddings(vectors, 16, "fp")),
            (f"shared {n}", SummaryEmbeddings(vectors, 16, "fp")),
        ]
        for key in store.put_many(items):
            os.write(ack, f"{key} {n}\n".encode())


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                code = 1
                try:
                    write(order)
                    code = 0
                finally:
                    if code:
                        traceback.print_exc()
                    os._exit(code)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
