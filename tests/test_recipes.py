"""What CONTRIBUTING says of packages of others: an entry point is all that it takes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, open_store
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.distributions import Site, a_site

if TYPE_CHECKING:
    from collections.abc import Callable

site = pytest.fixture(a_site)

TEXTS = ["a", "bc", "def"]
STORE = ("kura_cache_adapters.stores", "dict")
RECORD = "kura_cache_adapters.providers"


def test_a_store_of_another_distribution_is_a_cache_by_its_url(site: Site) -> None:
    site.install("acme_store", {STORE: "acme_store.store:DictStore"})
    model = FakeEmbeddingModel()
    for _ in range(2):
        cached = CachedEmbeddingModel(model, "dict://a-shelf?limit=1e6")
        assert cached.embed_sync(TEXTS) == model.lists(TEXTS)
    assert model.calls == [TEXTS]
    assert open_store("dict://a-shelf").spaces() == [cached.identity()]
    assert open_store("dict://another-shelf").spaces() == []


def test_its_options_are_those_of_its_constructor(site: Site) -> None:
    site.install("acme_options", {STORE: "acme_options.store:DictStore"})
    store: Any = open_store("dict://a-shelf?limit=2")
    assert store.limit == 2
    with pytest.raises(ValueError, match=r"no option 'most'.*limit=\(a whole number | none\)"):
        open_store("dict://a-shelf?most=2")


def embeddings_of(package: str) -> Callable[..., Any]:
    pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
    return importlib.import_module(f"{package}.embeddings").AcmeEmbeddings


def asked_again(package: str, **changed: Any) -> list[str]:
    """Embed with one embedder, then with another over the same cache; return what that one was asked."""
    from kura_cache_adapters import LangChainCachedEmbeddings

    make = embeddings_of(package)
    first, second = make(token="sk-1"), make(**{"token": "sk-1", **changed})
    CachedEmbeddingModel(first, store := open_store("memory://")).embed_sync(TEXTS)
    embedded = LangChainCachedEmbeddings.from_embeddings(second, store).embed_documents(TEXTS)
    assert embedded == make(**{"token": "", **changed}).embed_documents(TEXTS)
    return second.asked


def test_an_embedder_of_another_distribution_is_read_by_its_record(site: Site) -> None:
    site.install("acme_known", {(RECORD, "acme_known"): "acme_known.records:RECORDS"})
    assert asked_again("acme_known", token="sk-2", timeout=9.0) == []
    assert asked_again("acme_known", size=4) == TEXTS
    assert asked_again("acme_known", model="acme-2") == TEXTS


def test_without_its_entry_point_all_that_it_holds_counts(site: Site) -> None:
    site.install("acme_unknown", {})
    assert asked_again("acme_unknown", timeout=9.0) == TEXTS
