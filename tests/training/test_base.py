"""The dtype that training starts with."""

from __future__ import annotations

import pytest
import torch

from lloco_integrations.errors import ModelNotFound
from lloco_integrations.models import load
from lloco_integrations.training import base
from lloco_integrations.training.base import training_dtype

CPU = torch.device("cpu")


def test_training_takes_the_dtype_that_multiplies_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions for bfloat16 do not mean that it is fast: on a Xeon without AMX tiles it took twice the time of float32."""
    monkeypatch.setattr(load, "_cpu_computes_bfloat16", lambda: True)
    for seconds, expected in ((0.5, torch.float32), (0.9, torch.bfloat16), (3.0, torch.bfloat16)):
        monkeypatch.setattr(base, "_product_seconds", lambda dtypes, s=seconds: {torch.float32: s, torch.bfloat16: 1.0})
        assert training_dtype("auto", CPU) == expected
        assert training_dtype("bfloat16", CPU) == torch.bfloat16
        assert training_dtype("float32", CPU) == torch.float32
        assert training_dtype("auto", torch.device("cuda")) == torch.bfloat16
    monkeypatch.setattr(load, "_cpu_computes_bfloat16", lambda: False)
    assert training_dtype("auto", CPU) == torch.float32
    with pytest.raises(ModelNotFound, match="unknown dtype 'int4'"):
        training_dtype("int4", CPU)


def test_both_are_tried() -> None:
    taken = base._product_seconds((torch.float32, torch.bfloat16))
    assert set(taken) == {torch.float32, torch.bfloat16} and min(taken.values()) > 0
