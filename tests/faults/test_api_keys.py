"""Keys of an API, wherever an embedder holds them: in nothing that is shown, hashed or stored."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, IdentityError, OpenAIEmbeddingModel
from kura_cache_adapters._runtime import loop
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kura_cache_adapters.testing.openai_server import OpenAIServer

KEY = "sk-MARKED-key-0123456789"
TEXTS = ["MARKED-text-1", "MARKED-text-2"]


class Embedder:
    """An embedder of somebody's, LangChain's by its methods, with all it has as plain attributes."""

    def __init__(self, **held: Any) -> None:
        self.__dict__.update({"model": "theirs", **held})
        self._fake = FakeEmbeddingModel()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return self._fake.lists(texts)

    def embed_query(self, text: str) -> list[float]:
        return self._fake.lists([text], "query")[0]

    def __repr__(self) -> str:
        return f"Embedder({self.__dict__})"


def langchain_openai(url: str) -> tuple[Any, Callable[[], object]]:
    """Make an embedder, and what hangs up for it."""
    package = pytest.importorskip("langchain_openai")
    options = {
        "default_headers": {"x": KEY},
        "default_query": {"k": KEY},
        "check_embedding_ctx_length": False,
    }
    embedder = package.OpenAIEmbeddings(api_key=KEY, base_url=url, **options)
    return embedder, embedder.client._client.close


def llama_index_openai(url: str) -> tuple[Any, Callable[[], object]]:
    package = pytest.importorskip("llama_index.embeddings.openai")
    embedder = package.OpenAIEmbedding(api_key=KEY, api_base=url, default_headers={"x": KEY})
    return embedder, lambda: embedder._client.close()  # noqa: PLW0108 - the client is made later


def own_openai(url: str) -> tuple[Any, Callable[[], object]]:
    openai = pytest.importorskip("openai")
    client = openai.AsyncOpenAI(api_key=KEY, base_url=url, default_headers={"x": KEY})
    return OpenAIEmbeddingModel(client=client), lambda: loop.run(client.close())


def assert_marked_nowhere(shown: list[object], path: Path, caplog: Any) -> None:
    formatter = logging.Formatter()
    ours = [record for record in caplog.records if record.name.startswith("kura_cache_adapters")]
    lines = [formatter.format(record) for record in ours if record.levelno >= logging.INFO]
    assert "MARKED" not in "".join([*lines, *(f"{thing!r} {thing!s}" for thing in shown)])
    files = [file for file in path.rglob("*") if file.is_file()]
    assert files
    assert not any(b"MARKED" in str(file.name).encode() + file.read_bytes() for file in files)


@pytest.mark.parametrize("make", [langchain_openai, llama_index_openai, own_openai])
def test_an_adapter_shows_and_stores_no_key(
    make: Callable[[str], tuple[Any, Callable[[], object]]],
    openai_server: OpenAIServer,
    tmp_path: Path,
    caplog: Any,
) -> None:
    langchain = pytest.importorskip("kura_cache_adapters.langchain", exc_type=ImportError)
    llama_index = pytest.importorskip("kura_cache_adapters.llama_index", exc_type=ImportError)
    caplog.set_level("DEBUG", "kura_cache_adapters")
    embedder, hang_up = make(openai_server.url.replace("://", f"://user:{KEY}@"))
    first = langchain.LangChainCachedEmbeddings.from_embeddings(embedder, tmp_path)
    second = llama_index.LlamaIndexCachedEmbedding.from_embedding(embedder, tmp_path)
    assert first.embed_documents(TEXTS) == second.get_text_embedding_batch(TEXTS)
    assert first.embed_query(TEXTS[0])
    hang_up()
    assert openai_server.requests
    models = [first.cached, second.cached]
    identities = [model.identity() for model in models]
    shown = [first, second, second.to_dict(), second.to_json(), *models, *identities]
    assert_marked_nowhere([*shown, *(model.embedding_model.slug() for model in models)], tmp_path, caplog)


@pytest.mark.parametrize(
    "name", ["api_key", "openai_api_key", "token", "headers", "client", "credentials", "_secret"]
)
def test_an_embedder_that_holds_a_key_shows_none(name: str, tmp_path: Path, caplog: Any) -> None:
    langchain = pytest.importorskip("kura_cache_adapters.langchain", exc_type=ImportError)
    held = {name: {"authorization": KEY} if name == "headers" else object() if name == "client" else KEY}
    embedder = Embedder(**held, note=Embedder(api_key=KEY))
    shown: list[object] = []
    try:
        cached = langchain.LangChainCachedEmbeddings.from_embeddings(embedder, tmp_path)
    except (IdentityError, TypeError) as error:  # it cannot be told what decides its vectors
        shown.append(error)
        cached = langchain.LangChainCachedEmbeddings.from_embeddings(
            embedder, tmp_path, model_name="m", identity={"v": 1}
        )
    assert cached.embed_documents(TEXTS) == FakeEmbeddingModel().lists(TEXTS)
    assert_marked_nowhere([*shown, cached, cached.cached, cached.cached.identity()], tmp_path, caplog)


def test_a_model_whose_repr_has_its_key_is_named_by_its_class(tmp_path: Path, caplog: Any) -> None:
    class Model(FakeEmbeddingModel):
        def __repr__(self) -> str:
            return f"Model({KEY})"

        def embed_sync(self, _: list[str]) -> list[list[float]]:
            raise StopIteration

    cached = CachedEmbeddingModel(FakeEmbeddingModel(), str(tmp_path))
    cached.embed_sync(TEXTS)
    failing = CachedEmbeddingModel(Model(), str(tmp_path))
    with pytest.raises(RuntimeError, match="StopIteration") as error:
        failing.embed_sync(["MARKED-text-3"])
    assert_marked_nowhere([failing, error.value], tmp_path, caplog)
