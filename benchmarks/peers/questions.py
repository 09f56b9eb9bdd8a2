"""Questions and their documents for a peer: those that ``lloco eval`` asks with the same files, limit and seed.

    python -m benchmarks.peers.questions --docs NAME.docs.jsonl.gz --qa NAME.qa.jsonl.gz --limit 100 --seed 0 --out questions.jsonl

Writes lines {"id", "context", "question"}. Several pairs of files are one set of questions, as in ``lloco eval``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lloco_integrations.errors import BadInput
from lloco_integrations.evaluation.cases import load_cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, action="append", required=True, help="documents; may be repeated, one --qa for each")
    parser.add_argument("--qa", type=Path, action="append", required=True, help="questions about them")
    parser.add_argument("--limit", type=int, help="questions, spread over the documents; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        cases = load_cases(args.docs, args.qa, limit=args.limit, seed=args.seed)
    except BadInput as error:
        raise SystemExit(str(error)) from error
    rows = [{"id": q.id, "context": case.document.text, "question": q.question} for case in cases for q in case.questions]
    args.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} questions about {len(cases)} documents in {args.out}")


if __name__ == "__main__":
    main()
