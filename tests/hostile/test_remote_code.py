"""No model brings code of its own, and nobody is asked whether it may."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lloco_integrations
from lloco_integrations.backends.runtime import Runtime
from lloco_integrations.errors import LLoCOError
from lloco_integrations.models import load_model
from lloco_integrations.training.base import load_base_model
from tests.checkpoints import GOLDEN

ROOT = Path(lloco_integrations.__file__).parent.parent
LOADERS = {"AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoConfig"}


def test_every_loader_is_told_not_to_run_code() -> None:
    found = []
    for path in [*(ROOT / "lloco_integrations").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("from_pretrained", "from_config"):
                if getattr(node.func.value, "id", None) not in LOADERS:
                    continue
                said = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if said.get("trust_remote_code") != "False" and said.get(None) != "_HERE":  # type: ignore[call-overload]
                    found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
    from lloco_integrations.models.load import _HERE

    assert _HERE["trust_remote_code"] is False


def infected(directory: Path, mark: Path, *, known: bool) -> None:
    """Code in the folder and ``auto_map`` entries that name it; ``known``: keep the model_type, which transformers has a class for."""
    code = f"import pathlib\npathlib.Path({str(mark)!r}).write_text('run')\nfrom transformers import LlamaConfig as Config\n"
    code += "from transformers import LlamaForCausalLM as Model, LlamaModel as Trunk, PreTrainedTokenizerFast as Tokens\n"
    (directory / "evil.py").write_text(code)
    path = directory / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoModel": "evil.Trunk"}
    config["auto_map"]["AutoTokenizer"] = ["evil.Tokens", "evil.Tokens"]
    if not known:
        config["model_type"] = "evil"
    path.write_text(json.dumps(config))
    tokenizer = directory / "tokenizer_config.json"
    if tokenizer.is_file():
        said = json.loads(tokenizer.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Tokens", "evil.Tokens"]}}
        tokenizer.write_text(json.dumps(said | ({} if known else {"tokenizer_class": "Tokens"})))


def whole(path: Path) -> Any:
    return load_model(path, device="cpu", dtype="float32").generate(["one"])


def of_ids(path: Path) -> Any:
    return load_model(path, device="cpu", dtype="float32").compress_ids([[5, 6, 7]])


def client(path: Path) -> Any:
    return load_model(path, device="cpu", dtype="float32", runtime=Runtime("vllm", "http://127.0.0.1:9")).compress(["text"])


def base(path: Path) -> Any:
    return load_base_model(str(path / "decoder"), torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("use", [whole, client, of_ids, base])
def test_code_in_a_model_is_not_run(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Path], Any], known: bool
) -> None:
    def asked(*_: Any) -> str:
        raise AssertionError("nobody may be asked")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    mark = tmp_path / "run"
    model = tmp_path / "model"
    shutil.copytree(GOLDEN / "ckpt_mha" if use is of_ids else tiny_model, model)
    for directory in [model] if use is of_ids else [model / "encoder", model / "decoder"]:
        infected(directory, mark, known=known)
    if use is not of_ids:  # as a directory that was infected before it was written down, or by somebody who can write
        manifest = json.loads((model / "lloco.json").read_text())
        (model / "lloco.json").write_text(json.dumps({**manifest, "files": {}}))
    try:
        use(model)
        answered = True
    except LLoCOError:
        answered = False
    assert not mark.exists()
    assert answered == known
