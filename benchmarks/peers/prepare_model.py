"""A Hugging Face directory as transformers 5 saves it, made readable for transformers 4: in a copy, and without copying the weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def patched_copy(model: Path, folder: Path) -> Path:
    """``folder``, filled with links to ``model``'s weights and copies of its small files, of which two are changed.

    ``config.json``: ``rope_theta`` and ``torch_dtype`` as transformers 4 names them. ``tokenizer_config.json``: the tokenizer's class.
    """
    if not (model / "config.json").is_file():
        raise SystemExit(f"{model} has no config.json; give a Hugging Face directory of the model")
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja", ".txt", ".model"):
            shutil.copyfile(file, folder / file.name)
        elif file.is_file():
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters", None)
    if rope is not None:
        config["rope_theta"] = rope.pop("rope_theta")
        if rope.get("rope_type", "default") != "default":
            config["rope_scaling"] = rope
    if "dtype" in config:
        config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder
