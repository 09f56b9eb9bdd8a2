"""``lloco pretrain``: train a compressor and the decoder's reading of it."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lloco_integrations.errors import BadInput

if TYPE_CHECKING:
    from lloco_integrations.training.trainee import Trainee

DEFAULT_DATA = (
    "squadshifts_amazon.train",
    "squadshifts_reddit.train",
    "quoref.dev",
    "nq_oracle.dev",
    "narrativeqa_summary.test",
    "fairytaleqa.train",
    "policyqa.test",
    "timeqa_human.train",
    "covidqa.all",
    "friendsqa.test",
)
FOLLOW_TOKENS = 64


class CompressorKind(StrEnum):
    mean_pool = "mean_pool"
    summary_tokens = "summary_tokens"


class Reads(StrEnum):
    summary = "summary"
    raw = "raw"
    none = "none"


class EncoderTraining(StrEnum):
    lora = "lora"
    full = "full"
    frozen = "frozen"


def command(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, loss curves and, in weights/ and model/, the result.")],
    data: Annotated[
        list[str] | None, typer.Option(help="NAME for NAME.docs.jsonl.gz and NAME.qa.jsonl.gz in --data-dir; may be repeated.")
    ] = None,
    held_out: Annotated[str, typer.Option(help="Set whose answers' loss is watched, never trained on.")] = "squad_paragraph.dev",
    data_dir: Annotated[Path, typer.Option(envvar="LLOCO_DATA", help="Folder with the data sets.")] = Path("../shared/data"),
    base: Annotated[str, typer.Option(help="A preset, or a directory with a causal LM and its tokenizer.")] = "smollm2-135m",
    compressor: Annotated[
        CompressorKind, typer.Option(help="mean_pool, or summary_tokens as AutoCompressors have.")
    ] = CompressorKind.mean_pool,
    reads: Annotated[
        Reads, typer.Option(help="What the decoder learns to read; raw and none make the scorecard's rivals.")
    ] = Reads.summary,
    start_from: Annotated[
        Path | None,
        typer.Option(help="Begin with these weights (a weights/ folder, or a LoRA for raw and none); --rank may be higher than theirs."),
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="LoRA of a decoder that reads text, to be imitated.")] = None,
    teacher_weight: Annotated[float, typer.Option(help="Share of the loss that is the divergence from the teacher.")] = 0.5,
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    rows: Annotated[int, typer.Option(min=1, help="Documents in a batch.")] = 5,
    questions: Annotated[int, typer.Option(min=1, help="Questions about a document in a batch, at most.")] = 4,
    positions: Annotated[int, typer.Option(min=64, help="Decoder positions in a batch, about; more need more memory.")] = 3072,
    lr: Annotated[float, typer.Option(help="Learning rate of the LoRAs.")] = 8e-4,
    warmup: Annotated[int, typer.Option(min=1)] = 40,
    decay: Annotated[float, typer.Option(min=0, max=1, help="Share of the steps over which the learning rate falls, at the end.")] = 0.3,
    rank: Annotated[int, typer.Option(min=1, help="LoRA rank on both sides.")] = 16,
    encoder_layers: Annotated[int, typer.Option(min=1, help="Layers of the base that the encoder keeps.")] = 12,
    encoder_training: Annotated[
        EncoderTraining, typer.Option(help="Train a LoRA of the encoder, all its weights, or none.")
    ] = EncoderTraining.lora,
    causal: Annotated[bool, typer.Option("--causal", help="Causal mask in the encoder in place of the bidirectional one.")] = False,
    slots: Annotated[int, typer.Option(min=1, help="Places in a window that have a matrix of their own.")] = 4,
    salience: Annotated[
        bool, typer.Option("--salience", help="Learn which tokens count for more in a mean; at the start, rare ones.")
    ] = False,
    segment_length: Annotated[int, typer.Option(min=8, help="Tokens that are encoded together.")] = 512,
    summary_length: Annotated[int, typer.Option(min=1, help="Summary tokens of a segment, for summary_tokens.")] = 16,
    ratio_mix: Annotated[
        str, typer.Option(help="Weights of the ratios, such as 4:0.5,8:0.5; by default they get coarser as it goes.")
    ] = "",
    uniform: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of batches whose documents have one form each; the others are prompts as focus makes them."),
    ] = 0.2,
    quotes: Annotated[int, typer.Option(min=0, help="Quotes that are asked for, a document.")] = 2,
    quote_tokens: Annotated[int, typer.Option(min=1)] = 48,
    texts: Annotated[list[str] | None, typer.Option(help="Plain texts, NAME for NAME.docs.jsonl.gz; may be repeated.")] = None,
    text_steps: Annotated[int, typer.Option(min=0, help="Steps at the start that repeat and continue plain text.")] = 0,
    text_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the later steps that do so, too.")] = 0.0,
    text_pieces: Annotated[int, typer.Option(min=1, help="Pieces of plain text to draw from.")] = 20_000,
    max_tokens: Annotated[int, typer.Option(min=32, help="Longer documents are cut into pieces of this.")] = 800,
    held_out_documents: Annotated[int, typer.Option(min=1)] = 30,
    evaluate_every: Annotated[int, typer.Option(min=1)] = 50,
    save_every: Annotated[int, typer.Option(min=1)] = 50,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare batches; some 8 for a GPU.")] = 0,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, or auto: the faster one, which is tried.")] = "auto",
) -> None:
    """Train encoder LoRA, projector and decoder LoRA; goes on from --out if it holds a checkpoint.

    On several GPUs or processes: accelerate launch -m lloco_integrations.cli pretrain ...
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    from lloco_integrations.cli.screen import LongWork
    from lloco_integrations.models.load import resolve_device
    from lloco_integrations.prompting import Prompter
    from lloco_integrations.training import export, trainee
    from lloco_integrations.training.base import load_base_model, training_dtype
    from lloco_integrations.training.contexts import load_contexts, load_texts
    from lloco_integrations.training.data import NO_CONTEXT, RAW_ONLY, Mix, Sampler
    from lloco_integrations.training.focused import FocusMix, FocusSampler, held_out_focus
    from lloco_integrations.training.pretrain import PretrainConfig, held_out_batches, held_out_losses, pretrain

    where = resolve_device(device)
    team = Accelerator(cpu=where.type == "cpu")
    [kind] = broadcast_object_list([training_dtype(dtype, where)])
    where = team.device if where.type == "cuda" else where
    model, tokenizer = load_base_model(base, where, kind)
    by_tokens = compressor is CompressorKind.summary_tokens
    prompter = Prompter(
        tokenizer, chat=tokenizer.chat_template is not None and not by_tokens, placement="prefix" if by_tokens else "inline"
    )

    def pair(name: str) -> tuple[Path, Path]:
        return data_dir / f"{name}.docs.jsonl.gz", data_dir / f"{name}.qa.jsonl.gz"

    contexts = load_contexts([pair(n) for n in data or DEFAULT_DATA], prompter.text_ids, max_tokens)
    unseen = load_contexts([pair(held_out)], prompter.text_ids, 300)
    unseen = unseen[:: max(1, len(unseen) // held_out_documents)][:held_out_documents]
    pieces = load_texts(
        [pair(n)[0] for n in texts or ()],
        prompter.text_ids,
        min(256, max_tokens),
        FOLLOW_TOKENS,
        text_pieces if text_steps or text_share else 0,
        seed,
    )
    mix = {Reads.summary: Mix(quotes=quotes, quote_tokens=quote_tokens), Reads.raw: RAW_ONLY, Reads.none: NO_CONTEXT}[reads]
    config = PretrainConfig(
        steps=steps,
        rows=rows,
        questions=questions,
        lr=lr,
        warmup=warmup,
        decay=decay,
        seed=seed,
        text_steps=text_steps,
        text_share=text_share,
        mix=mix,
    )
    ratios: tuple[int, ...] = (2, 4, 8, 16, 32)
    torch.manual_seed(seed)
    lora = trainee.LoraSettings(rank, 2 * rank)
    learner: Trainee
    if by_tokens:
        learner = trainee.SummaryTokenTrainee(model, summary_length=summary_length, segment_length=segment_length, lora=lora)
        ratios = (max(1, segment_length // summary_length),)
        config = replace(config, curriculum=((1.0, {ratios[0]: 1.0}),))
    else:
        learner = trainee.MeanPoolTrainee(
            model,
            encoder_layers=encoder_layers,
            bidirectional=not causal,
            lora=lora,
            encoder_training=encoder_training.value,
            slots=slots,
            salience=salience,
            segment_length=segment_length,
        )
        learner.centre_on(contexts)
        if ratio_mix:
            config = replace(config, curriculum=((1.0, _parsed(ratio_mix, ratios)),))
    learner = learner.to(where)
    if start_from is not None:
        export.start_from(learner, start_from)
    if isinstance(learner, trainee.MeanPoolTrainee) and learner.begins_salience:
        learner.weigh_by_rarity(contexts)
    if reads is not Reads.summary:
        learner.train_decoder_alone()
    if teacher is not None:
        learner.learn_from(teacher, teacher_weight)
    end = model.config.eos_token_id
    focuses = reads is Reads.summary and not by_tokens and uniform < 1
    make_sampler: Any = partial(FocusSampler, focus=FocusMix(uniform=uniform)) if focuses else Sampler
    sampler = make_sampler(
        contexts,
        prompter,
        config.ratios,
        end[0] if isinstance(end, list) else end,
        rows=rows,
        questions=questions,
        positions=positions,
        seed=seed,
        mix=mix,
        texts=pieces,
        text_steps=text_steps,
        text_share=text_share,
    )
    watched = held_out_batches(unseen, sampler, ratios[:4] if reads is Reads.summary else ())
    if focuses:
        watched |= held_out_focus(unseen, sampler)
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[now]}"))
    with LongWork(*columns, quiet=not team.is_main_process) as bar:
        task = bar.add_task("training", total=steps, now="")
        pretrain(
            learner,
            sampler,
            config,
            out,
            accelerator=team,
            workers=workers,
            save_every=save_every,
            evaluate=lambda t: held_out_losses(t, watched),
            evaluate_every=evaluate_every,
            progress=lambda done, row: bar.update(task, completed=done, now=f"ratio {row['ratio']:.0f}  loss {row['loss']:.3f}"),
        )
    if not team.is_main_process:
        return
    recipe = {
        "kind": compressor.value,
        "reads": reads.value,
        "base": base,
        "rank": rank,
        "slots": slots,
        "salience": salience,
        "uniform": uniform,
        "summary_length": summary_length if by_tokens else None,
        "max_tokens": max_tokens,
        "seed": seed,
        "encoder_layers": encoder_layers,
        "encoder_training": encoder_training.value,
        "bidirectional": not causal,
        "segment_length": segment_length,
        "ratios": list(ratios),
        "steps": steps,
        "start_from": str(start_from) if start_from else None,
        "teacher_weight": teacher_weight if teacher else 0.0,
        "data": list(data or DEFAULT_DATA),
        "texts": list(texts or ()),
    }
    made = _write(learner, out, recipe, base, tokenizer, kind)
    typer.echo(f"the result is in {made}, the loss curves in {out}")


def _write(learner: Trainee, out: Path, recipe: dict[str, Any], base: str, tokenizer: Any, dtype: Any) -> Path:
    """The trained weights, and the model directory they make where they make one; returns what to load."""
    import json

    import torch

    from lloco_integrations.models.merge import merge
    from lloco_integrations.training import export
    from lloco_integrations.training.base import load_base_model
    from lloco_integrations.training.plot import plot
    from lloco_integrations.training.trainee import MeanPoolTrainee, SummaryTokenTrainee

    try:
        plot(out, out / "curves.png")
    except ImportError:
        typer.echo("no picture of the loss curves: pip install matplotlib", err=True)
    if recipe["reads"] != Reads.summary:
        weights = export.export_adapter(learner, out / "weights", base)
        (weights / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
    elif isinstance(learner, SummaryTokenTrainee):
        weights = export.export_autocompressor(learner, out / "model", tokenizer)
    else:
        assert isinstance(learner, MeanPoolTrainee)
        weights = export.export(learner, out / "weights", recipe, base)
        fresh, _ = load_base_model(base, torch.device("cpu"), torch.float32)
        merge(fresh, tokenizer, weights, out / "model", name=out.name, dtype=dtype)
        export.copy_record(out, weights)
        return out / "model"
    export.copy_record(out, weights)
    return weights


def _parsed(ratio_mix: str, known: tuple[int, ...]) -> dict[int, float]:
    try:
        weights = {int(r): float(w) for r, w in (part.split(":") for part in ratio_mix.split(","))}
    except ValueError:
        raise BadInput(f"--ratio-mix {ratio_mix!r} cannot be read; write it like 4:0.5,8:0.5") from None
    if not set(weights) <= {1, *known} or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise BadInput(f"--ratio-mix {ratio_mix!r}: give ratios of {(1, *known)} weights that are not negative and not all 0")
    return weights
