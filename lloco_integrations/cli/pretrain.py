"""``lloco pretrain``: train a compressor and the decoder's reading of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_DATA = (
    "squadshifts_amazon.train",
    "squadshifts_reddit.train",
    "quoref.dev",
    "nq_oracle.dev",
    "narrativeqa_summary.test",
)


def command(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, loss curves and, in weights/, the result.")],
    data: Annotated[
        list[str] | None, typer.Option(help="NAME for NAME.docs.jsonl.gz and NAME.qa.jsonl.gz in --data-dir; may be repeated.")
    ] = None,
    held_out: Annotated[str, typer.Option(help="Set whose answers' loss is watched, never trained on.")] = "squad_paragraph.dev",
    data_dir: Annotated[Path, typer.Option(envvar="LLOCO_DATA", help="Folder with the data sets.")] = Path("../shared/data"),
    base: Annotated[str, typer.Option(help="A preset, or a directory with a causal LM and its tokenizer.")] = "smollm2-135m",
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    rows: Annotated[int, typer.Option(min=1, help="Documents in a batch.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate of the LoRAs.")] = 8e-4,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank on both sides.")] = 16,
    encoder_layers: Annotated[int, typer.Option(min=1, help="Layers of the base that the encoder keeps.")] = 12,
    causal: Annotated[bool, typer.Option("--causal", help="Causal mask in the encoder in place of the bidirectional one.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Longer documents are left out.")] = 800,
    held_out_documents: Annotated[int, typer.Option(min=1)] = 30,
    evaluate_every: Annotated[int, typer.Option(min=1)] = 50,
    save_every: Annotated[int, typer.Option(min=1)] = 50,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Train encoder LoRA, projector and decoder LoRA; goes on from --out if it holds a checkpoint."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from lloco_integrations.models.load import resolve_device, resolve_dtype
    from lloco_integrations.prompting import Prompter
    from lloco_integrations.training.base import load_base_model
    from lloco_integrations.training.data import Sampler, load_contexts
    from lloco_integrations.training.export import copy_record, export
    from lloco_integrations.training.objectives import LoraSettings, Trainee
    from lloco_integrations.training.pretrain import PretrainConfig, held_out_batches, held_out_losses, pretrain

    where = resolve_device(device)
    model, tokenizer = load_base_model(base, where, resolve_dtype(dtype, where))
    prompter = Prompter(tokenizer, chat=tokenizer.chat_template is not None)

    def pair(name: str) -> tuple[Path, Path]:
        return data_dir / f"{name}.docs.jsonl.gz", data_dir / f"{name}.qa.jsonl.gz"

    contexts = load_contexts([pair(n) for n in data or DEFAULT_DATA], prompter.text_ids, max_tokens)
    unseen = load_contexts([pair(held_out)], prompter.text_ids, 300)
    unseen = unseen[:: max(1, len(unseen) // held_out_documents)][:held_out_documents]
    config = PretrainConfig(
        steps=steps, rows=rows, lr=lr, rank=rank, alpha=2 * rank, encoder_layers=encoder_layers, bidirectional=not causal, seed=seed
    )
    torch.manual_seed(seed)
    trainee = Trainee(model, encoder_layers=encoder_layers, bidirectional=not causal, lora=LoraSettings(rank, 2 * rank)).to(where)
    trainee.centre_on(contexts)
    end = model.config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    sampler = Sampler(contexts, prompter, config.ratios, end, rows=rows, questions=config.questions, seed=seed, mix=config.mix)
    watched = held_out_batches(unseen, sampler, (2, 4, 8, 16))
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=steps, now="")

        def show(step: int, row: dict[str, float]) -> None:
            bar.update(task, completed=step, now=f"ratio {row['ratio']:.0f}  loss {row['loss']:.3f}")

        pretrain(
            trainee,
            sampler,
            config,
            out,
            save_every=save_every,
            evaluate=lambda t: held_out_losses(t, watched),
            evaluate_every=evaluate_every,
            progress=show,
        )
    recipe: dict[str, Any] = {
        "base": base,
        "encoder_layers": encoder_layers,
        "bidirectional": not causal,
        "segment_length": trainee.segment_length,
        "ratios": [2, 4, 8, 16, 32],
        "steps": steps,
        "data": list(data or DEFAULT_DATA),
    }
    weights = export(trainee, out / "weights", recipe, base)
    copy_record(out, weights)
    typer.echo(f"weights, recipe and loss curves are in {weights}")
