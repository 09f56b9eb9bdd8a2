"""What compressing very many documents takes: bytes, hours, and how often a document must be asked about before it pays.

    python -m benchmarks.scale --json benchmarks/results/scale.json   # measures on the example corpus, a few minutes; then docs/scale.md
    python -m benchmarks.scale --render                               # the tables of docs/scale.md again, from the JSONs
    python -m benchmarks.scale --device cuda --json mine.json         # the speed of another machine; docs/scale.md stays as it is

Speed and sizes are measured; everything about 10^6 to 10^9 documents is computed from them (``benchmarks.scale_plan``), under the assumptions
that the page states. Seconds a question are those of the committed scorecards.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.provenance import provenance
from benchmarks.scale_plan import cards, demo, tables
from benchmarks.tables import fill
from lloco_integrations.evaluation.report import write
from lloco_integrations.reading import CHUNK_OVERLAP, CHUNK_SIZE

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "scale.json"
PAGE = ROOT / "docs" / "scale.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--documents", type=int, help="only the first so many of the example corpus, to see that it runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="of --engine ray; none leaves Ray out")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the tables from the JSONs")
    args = parser.parse_args()
    if not args.render:
        report = measure(args.model, args.device, args.documents, args.repeats, args.workers)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        write(report, args.json)
    if args.json.resolve() == RESULT:
        for name, lines in tables(json.loads(RESULT.read_text()), cards(), demo()).items():
            fill(PAGE, name, "\n".join(lines))


def measure(name: str, device: str, documents: int | None, repeats: int, workers: Sequence[int]) -> dict[str, Any]:
    """Tokens a second of the compressor alone, with the store, and over Ray; bytes of both kinds of store."""
    import torch

    from lloco_integrations.examples import load_documents
    from lloco_integrations.models import load_model
    from lloco_integrations.reading import Splitting

    model = load_model(name, device=device)
    docs = [d.text for d in load_documents()[:documents]]
    splitter = Splitting(CHUNK_SIZE, CHUNK_OVERLAP).splitter()
    texts = list(dict.fromkeys(text for doc in docs for text in splitter.split_text(doc)))
    tokens = sum(len(model.text_ids(text)) for text in texts)
    weights = next(model.decoder.parameters())
    model.compress(texts[:8])  # the first pass is slower than those after it
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        summaries = model.compress(texts)
        seconds.append(time.perf_counter() - began)
        print(f"compressor alone: {tokens:,} tokens in {seconds[-1]:.1f} s", flush=True)
    report: dict[str, Any] = {
        "what": str(__doc__).splitlines()[0],
        **provenance(),
        "model": name,
        "fingerprint": model.fingerprint,
        "device": f"{weights.device.type} ({torch.get_num_threads()} threads), {str(weights.dtype).removeprefix('torch.')}",
        "spec": {
            "hidden_size": int(summaries[0].vectors.shape[1]),
            "tokens_a_vector": model.spec.ratios[0],
            "element_bytes": summaries[0].vectors.element_size(),
        },
        "corpus": {
            "documents": len(docs),
            "passages": len(texts),
            "chunk_size": CHUNK_SIZE,
            "chunk_overlap": CHUNK_OVERLAP,
            "document_tokens": sum(len(model.text_ids(doc)) for doc in docs),
            "document_bytes": sum(len(doc.encode()) for doc in docs),
            "passage_tokens": tokens,
        },
        "seconds": {"compressor": seconds},
        "stores": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for storage in ("exact", "int8"):
            began = time.perf_counter()
            report["stores"][storage] = stored(Path(folder) / f"{storage}.sqlite", storage, list(zip(texts, summaries, strict=True)))
            report["seconds"][f"{storage} store"] = time.perf_counter() - began
        for n in workers:
            report["seconds"][f"ray, workers {n}"] = over_ray(Path(folder) / f"ray{n}.sqlite", texts, name, device, n)
            print(f"ray, workers {n}: {report['seconds'][f'ray, workers {n}']}", flush=True)
    return report


def stored(path: Path, storage: str, items: Sequence[tuple[str, Any]]) -> dict[str, int]:
    """Entries, vectors and bytes of a new store that holds ``items``."""
    from lloco_integrations.store import SummaryStore

    with SummaryStore.open(path, storage=storage) as store:
        store.put_many(items)
        stats = store.stats()
    on_disk = sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
    return {
        "entries": stats.entries,
        "vectors": stats.vectors,
        "tokens": stats.source_tokens,
        "value_bytes": stats.nbytes,
        "file_bytes": on_disk,
    }


def over_ray(path: Path, texts: Sequence[str], model: str, device: str, workers: int) -> dict[str, float]:
    """Seconds in all, with starting Ray and loading the model, and until the first batch was stored."""
    from lloco_integrations.distributed import compress_on_ray
    from lloco_integrations.store import SummaryStore

    began, told = time.perf_counter(), []
    with SummaryStore.open(path) as store:
        compress_on_ray(
            texts, store, model=model, device=device, workers=workers, progress=lambda *_: told.append(time.perf_counter() - began)
        )
    return {"all": time.perf_counter() - began, "first_batch": told[0]}


if __name__ == "__main__":
    main()
