"""``lloco compress`` over real documents, killed with SIGKILL at random moments: is each document stored exactly once in the end?

    python benchmarks/kill_test.py --model smollm2-135m --kills 10

Reads 2,000 documents of squadshifts_amazon.train.docs.jsonl.gz from the folder in LLOCO_DATA (default: ../shared/data beside the
checkout). Exits with 1 if anything is lost, doubled or damaged.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from lloco_integrations.cli.catalogue import Catalogue
from lloco_integrations.errors import StoreError
from lloco_integrations.store import SummaryStore

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LLOCO_DATA", ROOT.parent / "shared" / "data"))
NAME = "squadshifts_amazon.train.docs.jsonl.gz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="preset, directory or hub id")
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the store is made; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return run(given, given.folder or Path(temporary))


def run(given: argparse.Namespace, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    documents, url = folder / "docs.jsonl", f"sqlite:///{(folder / 'store.sqlite').absolute()}"
    with gzip.open(DATA / NAME, "rt", encoding="utf-8") as lines:
        documents.write_text("".join(itertools.islice(lines, given.documents)), encoding="utf-8")
    lloco = [sys.executable, "-m", "lloco_integrations.cli"]
    # Passages as long as the longest document: one passage a document, so documents can be counted.
    compress = [*lloco, "compress", str(documents), "--store", url, "--model", given.model, "--chunk-size", "2048"]
    chance, known = random.Random(given.seed), set[str]()
    for number in range(1, given.kills + 1):
        process = subprocess.Popen(compress, stdout=subprocess.DEVNULL)
        wait_until_something_was_stored(process, url, len(known), first=number == 1)
        time.sleep(chance.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        status = process.wait()
        now = keys(url)
        print(f"kill {number}: status {status}, {len(now):,} of {given.documents:,} stored, {len(known - now)} lost", flush=True)
        if known - now or status not in (0, -signal.SIGKILL):
            return 1
        known = now
    subprocess.run(compress, check=True)
    with Catalogue.open(url, create=False) as catalogue:
        passages = catalogue.passages()
    texts, stored = {p.text for p in passages}, keys(url)
    print(f"{len(passages):,} passages of {len({p.place for p in passages}):,} documents, {len(texts):,} texts, {len(stored):,} stored")
    sound = subprocess.run([*lloco, "store", "verify", "--store", url]).returncode == 0
    ids = [json.loads(line)["doc_id"] for line in documents.read_text(encoding="utf-8").splitlines()]
    complete = [p.place for p in passages] == ids and len(texts) == len(stored) and known <= stored
    print("passed" if sound and complete else "FAILED")
    return 0 if sound and complete else 1


def wait_until_something_was_stored(process: subprocess.Popen[bytes], url: str, before: int, *, first: bool) -> None:
    """The first one may die at any time, while it loads or reads; the others only once they have added something."""
    while not first and process.poll() is None and len(keys(url)) <= before:
        time.sleep(0.05)


def keys(url: str) -> set[str]:
    with suppress(StoreError), SummaryStore.open(url, create=False) as store:
        return set(store.keys())
    return set()


if __name__ == "__main__":
    sys.exit(main())
