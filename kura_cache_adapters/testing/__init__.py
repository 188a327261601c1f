"""Contract suites for stores and managers of any origin, a fake model, and a local server.

Subclass a suite in a module that pytest collects, and override its fixture:

    class TestMyStore(StoreContract):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda: MyStore(tmp_path)

The suites need pytest and hypothesis; the fake model and the server need neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kura_cache_adapters.testing.fake import FakeEmbeddingModel

if TYPE_CHECKING:
    from kura_cache_adapters.testing.checkpoints import CheckpointManagerContract
    from kura_cache_adapters.testing.openai_server import OpenAIServer
    from kura_cache_adapters.testing.stores import StoreContract

__all__ = ["CheckpointManagerContract", "FakeEmbeddingModel", "OpenAIServer", "StoreContract"]

_SUITES = {
    "CheckpointManagerContract": "checkpoints",
    "OpenAIServer": "openai_server",
    "StoreContract": "stores",
}


def __getattr__(name: str) -> Any:
    if name not in _SUITES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_SUITES[name]}"), name)
