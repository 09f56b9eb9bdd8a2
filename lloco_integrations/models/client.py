"""A model whose decoder runs elsewhere: tokenizer, token embeddings and what reads summaries; the encoder only if something is compressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lloco_integrations.backends.base import Backend
from lloco_integrations.backends.rows import PromptRows, read_embeddings
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.backends.stopping import text_of
from lloco_integrations.compressors.base import Compressor, Progress
from lloco_integrations.errors import ModelNotFound
from lloco_integrations.locks import ForkLock
from lloco_integrations.models.directory import MANIFEST, load_compressor, read_manifest, read_projector, read_tokenizer
from lloco_integrations.models.model import LLoCOModel
from lloco_integrations.prompting import Prompter
from lloco_integrations.types import CompressorSpec, SummaryEmbeddings
from lloco_integrations.undisturbed import undisturbed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Read = Callable[[SummaryEmbeddings, int | None], torch.Tensor]


class DeferredCompressor(Compressor):
    """Reads summaries at once, and loads what makes them when it is first wanted.

    Args:
        spec: of the compressor.
        read: as Compressor.read.
        load: gives the whole compressor.
    """

    def __init__(self, spec: CompressorSpec, read: Read, load: Callable[[], Compressor]) -> None:
        self.spec = spec
        self._read = read
        self._load = load
        self._loaded: Compressor | None = None
        self._lock = ForkLock(wait=False)

    @property
    def loaded(self) -> bool:
        return self._loaded is not None

    def compress_ids(
        self,
        documents: Sequence[Sequence[int]],
        *,
        batch_size: int | None = None,
        segment_length: int | None = None,
        progress: Progress | None = None,
    ) -> list[SummaryEmbeddings]:
        with self._lock:
            if self._loaded is None:
                with undisturbed(inference=False):
                    self._loaded = self._load()
        return self._loaded.compress_ids(documents, batch_size=batch_size, segment_length=segment_length, progress=progress)

    def read(self, summary: SummaryEmbeddings, ratio: int | None = None) -> torch.Tensor:
        return self._read(summary, ratio)


def load_client(
    name: str, directory: Path, device: torch.device, dtype: torch.dtype, wire: torch.dtype | None, runtime: Runtime
) -> LLoCOModel:
    """A model directory, or an AutoCompressor checkpoint, for a decoder that ``runtime`` runs.

    Args:
        device, dtype: of the encoder, should it be loaded; dtype is vllm-offline's, too.
        wire: dtype in which prompts are sent to a server; None is that of the saved token embeddings.

    Raises ModelNotFound for incomplete files.
    """
    if runtime.backend == "vllm-offline":
        wire = dtype
    if (directory / MANIFEST).is_file():
        return _mean_pool(name, directory, device, dtype, wire, runtime)
    return _autocompressor(name, directory, device, dtype, wire, runtime)


def _mean_pool(
    name: str, directory: Path, device: torch.device, dtype: torch.dtype, wire: torch.dtype | None, runtime: Runtime
) -> LLoCOModel:
    from lloco_integrations.compressors.mean_pool import read_means

    manifest = read_manifest(directory)
    projector = read_projector(directory)
    compressor = DeferredCompressor(
        manifest.spec,
        partial(read_means, projector, manifest.spec),
        lambda: load_compressor(directory, manifest, device, dtype),
    )
    tokenizer = _tokenizer(directory / "decoder")
    backend = _backend(directory / "decoder", tokenizer, wire, runtime)
    prompter = Prompter(tokenizer, chat=manifest.chat, placement=manifest.spec.placement)
    return LLoCOModel(name, compressor, None, backend, tokenizer, prompter)


def _autocompressor(
    name: str, path: Path, device: torch.device, dtype: torch.dtype, wire: torch.dtype | None, runtime: Runtime
) -> LLoCOModel:
    from lloco_integrations.compressors.autocompressor import AutoCompressor, read_fixed, spec_of
    from lloco_integrations.compressors.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(path)
    spec = spec_of(checkpoint)
    compressor = DeferredCompressor(
        spec, partial(read_fixed, spec), lambda: AutoCompressor.from_pretrained(checkpoint.directory, device=device, dtype=dtype)
    )
    tokenizer = _tokenizer(checkpoint.directory)
    backend = _backend(checkpoint.directory, tokenizer, wire, runtime)
    return LLoCOModel(name, compressor, None, backend, tokenizer, Prompter(tokenizer, chat=False, placement="prefix"))


def _tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        return read_tokenizer(directory)
    except Exception as error:
        raise ModelNotFound(
            f"the tokenizer in {directory} cannot be loaded: {error}; a decoder that runs elsewhere needs it here"
        ) from error


def _backend(directory: Path, tokenizer: PreTrainedTokenizerBase, wire: torch.dtype | None, runtime: Runtime) -> Backend:
    from transformers import AutoConfig

    rows = PromptRows(read_embeddings(directory), wire)
    config: Any = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    window = getattr(config, "max_position_embeddings", None) or 1 << 30
    end: Any = tokenizer.eos_token_id
    ends, decode = [] if end is None else [end], partial(text_of, tokenizer)
    if runtime.backend == "vllm":
        from lloco_integrations.backends.vllm import VLLMBackend

        return VLLMBackend(runtime, rows, decode, window=window, ends=ends)
    from lloco_integrations.backends.vllm_offline import VLLMOfflineBackend

    return VLLMOfflineBackend(directory, runtime, rows, decode, window=window, ends=ends)
