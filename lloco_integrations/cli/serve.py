"""``lloco serve``: the decoder of a model on a vLLM server, with its adapters and the flags that are safe."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lloco_integrations.cli.options import ModelOption

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "MALLOC_MMAP_THRESHOLD_": "262144",
    "MALLOC_TRIM_THRESHOLD_": "262144",
}
"""The last two give freed tensors back to the system: otherwise batches of ever new sizes leave holes in glibc's heap, which grows."""
LOADING = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
_MODULES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
_LATER = 8
"""Adapters for which there is room if they are loaded while the server runs."""


def command(
    model: ModelOption = "smollm2-135m",
    adapter: Annotated[list[str] | None, typer.Option(help="NAME=DIRECTORY of a LoRA; repeat for several. NAME is the group's.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on. Prompt embeddings are for clients that you trust.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "bfloat16",
    max_model_len: Annotated[int | None, typer.Option(min=1, help="Positions of prompt and answer; else the model's.")] = None,
    load_adapters: Annotated[bool, typer.Option("--load-adapters", help="Let clients load adapters while the server runs.")] = False,
    python: Annotated[Path | None, typer.Option(help="Interpreter of the environment that has vLLM; else this one.")] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the command, and start nothing.")] = False,
    more: Annotated[list[str] | None, typer.Argument(help="After --: arguments for vLLM.")] = None,
) -> None:
    """Serve a model's decoder with vLLM. Applications use it with LLoCOLLM(backend="vllm", base_url=...)."""
    from lloco_integrations.models.load import decoder_directory

    launch = plan(
        os.path.abspath(python) if python and python.exists() else str(python or sys.executable),
        decoder_directory(model),
        model,
        _named(adapter or []),
        host=host,
        port=port,
        dtype=dtype,
        max_model_len=max_model_len,
        load_adapters=load_adapters,
        more=more or [],
    )
    if only_print:
        typer.echo(launch.line)
        return
    _require_vllm(launch.arguments[0])
    typer.echo(launch.line, err=True)
    os.execve(launch.arguments[0], list(launch.arguments), {**os.environ, **launch.environment})


@dataclass(frozen=True)
class Launch:
    """A program with its arguments, and what is added to its environment."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def line(self) -> str:
        """As a shell takes it."""
        return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()), shlex.join(self.arguments)])


def plan(
    python: str,
    decoder: Path,
    name: str,
    adapters: Mapping[str, str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    dtype: str = "bfloat16",
    max_model_len: int | None = None,
    load_adapters: bool = False,
    more: Sequence[str] = (),
) -> Launch:
    """How vLLM is started on the directory ``decoder``. ``adapters``: name -> directory.

    Raises IncompatibleAdapter for an adapter that cannot be served safely.
    """
    from lloco_integrations.backends.lora import facts

    arguments = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(decoder), "--served-model-name", name]
    arguments += ["--enable-prompt-embeds", "--host", host, "--port", str(port), "--dtype", dtype]
    if max_model_len is not None:
        arguments += ["--max-model-len", str(max_model_len)]
    if adapters or load_adapters:
        found = facts(adapters.values())
        rank = max(found.rank, 16) if load_adapters else found.rank
        modules = sorted({*found.modules, *(_MODULES if load_adapters else ())})
        slots = len(adapters) + (_LATER if load_adapters else 0) + 1  # on CPUs, the base's rows run under the last slot: a spare one
        arguments += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", str(slots), "--lora-target-modules", *modules]
        if adapters:
            arguments += ["--lora-modules", *(f"{key}={Path(path).expanduser().absolute()}" for key, path in adapters.items())]
    return Launch((*arguments, *more), {**ENVIRONMENT, **(LOADING if load_adapters else {})})


def _named(given: Sequence[str]) -> dict[str, str]:
    """``NAME=DIRECTORY`` as a mapping. Raises BadInput."""
    from lloco_integrations.errors import BadInput

    found: dict[str, str] = {}
    for one in given:
        name, mark, path = one.partition("=")
        if not mark or not name or not path:
            raise BadInput(f"--adapter {one!r} names no adapter; write NAME=DIRECTORY, such as handbook=learnt/adapter")
        if name in found:
            raise BadInput(f"--adapter names {name!r} twice; give each its own name")
        found[name] = path
    return found


_HAS_VLLM = "import importlib.util as u, sys; found = u.find_spec('vllm'); sys.exit(not (found and found.origin))"
"""A folder of that name in the working directory is found, too, and has no origin."""


def _require_vllm(python: str) -> None:
    from lloco_integrations.errors import MissingExtra

    try:
        found = subprocess.run([python, "-c", _HAS_VLLM], check=False)
    except OSError as error:
        raise MissingExtra(f"{python} cannot be run ({error.strerror}); give the interpreter of the environment that has vLLM") from error
    if found.returncode:
        raise MissingExtra(
            f"{python} has no vLLM; install it into an environment of its own and name that: lloco serve --python VENV/bin/python. "
            f"See docs/serving.md"
        )
