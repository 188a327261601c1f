"""OpenAIEmbeddingModel against servers that speak OpenAI's API with an accent, over real HTTP."""

from __future__ import annotations

import asyncio
import logging
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

openai = pytest.importorskip("openai", reason="needs the extra `openai`")

from kura_cache_adapters import (  # noqa: E402
    AnswerError,
    ArrowStore,
    CachedEmbeddingModel,
    IdentityError,
    MemoryStore,
    OpenAIEmbeddingModel,
    RefusedTextsError,
    TieredStore,
    VectorCountError,
)
from kura_cache_adapters.embedding._openai.batches import RequestSize  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters.testing.openai_server import OpenAIServer

TEXTS = [f"text number {at}" for at in range(20)]
ACCENTS = ["error body", "null data", "html", "bare list"]


@pytest.mark.parametrize("fault", ["no index", "null index"])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_a_server_without_indices_answers_by_position(
    openai_server: OpenAIServer, tmp_path: Path, fault: Any, count: int
) -> None:
    openai_server.faults = [fault]
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    for _ in range(2):
        assert cached.embed_sync(TEXTS[:count]) == openai_server.lists(TEXTS[:count])
    assert openai_server.texts == TEXTS[:count]


def test_indices_that_do_not_say_which_text_are_an_error(openai_server: OpenAIServer, tmp_path: Path) -> None:
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    openai_server.faults = ["mixed index"]
    with pytest.raises(VectorCountError, match=r"20 vectors for the texts \[0, None, 0"):
        cached.embed_sync(TEXTS)
    assert cached.stats.stored == 0


def test_too_few_vectors_without_indices_are_an_error(openai_server: OpenAIServer) -> None:
    openai_server.embed = lambda texts: np.zeros((len(texts) - 1, 3), np.float32)
    openai_server.faults = ["no index"]
    with pytest.raises(VectorCountError, match="answered with 19 vectors"):
        CachedEmbeddingModel(OpenAIEmbeddingModel()).embed_sync(TEXTS)


@pytest.mark.parametrize("fault", ACCENTS)
def test_an_answer_that_is_no_embeddings_is_one_error_that_quotes_it(
    openai_server: OpenAIServer, tmp_path: Path, fault: Any
) -> None:
    openai_server.faults = [fault]
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    with pytest.raises(AnswerError) as caught:
        cached.embed_sync(TEXTS)
    said = {
        "error body": "model not loaded",
        "null data": "an object with the fields ['object', 'data', 'model', 'usage']",
        "html": "with: Welcome to the gateway",
        "bare list": "a list of 20",
    }
    assert openai_server.url in str(caught.value)
    assert said[fault] in str(caught.value)
    assert "style" not in str(caught.value)
    assert "base_url" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert cached.embed_sync(TEXTS) == openai_server.lists(TEXTS)


@pytest.mark.parametrize("fault", ACCENTS)
def test_an_address_without_v1_is_named_as_the_likely_reason(openai_server: OpenAIServer, fault: Any) -> None:
    openai_server.faults = [fault]
    url = openai_server.url.removesuffix("/v1")
    model = OpenAIEmbeddingModel(client=openai.AsyncOpenAI(base_url=url))
    with pytest.raises(AnswerError, match=f"base_url that ends in /v1: {url}/v1"):
        CachedEmbeddingModel(model).embed_sync(TEXTS)


def test_what_is_no_base64_of_floats_is_the_same_error(openai_server: OpenAIServer) -> None:
    for content in (b"abc", b"\0\0\0\0\0"):
        openai_server.embed = lambda texts, content=content: [Bytes(content) for _ in texts]
        with pytest.raises(AnswerError, match="not base64 of float32"):
            CachedEmbeddingModel(OpenAIEmbeddingModel()).embed_sync(TEXTS)


