"""Which model reads which row: the shipped decoder, or the base model without or with a LoRA."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations.errors import BadInput, IncompatibleAdapter
from lloco_integrations.evaluation.methods import FOCUSED, Row
from lloco_integrations.evaluation.reader import Reader

if TYPE_CHECKING:
    from lloco_integrations.models import LLoCOModel

SHIPPED, SHIPPED_ADAPTER, BASE, BASE_RAW, BASE_NONE = "shipped", "shipped + adapter", "base", "base + raw adapter", "base + none adapter"
RIVALS = (BASE, BASE_RAW, BASE_NONE)
"""Readers that do not depend on what we trained."""


@dataclass(frozen=True)
class AdapterPaths:
    """Directories of LoRAs: ``group`` on the shipped decoder, ``raw`` and ``none`` on the base model."""

    group: str | None = None
    raw: str | None = None
    none: str | None = None

    def check(self, rows: list[Row]) -> None:
        """Raise IncompatibleAdapter for a path without a directory, and BadInput for raw+lora or lloco+adapter without its LoRA, and for a
        LoRA of lloco+adapter without that row."""
        for option, path in (("--adapter", self.group), ("--raw-adapter", self.raw), ("--none-adapter", self.none)):
            if path is not None and not Path(path).expanduser().is_dir():
                raise IncompatibleAdapter(f"{option} {path}: there is no such directory; give the folder of a LoRA in PEFT format")
        if self.raw is None and any(row.kind == "raw+lora" for row in rows):
            raise BadInput(
                "raw+lora needs --raw-adapter DIR, a LoRA of the base model that was trained on raw text with the same questions; "
                "give it, or leave raw+lora out of --methods"
            )

        ours = any(row.kind == "lloco+adapter" for row in rows)
        if self.group is None and ours:
            raise BadInput(
                "lloco+adapter needs --adapter DIR, a LoRA of the decoder that was learnt on summaries; "
                "give it, or leave lloco+adapter out of --methods"
            )
        if self.group is not None and not ours:
            raise BadInput(f"--adapter {self.group} is read by lloco+adapter alone; add that to --methods, or leave --adapter out")

    def reader_of(self, row: Row) -> str:
        """The name of the reader of ``row``."""
        if row.kind == "none":
            return SHIPPED if self.none is None else BASE_NONE
        if row.kind in ("lloco", "lloco+retrieve", *FOCUSED):
            return SHIPPED
        if row.kind == "lloco+adapter":
            return SHIPPED_ADAPTER
        if row.kind in ("truncate", "retrieve", "texts"):
            return SHIPPED if self.raw is None else BASE_RAW
        return BASE if row.kind == "raw" else BASE_RAW


class Readers:
    """Readers by name; of those on the base model only the last one asked for stays in memory.

    ``base``: a preset, directory or hub id; None is what ``model`` was made from.
    """

    def __init__(self, model: LLoCOModel, paths: AdapterPaths, base: str | None, device: str, dtype: str, batch_size: int) -> None:
        self.model = model
        self.paths = paths
        self.base = base
        self.device = device
        self.dtype = dtype
        self.batch_size = batch_size
        self._last: tuple[str, Reader] | None = None

    def get(self, name: str) -> Reader:
        """Raises ModelNotFound for a base that cannot be loaded, BadInput for one that does not fit, IncompatibleAdapter for such a LoRA."""
        if name in (SHIPPED, SHIPPED_ADAPTER):
            backend: Any = self.model.backend
            path = self.paths.group if name == SHIPPED_ADAPTER else None
            return Reader(backend, path and str(Path(path).expanduser()), batch_size=self.batch_size)
        if self._last is None or self._last[0] != name:
            self._last = None  # makes room before the next is loaded
            self._last = (name, self._load({BASE: None, BASE_RAW: self.paths.raw, BASE_NONE: self.paths.none}[name]))
        return self._last[1]

    def _load(self, path: str | None) -> Reader:
        """The base model, the LoRA at ``path`` merged in float32 as the shipped decoder's was: no row pays for an adapter at run time."""
        import torch

        from lloco_integrations.backends.adapters import Adapters
        from lloco_integrations.backends.transformers import TransformersBackend
        from lloco_integrations.models.load import no_bars, resolve_device, resolve_dtype
        from lloco_integrations.training.base import load_base_model

        where = resolve_device(self.device)
        kind = resolve_dtype(self.dtype, where)
        name = self.base or base_of(self.model.name)
        with no_bars(), contextlib.redirect_stderr(io.StringIO()):  # a bar of its own, which nothing else turns off
            base, tokenizer = load_base_model(name, where, kind if path is None else torch.float32)
        ours = self.model.tokenizer
        if ours is not None and tokenizer.get_vocab() != ours.get_vocab():
            raise BadInput(f"the base {name!r} has another tokenizer than {self.model.name!r}; give the one it was made from with --base")
        merged: Any = base
        if path is not None:
            adapters = Adapters(base)
            adapters.choose([str(Path(path).expanduser())], 1)
            merged = adapters.model.merge_and_unload().to(kind)
        return Reader(TransformersBackend(merged.eval().requires_grad_(False), ours), batch_size=self.batch_size)


def base_of(model: str) -> str:
    """The base that the preset or directory ``model`` was made from. Raises BadInput if that is not written down."""
    from lloco_integrations.models.presets import PRESETS

    preset = PRESETS.get(model)
    if preset is not None and preset.wheel is not None:
        return preset.name
    for name in ("lloco.json", "recipe.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if base := json.loads((Path(model).expanduser() / name).read_text(encoding="utf-8"))["base"]:
                return str(base)
    raise BadInput(f"what {model!r} was made from is not known; give its base model, without a LoRA, with --base")
