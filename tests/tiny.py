"""Tiny random models, built offline in a second: everything real but the weights."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lloco_integrations.compressors.mean_pool import RATIOS, MeanPoolEncoder, Projector
from lloco_integrations.fingerprint import fingerprint
from lloco_integrations.models.directory import Manifest, save_directory
from lloco_integrations.models.presets import CHATML
from lloco_integrations.types import CompressorSpec

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer(chat: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte; ids 0 to 2 are special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token="<|im_start|>")
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    made.chat_template = CHATML if chat else None
    return made


def decoder(hidden: int = 32, window: int = 4096, seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """A random Llama with grouped-query heads."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def save_mean_pool(
    directory: Path, *, window: int = 4096, seed: int = 0, segment_length: int = 128, chat: bool = True, hidden: int = 32
) -> Path:
    """A complete mean_pool model directory with random weights."""
    model = decoder(hidden, window=window, seed=seed)
    projector = Projector(model.config.hidden_size)
    torch.nn.init.normal_(projector.slots, std=0.1)
    projector.scale.fill_(0.2)
    spec = CompressorSpec(
        fingerprint=fingerprint(test=f"tiny {seed} {segment_length}"),
        kind="mean_pool",
        hidden_size=model.config.hidden_size,
        segment_length=segment_length,
        ratios=RATIOS,
    )
    encoder = MeanPoolEncoder(decoder(hidden, window=window, seed=seed + 1).base_model, projector)
    save_directory(directory, Manifest(spec, "tiny", bidirectional=True, chat=chat), encoder, model, tokenizer(chat))
    return directory
