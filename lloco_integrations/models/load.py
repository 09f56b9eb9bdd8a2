"""``load_model``: a preset, a directory, or a hub id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.backends.transformers import TransformersBackend
from lloco_integrations.errors import BadInput, IncompatibleSummary, LLoCOError, ModelNotFound
from lloco_integrations.locks import ForkLock
from lloco_integrations.models.directory import MANIFEST, check_files, has_tokenizer, load_compressor, read_manifest, read_tokenizer
from lloco_integrations.models.materialise import materialised
from lloco_integrations.models.model import LLoCOModel
from lloco_integrations.models.presets import DEFAULT_MODEL, PRESETS
from lloco_integrations.paths import located
from lloco_integrations.prompting import Prompter
from lloco_integrations.undisturbed import undisturbed

_HERE: Any = {"local_files_only": True, "trust_remote_code": False}
"""A directory never uses the network, and never runs code of its own."""


def load_model(
    name_or_path: str | Path = DEFAULT_MODEL,
    *,
    adapter: str | Path | None = None,
    adapters: dict[str, str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
    runtime: Runtime | None = None,
) -> LLoCOModel:
    """A preset by name, a directory (made by this package, or an AutoCompressor checkpoint as its authors save it), or a hub id of one.

    Args:
        name_or_path: see above.
        adapter: directory or hub id of a LoRA, the one named "default": used for every answer that names no other.
        adapters: group name -> directory or hub id.
        device: "auto" (CUDA, Apple's MPS, else the CPU), or a torch device.
        dtype: "auto" (bfloat16 where the device computes it fast, else float32), "float32", "bfloat16" or "float16". Of a decoder that
            runs elsewhere: in which prompts are sent, "auto" is that of its saved token embeddings.
        runtime: what runs the decoder; None is transformers, in this process. Elsewhere, no decoder is loaded here, and an encoder only
            when something is compressed.

    Raises:
        ModelNotFound: no such model, incomplete files, or an unknown device or dtype.
        IncompatibleAdapter: later, when an adapter is first used.
    """
    where = resolve_device(device)
    kind = resolve_dtype(dtype, where)
    paths = {**({"default": str(adapter)} if adapter is not None else {}), **(adapters or {})}
    name = str(name_or_path)
    directory = _directory(name_or_path)
    if runtime is not None and not runtime.in_process:
        from lloco_integrations.models.client import load_client

        with undisturbed(inference=False), no_bars(), _readable(name):
            model = load_client(name, directory, where, kind, None if dtype == "auto" else kind, runtime)
    else:
        load = _load_directory if (directory / MANIFEST).is_file() else _load_autocompressor
        with undisturbed(inference=False), no_bars(), _readable(name):
            model = load(name, directory, where, kind)
    model.adapters = paths
    model.focus = _focus(name, directory)
    return model


def decoder_directory(name_or_path: str | Path) -> Path:
    """The decoder of a model as a plain Hugging Face directory, which any server serves; a preset is made on first use.

    Raises ModelNotFound as load_model does.
    """
    directory = _directory(name_or_path)
    if (directory / MANIFEST).is_file():
        return directory / "decoder"
    from lloco_integrations.compressors.checkpoint import open_checkpoint

    return open_checkpoint(directory).directory


def _focus(name: str, directory: Path) -> Mapping[str, Any]:
    """How a budget is best spent with a model's weights: of a preset as this package measured it, else as its manifest says."""
    preset = PRESETS.get(name)
    if preset is not None and preset.weights is not None:
        recipe: Mapping[str, Any] = json.loads((preset.weights / "recipe.json").read_text(encoding="utf-8"))
        return dict(recipe.get("focus") or {})
    return dict(read_manifest(directory).focus) if (directory / MANIFEST).is_file() else {}


def _directory(name_or_path: str | Path) -> Path:
    """Where a model is, or its hub id as a path."""
    name = str(name_or_path)
    directory = Path(name_or_path).expanduser()
    preset = PRESETS.get(name)
    if preset is not None and preset.wheel is not None:
        return materialised(preset)
    if preset is not None and preset.hub_id is not None:
        return Path(preset.hub_id)
    if not directory.exists() and name.count("/") != 1:
        raise ModelNotFound(f"{name!r} is neither a preset ({', '.join(PRESETS)}) nor a directory nor a hub id such as 'owner/model'")
    return directory


def _load_directory(name: str, directory: Path, device: torch.device, dtype: torch.dtype) -> LLoCOModel:
    from transformers import AutoModelForCausalLM

    manifest = read_manifest(directory)
    check_files(directory, manifest)
    compressor = load_compressor(directory, manifest, device, dtype)
    try:
        decoder: Any = AutoModelForCausalLM.from_pretrained(directory / "decoder", dtype=dtype, **_HERE)
        tokenizer = read_tokenizer(directory / "decoder")
    except Exception as error:
        raise ModelNotFound(f"the decoder in {directory} cannot be loaded: {error}; delete the folder and load the model again") from error
    decoder = decoder.to(device).eval().requires_grad_(False)
    if decoder.config.hidden_size != manifest.spec.hidden_size:
        raise IncompatibleSummary(
            f"{directory}: the compressor makes vectors of width {manifest.spec.hidden_size}, the decoder reads {decoder.config.hidden_size}"
        )
    prompter = Prompter(tokenizer, chat=manifest.chat, placement=manifest.spec.placement)
    return LLoCOModel(name, compressor, decoder, TransformersBackend(decoder, tokenizer), tokenizer, prompter)


def _load_autocompressor(name: str, path: Path, device: torch.device, dtype: torch.dtype) -> LLoCOModel:
    from lloco_integrations.compressors.autocompressor import AutoCompressor
    from lloco_integrations.compressors.checkpoint import open_checkpoint

    directory = open_checkpoint(path).directory
    compressor = AutoCompressor.from_pretrained(directory, device=device, dtype=dtype)
    decoder: Any = compressor.model.requires_grad_(False)
    tokenizer = read_tokenizer(directory) if has_tokenizer(directory) else None
    prompter = Prompter(tokenizer, chat=False, placement="prefix") if tokenizer is not None else None
    backend = TransformersBackend(decoder, tokenizer, lock=compressor.lock)
    return LLoCOModel(name, compressor, decoder, backend, tokenizer, prompter)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever files of any content make of the libraries that read them becomes a ModelNotFound."""
    try:
        yield
    except LLoCOError:
        raise
    except Exception as error:
        raise ModelNotFound(
            f"the model {name!r} cannot be loaded: {type(error).__name__}: {str(error)[:500]}; its files are damaged, or not of one model"
        ) from error


@contextmanager
def no_bars() -> Iterator[None]:
    """Without transformers' progress bars: loading takes a second, and an application's output is not ours."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA, else Apple's MPS, else the CPU. Raises ModelNotFound for a name that torch does not know."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ModelNotFound(f"unknown device {name!r}: {error}; use 'auto', 'cpu', 'cuda' or 'mps'") from error


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the device computes it fast, else float32. Raises ModelNotFound for another name than load_model's."""
    if name == "auto":
        fast = device.type == "cuda" or (device.type == "cpu" and _cpu_computes_bfloat16())
        return torch.bfloat16 if fast else torch.float32
    found = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}.get(name)
    if found is None:
        raise ModelNotFound(f"unknown dtype {name!r}; use 'auto', 'float32', 'bfloat16' or 'float16'")
    return found


