"""What has been done is counted, timed and billed, with a cache and without, and shown to people."""

from __future__ import annotations

import pickle
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters import CachedEmbeddingModel, CacheStats, Embedded, MemoryStore
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.test_observers import gone, observed

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters.testing.openai_server import OpenAIServer


class Page(HTMLParser):
    """What of a page is shown, and what of it is asked of others."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.asked: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.asked += [name for name, _ in attrs if name in {"src", "href", "xlink:href"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_hit_rate_is_the_share_of_texts_that_was_found() -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel(), MemoryStore())
    assert cached.stats.hit_rate == 0.0
    cached.embed_sync(["a", "b", "a"])
    cached.embed_sync(["a"])
    assert cached.stats.hit_rate == 0.25
    assert str(cached.stats).startswith("hits 1, duplicates 1, misses 2: hit rate 25.0%; seconds in look-up ")


def test_seconds_are_those_of_the_events(tmp_path: Path) -> None:
    cached, ledger = observed(tmp_path, chunk_size=1)
    cached.embed_sync(["a", "b"])
    cached.embed_sync(["a", "b"])
    looked, *_ = ledger
    stats = cached.stats
    assert stats.lookup_seconds > looked.seconds > 0
    assert stats.model_seconds == sum(event.seconds for event in ledger.of(Embedded)) > 0
    assert stats.store_seconds > 0


@pytest.mark.parametrize("cache", [True, False], ids=["cached", "bare"])
async def test_billed_tokens_are_the_servers(
    openai_server: OpenAIServer, tmp_path: Path, *, cache: bool
) -> None:
    from kura_cache_adapters import OpenAIEmbeddingModel

    source = OpenAIEmbeddingModel(model_batch_size=2)
    cached, other = (CachedEmbeddingModel(source, tmp_path / name if cache else None) for name in "ab")
    texts = ["one", "and two", "now there are five words"]
    await cached.embed(texts)
    cached.embed_sync(texts)
    mine = openai_server.billed
    assert cached.stats.tokens == mine == 8 * (1 if cache else 2)
    await other.embed(["x y"])
    assert (cached.stats.tokens, other.stats.tokens) == (mine, 2)  # one source, two bills
    assert f"tokens billed {mine}" in str(cached.stats)


async def test_tokens_of_an_answer_that_is_refused_are_billed_too(
    openai_server: OpenAIServer, tmp_path: Path
) -> None:
    from kura_cache_adapters import IdentityError, OpenAIEmbeddingModel

    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    await cached.embed(["one"])
    openai_server.answers_as = "another"
    with pytest.raises(IdentityError):
        await cached.embed(["two words"])
    assert cached.stats.tokens == openai_server.billed == 3
    assert cached.stats.misses == 1


def test_what_is_not_told_is_none(openai_server: OpenAIServer) -> None:
    from kura_cache_adapters import OpenAIEmbeddingModel

    openai_server.faults = ["no usage"]
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), MemoryStore())
    cached.embed_sync(["one"])
    assert cached.stats.tokens is None


def test_without_a_cache_all_are_misses_and_a_failure_is_none() -> None:
    cached, ledger = observed(None)
    cached.embed_sync(["a", "a"])
    cached.embedding_model.fault = gone  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        cached.embed_sync(["b"])
    assert cached.stats == CacheStats(misses=2)
    assert cached.stats.model_seconds == sum(event.seconds for event in ledger.of(Embedded)) > 0


def test_adapters_show_stats_and_name_model_and_cache(tmp_path: Path) -> None:
    pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
    pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")
    from kura_cache_adapters import LangChainCachedEmbeddings, LlamaIndexCachedEmbedding

    for adapter in (LangChainCachedEmbeddings, LlamaIndexCachedEmbedding):
        cached = CachedEmbeddingModel(FakeEmbeddingModel("named"), tmp_path / adapter.__name__)
        adapted: Any = adapter(cached)
        cached.embed_sync(["a", "a"])
        assert adapted.stats == cached.stats == CacheStats(misses=1, duplicates=1, stored=1)
        assert repr(adapted) == f"{adapter.__name__}({cached!r})"
        assert "named" in str(adapted)
        assert str(tmp_path) in str(adapted)
        assert adapted._repr_html_() == cached._repr_html_()


def test_a_notebook_shows_a_bar_of_its_own_and_nothing_of_a_name_is_markup() -> None:
    cached = CachedEmbeddingModel(FakeEmbeddingModel("<script>x</script>"), MemoryStore())
    assert "svg" not in Page(cached._repr_html_()).tags
    cached.embed_sync(["a", "b", "a"])
    for html in (cached._repr_html_(), cached.stats._repr_html_()):
        page = Page(html)
        assert page.tags.count("rect") == 3
        assert "script" not in page.tags
        assert page.asked == []
        assert "misses 2" in page.text
        assert "url(" not in html
    assert "<script>x</script>" in Page(cached._repr_html_()).text


def test_a_notebook_shows_a_cache_as_a_table_with_bars(tmp_path: Path) -> None:
    for p in ("<b>", "two"):
        cached = CachedEmbeddingModel(FakeEmbeddingModel(), tmp_path, p=p)
        cached.embed_sync(["a", "b", "a"])
    assert cached.cache is not None
    html: str = cached.cache._repr_html_()
    page = Page(html)
    assert (page.tags.count("tr"), page.tags.count("svg"), page.tags.count("b")) == (2, 2, 1)
    assert '{"p":"<b>"}' in page.text
    assert page.text.count("misses 2") == 2


def test_stats_are_plain_values() -> None:
    stats = CacheStats(hits=1, tokens=3, lookup_seconds=0.5)
    assert pickle.loads(pickle.dumps(stats)).lookup_seconds == 0.5
    assert stats == CacheStats(hits=1, tokens=3)
    assert stats != CacheStats(hits=1)
