"""Keys: equal exactly when the requests are the same."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kura_cache_adapters import CachedEmbeddingModel
from kura_cache_adapters._identity.keys import RememberedKeys, TextKeys, text_keys
from kura_cache_adapters.identity import ModelIdentity
from kura_cache_adapters.testing import FakeEmbeddingModel

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
REQUESTS = st.tuples(
    st.text(min_size=1),
    st.dictionaries(st.text(), PLAIN, max_size=3),
    st.dictionaries(st.text(), PLAIN, max_size=2),
    st.sampled_from(["document", "query"]) | st.text(min_size=1),
    st.text(alphabet=st.characters()),
)


def key(request: tuple[Any, ...]) -> bytes:
    name, parameters, source, role, text = request
    return text_keys(ModelIdentity.of(name, parameters, source).head(role), [text])[0]


def exact(request: tuple[Any, ...]) -> str:
    name, parameters, source, role, text = request
    return repr((name, json.dumps([parameters, source], sort_keys=True), role, text))


@given(REQUESTS, REQUESTS)
def test_two_requests_share_a_key_exactly_when_they_are_the_same(left: Any, right: Any) -> None:
    assert (key(left) == key(right)) == (exact(left) == exact(right))


def test_the_key_is_what_the_format_document_says() -> None:
    head = (
        b'{"model_name":"m\\u00fc","parameters":{"a":[1,2.0,null],"b":true},'
        b'"role":"query","source":{},"version":1}'
    )
    identity = ModelIdentity.of("mü", {"b": True, "a": (1, 2.0, None)})
    assert identity.head("query") == head + b"\0"
    assert text_keys(identity.head("query"), ["é"]) == [sha256(head + b"\0\xc3\xa9").digest()]


def test_keys_never_change_between_releases() -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel("text-embedding-3-small"), temperature=0.5)
    assert (
        model.cache_key("Hello world") == "f8211962504df246011e72403af8bcb701bd9df2dc24f28b8cdad806893f24ac"
    )


AWKWARD = ["", " ", "\0", "a\0", "a", "A", "é", "e\u0301", "\ud800", "\udfff", "\U0010ffff", "x" * 10_000_000]


def test_awkward_texts_have_keys_of_their_own() -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel())
    assert len({model.cache_key(text) for text in AWKWARD}) == len(AWKWARD)


@pytest.mark.parametrize("name", ["text", "name", "role", "source", "version", "self", "parameters"])
def test_no_keyword_shadows_a_field(name: str) -> None:
    plain = CachedEmbeddingModel(FakeEmbeddingModel())
    named = CachedEmbeddingModel(FakeEmbeddingModel(), **{name: "fake"})  # type: ignore[arg-type]
    other = CachedEmbeddingModel(FakeEmbeddingModel(), **{name: "other"})  # type: ignore[arg-type]
    assert len({model.cache_key("fake") for model in (plain, named, other)}) == 3


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", {1: 2}, [object()], {"a": {"b": print}}])
def test_a_keyword_without_an_exact_place_in_a_key_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="option"):
        CachedEmbeddingModel(FakeEmbeddingModel(), option=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_keyword_that_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"parameter 'option' is (nan|inf), which has no exact place"):
        CachedEmbeddingModel(FakeEmbeddingModel(), option=value)


def test_true_one_and_one_point_zero_are_different_parameters() -> None:
    keys = {CachedEmbeddingModel(FakeEmbeddingModel(), p=p).cache_key("x") for p in (True, 1, 1.0, "1")}
    assert len(keys) == 4


def test_what_a_source_declares_is_in_the_key_and_its_slug_is_not() -> None:
    class Declaring(FakeEmbeddingModel):
        declared: dict[str, Any]
        name = "slug"

        def identity(self) -> dict[str, Any]:
            return self.declared

        def slug(self) -> str:
            return self.name

    def key_with(declared: dict[str, Any], slug: str) -> str:
        model = Declaring()
        model.declared, model.name = declared, slug
        return CachedEmbeddingModel(model).cache_key("x")

    assert key_with({"prompt": "a"}, "batch 1") == key_with({"prompt": "a"}, "batch 2")
    assert key_with({"prompt": "a"}, "x") != key_with({"prompt": "b"}, "x")


def test_a_role_is_in_the_key_where_it_makes_a_difference() -> None:
    for roles in ((), ("query",)):
        model = CachedEmbeddingModel(FakeEmbeddingModel(roles=roles))
        assert (model.cache_key("x") == model.cache_key("x", role="query")) == (not roles)


def test_an_identity_is_written_down_and_read_back() -> None:
    identity = ModelIdentity.of("a/b: c", {"x": [1, {"y": None}]}, {"z": 0.1})
    assert ModelIdentity.from_json(identity.to_json()) == identity
    assert identity.directory.startswith("a-b-c-")


@pytest.mark.parametrize(
    "text",
    [
        *["", "[]", "{}", "null", "[" * 100_000, '{"version":2}', '{"version":1,"model_name":3}'],
        *['{"version":1,"model_name":"m","parameters":3,"source":{}}', b"\xff"],
    ],
)
def test_what_is_no_identity_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"not|key version|Expecting|decode"):
        ModelIdentity.from_json(text)


@pytest.mark.parametrize("name", ["", "..", "/", "\0", "a" * 500, "con", "Ünï/cödé"])
def test_a_directory_name_is_short_and_plain_whatever_the_model(name: str) -> None:
    directory = ModelIdentity.of(name).directory
    assert len(directory) < 80
    assert all(part.isalnum() or part in "._-" for part in directory)
    assert directory.isascii()
    assert not directory.startswith(".")


@pytest.mark.parametrize(
    "build",
    [
        ModelIdentity.of,
        lambda text: ModelIdentity.of("m", {"prompt": text}),
        lambda text: ModelIdentity.of("m", {}, {"prompts": {"query": [text]}}),
        lambda text: ModelIdentity.of("m", {}, {text: 1}),
    ],
)
def test_two_lone_surrogates_are_refused_where_json_would_make_them_one_character(build: Any) -> None:
    build("\U0001f600")
    with pytest.raises(ValueError, match="lone surrogate"):
        build("\ud83d\ude00")


def test_a_sources_field_names_must_be_strings() -> None:
    with pytest.raises(TypeError, match="must be a str"):
        ModelIdentity.of("m", {}, {1: "a"})  # type: ignore[dict-item]


@given(st.lists(st.lists(st.text(max_size=6), max_size=6), max_size=12), st.integers(0, 20))
def test_remembered_keys_are_the_computed_ones(calls: list[list[str]], remember: int) -> None:
    head = ModelIdentity.of("m").head("document")
    remembering = TextKeys(head, remembered=RememberedKeys(remember))
    for texts in calls:
        assert remembering(texts) == text_keys(head, texts)
        assert sum(map(len, remembering._known)) <= remember


def test_a_string_that_claims_to_equal_another_has_its_own_key() -> None:
    class Folded(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return str(self).lower() == str(other).lower()

        def __hash__(self) -> int:
            return hash(str(self).lower())

    model = FakeEmbeddingModel()
    cached = CachedEmbeddingModel(model, "memory://")
    for _ in range(2):
        assert cached.embed_sync([Folded("a"), Folded("A"), "a"]) == model.lists(["a", "A", "a"])