class Bytes:
    """What passes for a vector with the server."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def tobytes(self) -> bytes:
        return self.content


def test_a_server_that_refuses_base64_is_asked_for_floats_from_then_on(
    openai_server: OpenAIServer, tmp_path: Path
) -> None:
    right = OpenAIEmbeddingModel(model_batch_size=5)
    before = CachedEmbeddingModel(right).embed_array_sync(TEXTS)
    openai_server.requests.clear()
    openai_server.only_float = True
    model = OpenAIEmbeddingModel(model_batch_size=5, n_concurrent_jobs=1)
    for texts in (TEXTS, ["more"]):
        CachedEmbeddingModel(model, tmp_path).embed_array_sync(texts)
    after = CachedEmbeddingModel(model, tmp_path).embed_array_sync(TEXTS)
    assert after.dtype == before.dtype == np.float32
    assert after.tobytes() == before.tobytes()
    assert [request["encoding_format"] for request in openai_server.requests] == ["base64", *["float"] * 5]


def test_a_server_that_does_not_say_why_it_refuses_base64_is_understood(openai_server: OpenAIServer) -> None:
    openai_server.faults = ["400"]
    model = OpenAIEmbeddingModel()
    assert CachedEmbeddingModel(model).embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert CachedEmbeddingModel(model).embed_sync(["more"]) == openai_server.lists(["more"])
    formats = [request["encoding_format"] for request in openai_server.requests]
    assert formats == ["base64", "float", "float"]


def test_floats_can_be_asked_for_and_have_the_same_keys(openai_server: OpenAIServer, tmp_path: Path) -> None:
    plain = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    floats = CachedEmbeddingModel(OpenAIEmbeddingModel(encoding_format="float"), tmp_path)
    assert floats.embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert plain.embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert [request["encoding_format"] for request in openai_server.requests] == ["float"]
    with pytest.raises(ValueError, match="'base64' or 'float'"):
        OpenAIEmbeddingModel(encoding_format="binary")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad", [[7], [0], [255], [3, 4, 5, 6, 200], [0, 1, 2, 253, 254, 255], [*range(90, 110)]]
)
def test_a_refused_text_is_named_and_costs_the_others_nothing(
    openai_server: OpenAIServer, tmp_path: Path, bad: list[int]
) -> None:
    texts = [f"{'REFUSED' if at in bad else 'good'} {at}" for at in range(256)]
    openai_server.refuses = lambda text: "REFUSED" in text
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    with pytest.raises(RefusedTextsError, match="input cannot be an empty string") as caught:
        cached.embed_sync(texts)
    assert caught.value.positions == tuple(bad)
    assert f"at position {', '.join(map(str, bad))}:" in str(caught.value)
    assert "REFUSED" not in str(caught.value)
    assert isinstance(caught.value.__cause__, openai.BadRequestError)
    assert cached.stats.stored == 256 - len(bad)
    assert len(openai_server.requests) <= 20 * len(bad)
    openai_server.requests.clear()
    good = [text for text in texts if "REFUSED" not in text]
    assert cached.embed_sync(good) == openai_server.lists(good)
    assert not openai_server.requests


def test_refused_texts_are_found_in_every_batch(openai_server: OpenAIServer, tmp_path: Path) -> None:
    texts = [f"{'bad' if at % 10 == 3 else 'good'} {at}" for at in range(400)]
    openai_server.refuses = lambda text: "bad" in text
    model = OpenAIEmbeddingModel(model_batch_size=10, n_concurrent_jobs=40)
    cached = CachedEmbeddingModel(model, tmp_path)
    with pytest.raises(RefusedTextsError, match=r"refused 40 of the texts, at position 3, 13, 23, .*, ...:"):
        cached.embed_sync(texts)
    assert cached.stats.stored == 360


def test_one_text_alone_that_is_refused_is_named_too(openai_server: OpenAIServer) -> None:
    openai_server.refuses = lambda text: not text
    with pytest.raises(RefusedTextsError, match="at position 0: input cannot be"):
        CachedEmbeddingModel(OpenAIEmbeddingModel()).embed_sync([""])


def test_a_server_that_refuses_everything_is_not_asked_for_each_text(
    openai_server: OpenAIServer, tmp_path: Path
) -> None:
    openai_server.refuses = lambda _: True
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    with pytest.raises(openai.BadRequestError, match="input cannot be an empty string"):
        cached.embed_sync([f"text {at}" for at in range(3000)])
    assert len(openai_server.requests) < 50


def test_a_server_that_begins_to_refuse_is_not_asked_for_each_text(
    openai_server: OpenAIServer, tmp_path: Path
) -> None:
    openai_server.refuses = lambda text: int(text) >= 2000
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(model_batch_size=10), tmp_path)
    with pytest.raises(openai.BadRequestError):
        cached.embed_sync([str(at) for at in range(6000)])
    assert cached.stats.stored == 2000
    assert len(openai_server.requests) < 600


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_is_not_for_a_text_is_not_halved(openai_server: OpenAIServer, status: int) -> None:
    openai_server.says = (status, "not for you")
    with pytest.raises(openai.APIStatusError, match="not for you"):
        CachedEmbeddingModel(OpenAIEmbeddingModel()).embed_sync(TEXTS)
    assert len(openai_server.requests) == 1


def test_a_limit_on_requests_is_told_with_its_option_and_kept(
    openai_server: OpenAIServer, caplog: pytest.LogCaptureFixture
) -> None:
    openai_server.most_texts = 4
    model = OpenAIEmbeddingModel(n_concurrent_jobs=1)
    for texts in (TEXTS, [f"more {text}" for text in TEXTS]):
        openai_server.requests.clear()
        assert CachedEmbeddingModel(model).embed_sync(texts) == openai_server.lists(texts)
    assert max(len(request["input"]) for request in openai_server.requests) <= 4
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    assert "model_batch_size" in told[0]
    assert "batch size 20 > maximum allowed batch size 4" in told[0]


@pytest.mark.parametrize(
    ("status", "message", "warnings", "left"),
    [
        (422, "batch size 256 > maximum allowed batch size 32", 1, 128),
        (400, "Invalid 'input': array too long. Expected an array with maximum length 100", 1, 128),
        (413, "Request Entity Too Large", 1, 256),
        (400, "Too many tokens in batch. Maximum is 16384", 1, 256),
        (400, "Requested 400000 tokens, max 300000 tokens per request", 1, 256),
        (400, "This model's maximum context length is 8192 tokens, however you requested 9000", 0, 256),
        (400, "input cannot be an empty string", 0, 256),
    ],
)
def test_only_a_refusal_that_speaks_of_how_many_makes_all_requests_smaller(
    caplog: pytest.LogCaptureFixture, status: int, message: str, warnings: int, left: int
) -> None:
    size = RequestSize(256)
    for _ in range(2):
        size.refused(256, status, message)
    assert size.texts == left
    assert [record.getMessage().count("model_batch_size") for record in caplog.records] == [1] * warnings


@pytest.mark.parametrize("fault", ["no usage", "odd usage", "negative usage", "null usage", "list usage"])
def test_odd_bookkeeping_costs_no_answer(openai_server: OpenAIServer, tmp_path: Path, fault: Any) -> None:
    openai_server.faults = [fault]
    model = OpenAIEmbeddingModel()
    assert CachedEmbeddingModel(model, tmp_path).embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert (model.usage.requests, model.usage.texts, model.usage.tokens) == (1, 20, 0)


@pytest.mark.parametrize("encoding", ["base64", "float"])
def test_a_hole_leaves_the_others_type_and_is_not_stored(
    openai_server: OpenAIServer, tmp_path: Path, encoding: Any
) -> None:
    model = OpenAIEmbeddingModel(encoding_format=encoding)
    cached = CachedEmbeddingModel(model, tmp_path)
    right = openai_server.lists(TEXTS[:3])
    for _ in range(2):
        openai_server.faults = ["hole"]
        answer = cached.embed_sync(TEXTS[:3])
        assert answer == [right[0], None, right[2]]
        assert [type(vector) for vector in answer] == [list, type(None), list]
        assert cached.stats.stored == 2
    assert openai_server.texts == [*TEXTS[:3], TEXTS[1]]
    openai_server.faults = []
    assert cached.embed_sync(TEXTS[:3]) == right


def test_another_model_at_the_same_address_is_a_warning_and_not_mixed(
    openai_server: OpenAIServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    openai_server.answers_as = "llama-3.gguf"
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    before = cached.embed_sync(TEXTS)
    openai_server.answers_as = "qwen.gguf"
    for _ in range(2):
        with pytest.raises(IdentityError, match=r"(?s)'qwen.gguf' and before as 'llama-3.gguf'.*identity="):
            cached.embed_sync([*TEXTS, "more"])
    assert cached.stats.stored == len(TEXTS)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert cached.embed_sync(TEXTS) == before
    openai_server.answers_as = "llama-3.gguf"
    assert cached.embed_sync([*TEXTS, "more"]) == openai_server.lists([*TEXTS, "more"])


def test_models_that_change_within_a_call_are_not_mixed(openai_server: OpenAIServer, tmp_path: Path) -> None:
    def change(texts: list[str]) -> Any:
        openai_server.answers_as = f"model {'a' if len(openai_server.requests) < 3 else 'b'}"
        return openai_server.lists(texts)

    openai_server.embed = lambda texts: np.array(change(texts), np.float32)
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(model_batch_size=5, n_concurrent_jobs=1), tmp_path)
    with pytest.raises(IdentityError, match="'model b' and before as 'model a'"):
        cached.embed_sync(TEXTS)
    assert cached.stats.stored == 10


@pytest.mark.parametrize("how", ["a query", "no cache", "a pickle", "floats", "another loop"])
def test_another_model_is_noticed_whoever_asks_and_however(
    openai_server: OpenAIServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    openai_server.answers_as = "llama-3.gguf"
    model = OpenAIEmbeddingModel(
        encoding_format="float" if how == "floats" else "base64", roles={"query": {"prefix": "query: "}}
    )
    cached = CachedEmbeddingModel(model, None if how == "no cache" else tmp_path)
    cached.embed_sync(TEXTS)
    if how == "a pickle":
        cached = pickle.loads(pickle.dumps(cached))
    openai_server.answers_as = "qwen.gguf"
    ask = {
        "a query": lambda: cached.embed_sync(TEXTS[:1], role="query"),
        "another loop": lambda: asyncio.run(cached.embed(["more"])),
    }.get(how, lambda: cached.embed_array_sync([*TEXTS, "more"]))
    with pytest.raises(IdentityError, match=r"'qwen.gguf' and before as 'llama-3.gguf'"):
        ask()
    assert "neither stored nor handed out" in caplog.text


@pytest.mark.parametrize("name", ["text-embedding-3-small-2024-01", "", None])
def test_a_server_that_keeps_to_its_own_name_causes_no_warning(
    openai_server: OpenAIServer, caplog: pytest.LogCaptureFixture, name: str | None
) -> None:
    openai_server.answers_as = name
    model = OpenAIEmbeddingModel(model_batch_size=5)
    for _ in range(2):
        assert CachedEmbeddingModel(model).embed_sync(TEXTS) == openai_server.lists(TEXTS)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_who_says_that_two_names_are_one_model_is_believed_and_keeps_the_keys(
    openai_server: OpenAIServer, tmp_path: Path
) -> None:
    read = OpenAIEmbeddingModel()
    vouched = OpenAIEmbeddingModel(identity=read.identity())
    cached = CachedEmbeddingModel(vouched, tmp_path)
    for name in ("a", "b"):
        openai_server.answers_as = name
        assert cached.embed_sync([name]) == openai_server.lists([name])
    assert cached.cache_key("a") == CachedEmbeddingModel(read, tmp_path).cache_key("a")


@pytest.mark.parametrize("status", ["200", "400"])
def test_a_message_that_repeats_a_secret_or_a_text_shows_neither(
    openai_server: OpenAIServer, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    secrets = "key sk-test-MARKED, header yyyyyyyy-MARKED, password pass-MARKED, extra zzzzzz-MARKED"
    message = f"{secrets}, text number 0"
    openai_server.says = (int(status), message)
    client = openai.AsyncOpenAI(
        base_url=openai_server.url.replace("://", "://user:pass-MARKED@"),
        default_headers={"x-team": "yyyyyyyy-MARKED"},
    )
    model = OpenAIEmbeddingModel(client=client, extra_headers={"x-extra": "Bearer zzzzzz-MARKED"})
    with pytest.raises((AnswerError, RefusedTextsError)) as caught:
        CachedEmbeddingModel(model).embed_sync(TEXTS[:1])
    assert "MARKED" not in str(caught.value) + caplog.text
    assert "key ***, header ***, password ***, extra ***" in str(caught.value)
    assert "text number" not in str(caught.value)


def test_a_message_that_repeats_the_beginning_of_a_text_ends_there(openai_server: OpenAIServer) -> None:
    text = "a confidential sentence " * 50
    openai_server.says = (422, f"cannot embed '{text[:600]}...'")
    with pytest.raises(RefusedTextsError, match=r"cannot embed '\*\*\*\n"):
        CachedEmbeddingModel(OpenAIEmbeddingModel()).embed_sync([text])


def test_refused_texts_are_named_by_their_places_in_the_callers_list(
    openai_server: OpenAIServer, tmp_path: Path
) -> None:
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path)
    cached.embed_sync(["hit", "another hit"])
    openai_server.refuses = lambda text: "REFUSED" in text
    texts = ["hit", "REFUSED", "good", "another hit", "good", "REFUSED", "REFUSED too"]
    with pytest.raises(RefusedTextsError, match="at position 1, 5, 6:") as caught:
        cached.embed_sync(texts)
    assert caught.value.positions == (1, 5, 6)
    assert cached.missing(texts) == [1, 6]


def test_what_only_queries_are_asked_with_leaves_the_documents_keys_alone() -> None:
    plain = CachedEmbeddingModel(OpenAIEmbeddingModel())
    roles: Any = {"query": {"prefix": "query: ", "extra_body": {"input_type": "query"}}}
    asked = CachedEmbeddingModel(OpenAIEmbeddingModel(roles=roles))
    assert plain.cache_key("a") == asked.cache_key("a")
    assert plain.cache_key("a", role="query") != asked.cache_key("a", role="query")


def tiers(path: Path) -> Any:
    return TieredStore(MemoryStore(), ArrowStore(path))


@pytest.mark.parametrize("cache", [str, "parquet://{}".format, "jsonl://{}".format, tiers])
def test_another_model_after_a_restart_of_both_is_noticed_and_not_mixed_in(
    openai_server: OpenAIServer, tmp_path: Path, cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def wrap(**options: Any) -> CachedEmbeddingModel:
        return CachedEmbeddingModel(OpenAIEmbeddingModel(**options), cache(tmp_path / "cache"))

    openai_server.answers_as = "llama.gguf"
    wrap().embed_sync(TEXTS[:2])
    assert wrap().embed_sync(TEXTS[:3]) == openai_server.lists(TEXTS[:3])
    assert "answers for" not in caplog.text
    openai_server.answers_as = "qwen.gguf"
    openai_server.embed = lambda texts: np.full((len(texts), 8), 7, np.float32)
    restarted = wrap()
    with pytest.raises(IdentityError, match=r"as 'qwen.gguf' and before as 'llama.gguf'"):
        restarted.embed_sync(TEXTS[:4])
    assert "as 'qwen.gguf' and before as 'llama.gguf'" in caplog.text
    assert restarted.stats.stored == 0
    assert wrap().missing(TEXTS[:4]) == [3]
    renamed = wrap(model_name="qwen")
    assert renamed.embed_sync(TEXTS[:4]) == [[7.0] * 8] * 4


def test_a_note_on_who_answers_is_no_trouble_and_no_text(openai_server: OpenAIServer, tmp_path: Path) -> None:
    openai_server.answers_as = "a\nname"
    cached = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path / "cache")
    cached.embed_sync(TEXTS[:1])
    (note,) = tmp_path.glob("cache/*/_answered_by")
    assert note.read_bytes() == b"a\nname"
    note.unlink()
    note.mkdir()
    again = CachedEmbeddingModel(OpenAIEmbeddingModel(), tmp_path / "cache")
    assert again.embed_sync(TEXTS[:2]) == openai_server.lists(TEXTS[:2])
    assert again.stats.stored == 1
