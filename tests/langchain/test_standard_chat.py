"""The standard suites of langchain-tests for chat models, unmodified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from lloco_integrations.langchain import ChatLLoCO


class TestChatUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatLLoCO

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "smollm2-135m"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"LLOCO_API_KEY": "secret"}, {"model": "smollm2-135m"}, {"api_key": "secret"}


class TestChatIntegration(ChatModelIntegrationTests):
    """On the tiny model; the suite finds out by itself that there are no tools and no structured output."""

    @pytest.fixture(autouse=True)
    def _name(self, tiny_model: str, tmp_path: Path) -> None:
        other = tmp_path / "other-name"
        other.symlink_to(tiny_model)
        self.names = {"model": tiny_model, "store": f"sqlite:///{tmp_path / 'store.sqlite'}", "device": "cpu", "dtype": "float32"}
        self.other = str(other)

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatLLoCO

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**self.names, "max_tokens": 24}

    @property
    def model_override_value(self) -> str | None:
        return self.other
