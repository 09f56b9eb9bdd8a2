"""Held-out loss (nats a token of right answers) under trained weights, by what the decoder reads.

    LLOCO_DATA=../shared/data python -m benchmarks.held_out --weights FOLDER [FOLDER ...] --json OUT

The set and the choice of documents are those that the shipped weights' curve was watched on: every 8th document of squad_paragraph.dev
of up to 300 tokens, 30 of them, three questions each, the plain prompt.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from lloco_integrations.models.load import resolve_dtype
from lloco_integrations.prompting import Prompter
from lloco_integrations.training.base import load_base_model
from lloco_integrations.training.contexts import load_contexts
from lloco_integrations.training.data import Sampler
from lloco_integrations.training.export import start_from
from lloco_integrations.training.pretrain import held_out_batches, held_out_losses
from lloco_integrations.training.trainee import MeanPoolTrainee


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=30)
    args = parser.parse_args()
    device = torch.device("cpu")
    model, tokenizer = load_base_model("smollm2-135m", device, resolve_dtype("auto", device))
    prompter = Prompter(tokenizer, chat=True)
    folder = Path(os.environ.get("LLOCO_DATA", "../shared/data"))
    pair = tuple(folder / f"squad_paragraph.dev.{kind}.jsonl.gz" for kind in ("docs", "qa"))
    whole = load_contexts([pair], prompter.text_ids, 1 << 20)
    contexts = [c for c in whole if len(c.ids) <= 300][::8][: args.documents]
    layers = json.loads((args.weights[0] / "recipe.json").read_text())["encoder_layers"]
    trainee = MeanPoolTrainee(model, encoder_layers=layers)
    sampler = Sampler(contexts, prompter, lambda step: {4: 1.0}, end=2, rows=1)
    batches = held_out_batches(contexts, sampler, (2, 4, 8, 16, 32))
    losses = {}
    for weights in args.weights:
        start_from(trainee, weights)
        losses[weights.name] = held_out_losses(trainee.eval(), batches)
        print(weights.name, {k: round(v, 3) for k, v in losses[weights.name].items()}, flush=True)
    report = {"what": __doc__.splitlines()[0], "documents": len(contexts), **provenance(), "losses": losses}
    args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
