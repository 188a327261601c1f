"""Roles: any string that a model tells apart has entries of its own, and a typo is no document."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel, OpenAIEmbeddingModel
from kura_cache_adapters.embedding import SentenceTransformerEmbeddingModel
from kura_cache_adapters.embedding.streaming import StreamingEmbeddingModel
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.testing import FakeEmbeddingModel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from kura_cache_adapters.testing import OpenAIServer

TEXTS = ["the cat sat", "dogs bark", ""]
ROLES = ("classification", "clustering")
ALL = ("document", *ROLES)
FAKE = FakeEmbeddingModel(roles=ROLES)


class Blocking(FakeEmbeddingModel):
    """A model that is asked in a worker thread."""

    def embed_sync(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
        self.calls.append(texts)
        return self.lists(texts, role)


class Streaming(StreamingEmbeddingModel):
    """A model that hands over one text at a time."""

    model_name = "fake"
    roles = ROLES

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def slug(self) -> str:
        return "streaming"

    async def embed_batches(
        self, texts: list[str], *, role: str
    ) -> AsyncGenerator[tuple[Sequence[int], Any], None]:
        for at, text in enumerate(texts):
            self.calls.append([text])
            yield [at], FAKE.array([text], role)


class Plain:
    """A model of Kura's shape, which knows of no roles."""

    model_name = "fake"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def slug(self) -> str:
        return "plain"

    async def embed(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(texts)
        return FAKE.lists(texts)


def functions() -> Any:
    """Make a model of three functions."""
    calls: list[list[str]] = []

    def of(role: str) -> Callable[[list[str]], Any]:
        def embed(texts: list[str]) -> list[list[float]]:
            calls.append(texts)
            return FAKE.lists(texts, role)

        return embed

    model = CallableEmbeddingModel(
        of("document"), model_name="fake", roles={role: of(role) for role in ROLES}
    )
    model.calls = calls  # type: ignore[attr-defined]
    return model


SOURCES: dict[str, Callable[[], Any]] = {
    "async": lambda: FakeEmbeddingModel(roles=ROLES),
    "sync": lambda: Blocking(roles=ROLES),
    "streaming": Streaming,
    "functions": functions,
    "a cache": lambda: CachedEmbeddingModel(FakeEmbeddingModel(roles=ROLES)),
}
DOORS: dict[str, Callable[[Any, str], Any]] = {
    "embed": lambda cached, role: asyncio.run(cached.embed(TEXTS, role=role)),
    "embed_array": lambda cached, role: asyncio.run(cached.embed_array(TEXTS, role=role)).tolist(),
    "embed_sync": lambda cached, role: cached.embed_sync(TEXTS, role=role),
    "embed_array_sync": lambda cached, role: cached.embed_array_sync(TEXTS, role=role).tolist(),
}
each_source = pytest.mark.parametrize("source", SOURCES)


@each_source
@pytest.mark.parametrize("door", DOORS)
def test_any_string_is_a_role_with_entries_of_its_own(door: str, source: str, tmp_path: Path) -> None:
    model = SOURCES[source]()
    cached = CachedEmbeddingModel(model, tmp_path)
    for _ in range(2):
        for role in ALL:
            assert DOORS[door](cached, role) == FAKE.lists(TEXTS, role)
    assert cached.stats.misses == len(ALL) * len(TEXTS)
    assert cached.roles == ROLES
    assert len({cached.cache_key("x", role=role) for role in ALL}) == len(ALL)


@each_source
@pytest.mark.parametrize("where", ["beneath a cache", "alone"])
def test_a_role_that_a_model_does_not_name_is_refused_before_anything_is_spent(
    where: str, source: str, tmp_path: Path
) -> None:
    model = SOURCES[source]()
    cached = CachedEmbeddingModel(model, tmp_path if where == "beneath a cache" else None)
    asks: list[Callable[[], Any]] = [
        *(lambda door=door: door(cached, "clasification") for door in DOORS.values()),
        lambda: cached.embed_sync([], role="clasification"),
        lambda: cached.cache_key("x", role="clasification"),
        lambda: cached.missing(TEXTS, role="clasification"),
        lambda: cached.add(TEXTS, FAKE.array(TEXTS), role="clasification"),
    ]
    for ask in asks:
        with pytest.raises(ValueError, match="'document', 'classification', 'clustering', not as 'clasif"):
            ask()
    assert not getattr(model, "calls", None)
    assert (cached.stats.hits, cached.stats.misses) == (0, 0)


class OwnWay(Plain):
    """A model that is told a role, or none, and remembers which."""

    roles = ("clustering",)

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    async def embed(self, texts: list[str], **told: Any) -> list[list[float]]:
        self.told.append(told)
        return FAKE.lists(texts, **told)


@pytest.mark.parametrize("where", ["beneath a cache", "alone"])
def test_a_model_is_told_the_roles_that_it_names_and_documents_are_asked_for_as_kura_does(
    where: str, tmp_path: Path
) -> None:
    model = OwnWay()
    cached = CachedEmbeddingModel(model, tmp_path if where == "beneath a cache" else None)
    for role in ("clustering", "document"):
        assert cached.embed_sync(TEXTS, role=role) == FAKE.lists(TEXTS, role)
    assert model.told == [{"role": "clustering"}, {}]


def test_a_model_without_roles_shares_all_entries_and_is_told_none(tmp_path: Path) -> None:
    model = Plain()
    cached = CachedEmbeddingModel(model, tmp_path)
    for bare in (cached, CachedEmbeddingModel(model)):
        for door in DOORS.values():
            assert door(bare, "clustering") == door(bare, "document") == FAKE.lists(TEXTS)
    assert cached.stats.misses == len(TEXTS)
    assert cached.cache_key("x") == cached.cache_key("x", role="clustering")


@pytest.mark.parametrize(
    ("role", "error"),
    [("", ValueError), ("a\ud800", ValueError), (None, TypeError), (b"query", TypeError), ((), TypeError)],
)
@pytest.mark.parametrize("roles", [(), ROLES])
def test_what_is_no_role_is_refused(roles: tuple[str, ...], role: Any, error: type[Exception]) -> None:
    model = FakeEmbeddingModel(roles=roles)
    for door in DOORS.values():
        with pytest.raises(error, match="a role"):
            door(CachedEmbeddingModel(model), role)
    assert model.calls == []
    with pytest.raises(error, match="a role"):
        ModelIdentity.of("m").head(role)


@pytest.mark.parametrize("roles", ["query", 3, print, ("query", 1), ("query", "")])
def test_roles_that_are_no_strings_are_refused_at_once(roles: Any) -> None:
    model = Plain()
    model.roles = roles  # type: ignore[attr-defined]
    with pytest.raises((TypeError, ValueError), match="role"):
        CachedEmbeddingModel(model)


def test_a_member_of_an_enum_is_its_value(tmp_path: Path) -> None:
    class Roles(str, enum.Enum):
        CLUSTERING = "clustering"

    cached = CachedEmbeddingModel(FakeEmbeddingModel(roles=list(Roles)), tmp_path)
    assert cached.cache_key("x", role=Roles.CLUSTERING) == cached.cache_key("x", role="clustering")
    assert cached.embed_sync(TEXTS, role=Roles.CLUSTERING) == FAKE.lists(TEXTS, "clustering")


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(
    ['document"', 'document","source":{}', "document\\", "Document", "document\0", "dokument", "\u200bquery"]
)


@given(NAMES, NAMES)
def test_heads_are_equal_exactly_when_the_roles_are(left: str, right: str) -> None:
    identity = ModelIdentity.of("m", {"p": 1}, {"s": "document"})
    assert (identity.head(left) == identity.head(right)) == (left == right)
    assert identity.head(left).count(b"\0") == 1


def test_what_decides_one_role_is_in_its_keys_alone() -> None:
    plain = ModelIdentity.of("m", {}, {"prompt": "d"})
    of_role = ModelIdentity.of("m", {}, {"prompt": "d"}, {"clustering": {"prompt": "c"}})
    assert plain.head("document") == of_role.head("document")
    assert plain.head("classification") == of_role.head("classification")
    assert plain.head("clustering") != of_role.head("clustering")


def test_an_adapter_asks_for_queries_which_a_source_with_roles_must_name(tmp_path: Path) -> None:
    pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
    from kura_cache_adapters import LangChainCachedEmbeddings

    for roles, told_apart in (((), False), (("query", *ROLES), True)):
        model = FakeEmbeddingModel(roles=roles)
        adapter = LangChainCachedEmbeddings.from_embeddings(model, tmp_path / str(told_apart))
        assert (adapter.embed_query("a") != adapter.embed_documents(["a"])[0]) == told_apart
    adapter = LangChainCachedEmbeddings.from_embeddings(FakeEmbeddingModel(roles=ROLES), tmp_path)
    with pytest.raises(ValueError, match="not as 'query'"):
        adapter.embed_query("a")


# The models of this package.


@pytest.mark.parametrize("where", ["beneath a cache", "alone"])
def test_an_api_is_asked_in_each_role_in_its_own_way(
    where: str, openai_server: OpenAIServer, tmp_path: Path
) -> None:
    roles: Any = {"clustering": {"prefix": "cluster: "}, "classification": {"extra_body": {"task": "c"}}}
    model = OpenAIEmbeddingModel(roles=roles)
    cached = CachedEmbeddingModel(model, tmp_path if where == "beneath a cache" else None)
    assert set(model.roles) == {"query", *roles}
    assert cached.embed_sync(["a"], role="clustering") == openai_server.lists(["cluster: a"])
    cached.embed_sync(["a"], role="classification")
    assert openai_server.requests[-1]["task"] == "c"
    assert cached.embed_sync(["a"], role="query") == openai_server.lists(["a"])
    with pytest.raises(ValueError, match="not as 'cluster'"):
        cached.embed_sync(["a"], role="cluster")
    assert OpenAIEmbeddingModel(roles={"clustering": {"prefix": ""}}).roles == ()


@pytest.mark.usefixtures("openai_server")
def test_what_a_role_goes_without_is_told_from_what_documents_are_asked_with() -> None:
    def of(**roles: Any) -> bytes:
        model = OpenAIEmbeddingModel(
            roles={"document": {"prefix": "d: ", "extra_body": {"task": 1}}, **roles}
        )
        return CachedEmbeddingModel(model).identity().head("query")

    without: list[Any] = [{}, {"prefix": "q: "}, {"prefix": "d: "}, {"extra_body": {"task": 1}}]
    heads = {of(query=options, clustering={"prefix": "c: "}) for options in without}
    same = {"prefix": "d: ", "extra_body": {"task": 1}}
    assert len(heads | {of(query=same, clustering={"prefix": "c: "})}) == len(without) + 1
    assert len(heads | {of(query={**same, "prefix": "q: "})}) == len(without) + 1


def test_each_prompt_of_a_local_model_is_a_role(minilm: Path, tmp_path: Path) -> None:
    prompts = {"classification": "classify: ", "clustering": "cluster: "}
    model = SentenceTransformerEmbeddingModel(path=minilm, prompts=prompts)
    cached = CachedEmbeddingModel(model, tmp_path)
    assert set(model.roles) == {"query", *prompts}
    for _ in range(2):
        for role, prompt in (*prompts.items(), ("query", ""), ("document", "")):
            expected = model.model.encode([prompt + text for text in TEXTS], prompt="")
            assert np.abs(cached.embed_array_sync(TEXTS, role=role) - expected).max() < 1e-6
    assert cached.stats.misses == 4 * len(TEXTS)
    with pytest.raises(ValueError, match="not as 'cluster'"):
        cached.embed_sync(TEXTS, role="cluster")


def test_a_prompt_moves_the_keys_of_its_own_role_alone(minilm: Path) -> None:
    def keys(**prompts: str) -> dict[str, str]:
        model = CachedEmbeddingModel(SentenceTransformerEmbeddingModel(path=minilm, prompts=prompts))
        return {role: model.cache_key("x", role=role) for role in ALL}

    before = keys(classification="a: ", clustering="b: ")
    after = keys(classification="a: ", clustering="c: ")
    assert {role for role in ALL if before[role] != after[role]} == {"clustering"}