def _cpu_computes_bfloat16() -> bool:
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(bool(getattr(torch.cpu, check)()) for check in checks if hasattr(torch.cpu, check))


_shared: dict[tuple[str, str, str, Runtime], LLoCOModel] = {}
_shared_lock = ForkLock(wait=False)


def shared_model(
    name_or_path: str = DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    max_adapters: int | None = None,
    prefix_cache_bytes: int | None = None,
    runtime: Runtime | None = None,
) -> LLoCOModel:
    """As ``load_model``, but one object a process for one name, device, dtype and runtime: an LLM and a postprocessor share the weights.

    ``max_adapters``: how many stay in memory from now on, see Backend; None leaves it as it is. ``prefix_cache_bytes``: of what prompts begin
    with, see TransformersBackend; None leaves it, and a server has its own.
    """
    where = runtime or Runtime()
    name = str(name_or_path)
    key = (name if name in PRESETS else located(name), device, dtype, where)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = load_model(name_or_path, device=device, dtype=dtype, runtime=where)
        model = _shared[key]
    if max_adapters is not None:
        if max_adapters < 1:
            raise BadInput(f"max_adapters is {max_adapters}; keep at least 1 in memory")
        model.backend.max_adapters = max_adapters
    if prefix_cache_bytes is not None and isinstance(model.backend, TransformersBackend):
        model.backend.keep_prefixes(prefix_cache_bytes)
    return model
