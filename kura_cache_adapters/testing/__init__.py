"""Contract suites for stores and managers of any origin, a fake model, and a local server.

Subclass a suite in a module that pytest collects, and override its fixture:

    class TestMyStore(StoreContract):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda: MyStore(tmp_path)

The suites need pytest and hypothesis; the fake model and the server need neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kura_cache_adapters._runtime.lazy import lazy
from kura_cache_adapters.testing.fake import FakeEmbeddingModel

if TYPE_CHECKING:
    from kura_cache_adapters.testing.checkpoints import CheckpointManagerContract
    from kura_cache_adapters.testing.openai_server import OpenAIServer
    from kura_cache_adapters.testing.stores import StoreContract

__all__ = ["CheckpointManagerContract", "FakeEmbeddingModel", "OpenAIServer", "StoreContract"]

_HOMES = {
    "checkpoints": "CheckpointManagerContract",
    "openai_server": "OpenAIServer",
    "stores": "StoreContract",
}
if not TYPE_CHECKING:  # a type checker knows the names, and that there are no others
    __getattr__ = lazy(__name__, _HOMES)
