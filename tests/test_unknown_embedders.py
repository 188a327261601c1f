"""Embedders without a record: of an installed package all that is plain counts, the user's own are named."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import SecretStr

from kura_cache_adapters import CachedEmbeddingModel, IdentityError
from kura_cache_adapters._identity.fingerprint import fingerprint
from kura_cache_adapters._identity.origin import is_installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = "MARKED-secret-0123456789"
PACKAGE = '''
"""A released package of somebody's."""
from enum import Enum
from functools import cached_property
from pydantic import BaseModel, PrivateAttr

class Plain:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)
    def embed_documents(self, texts):
        return [[0.0] for _ in texts]

class Fields(BaseModel):
    model: str = "m"
    note: str | None = None
    _mode: str = PrivateAttr(default="plain")
    def embed_documents(self, texts):
        return [[0.0] for _ in texts]

class Pooling(Enum):
    CLS = "cls"
    MEAN = "mean"

class Part:
    def __init__(self, name):
        self.name = name

class Slotted:
    __slots__ = ("_prefix", "model")
    def __init__(self, prefix):
        self.model, self._prefix = "m", prefix
    def embed_documents(self, texts):
        return [[0.0] for _ in texts]

class Lazy(Plain):
    @cached_property
    def tokenizer(self):
        return object()
'''


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Install a package, and import it."""
    name = f"theirs_{uuid.uuid4().hex}"
    site = tmp_path / "lib" / "site-packages"
    (site / name).mkdir(parents=True)
    (site / name / "__init__.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(site)
    yield import_module(name)
    del sys.modules[name]
    is_installed.cache_clear()


def digest(embedder: Any) -> str:
    return fingerprint(embedder).identity.digest


def test_all_that_is_plain_data_counts_and_exactly(theirs: Any) -> None:
    part, plain = theirs.Part, theirs.Plain
    empty: list[Any] = [None, [], {}, "", 0, False, 0.0]
    keyed: list[dict[Any, str]] = [{1: "a"}, {"1": "a"}, {1.5: "a"}, {None: "a"}]
    different: list[dict[str, Any]] = [
        {},
        *({"stopwords": value} for value in empty),
        *({"options": value} for value in keyed),
        *({"client": value} for value in ("a", "b", None, part("a"), part("b"))),
        *({"novelty": value} for value in (1, "1", 1.0, True, [1], (1, 2), [1, {"a": None}], [1, {}])),
        *({name: 7} for name in ("batch_size", "timeout", "max_token", "_dimensions", "_last_layer")),
        *({"pooling": value} for value in (*theirs.Pooling, "cls")),
        *({"kind": value} for value in (int, float)),
        {"words": frozenset({"a", "b"})},
        *({"inner": plain(model=name)} for name in "ab"),
        {"_inner": plain(model="b")},
        *({"query_token": value} for value in ("[Q]", "[D]")),
        *({"_projection": value} for value in (np.eye(2), np.eye(3), np.eye(2, dtype="f4"))),
        *({"_scale": value} for value in (np.float32(2), 3.5, float("inf"), float("-inf"))),
        *({"base_url": f"http://127.0.0.1:{port}"} for port in (1, 2)),
        *({"url": f"https://127.0.0.1/a?v={v}"} for v in (1, 2)),
        *({"raw": value} for value in (b"a", b"b", "a")),
        {"prompts": {"query": "see https://u:p@127.0.0.1/ for more"}},
    ]
    seen: dict[str, Any] = {}
    for attributes in different:
        now = digest(plain(model="m", **attributes))
        assert now not in seen, (attributes, seen[now])
        assert digest(plain(model="m", **attributes)) == now
        seen[now] = attributes


@pytest.mark.filterwarnings("ignore")
def test_a_counter_counts_and_is_named_in_a_warning(theirs: Any, caplog: Any) -> None:
    assert digest(theirs.Plain(model="m", _count=2)) != digest(theirs.Plain(model="m", _count=3))
    assert "'_count'" in caplog.text
    assert "model_name=" in caplog.text


@pytest.mark.parametrize(
    "passing",
    [
        {"created": time.time()},
        {"started_ms": int(time.time() * 1000)},
        {"made": dt.datetime.now(tz=dt.timezone.utc)},
        {"run": uuid.uuid4()},
        {"instance": str(uuid.uuid4())},
        {"_calls": 0},
        {"_total_requests": 3},
    ],
    ids=lambda passing: next(iter(passing)),
)
def test_what_no_other_run_can_have_is_named_in_a_warning(
    passing: dict[str, Any], theirs: Any, caplog: Any
) -> None:
    fingerprint(theirs.Plain(model="m", **passing))
    assert f"The attribute {next(iter(passing))!r}" in caplog.text
    assert "no other run may ever find an entry" in caplog.text


def test_what_looks_alike_and_stays_is_not(theirs: Any, caplog: Any) -> None:
    fingerprint(theirs.Plain(model="m", knowledge_cutoff=1.5e9, dimensions=1024, count_tokens=True, seed=7))
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("snapshot", ["2024-01-01", "2024-06-01", None]),
        ("knowledge_cutoff", [1.7e9, 1.6e9, None]),
        ("extra_body", [{"input_type": "query"}, {"input_type": "passage"}, {}]),
        ("revision", [20240101, 20240601, "20240101"]),
        ("released_at", ["2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z"]),
        ("context_window_tokens", [512, 8192]),
        ("timestamp_tokens", [True, False]),
    ],
)
def test_what_only_looks_passing_counts_in_silence(
    name: str, values: list[Any], theirs: Any, caplog: Any
) -> None:
    digests = [digest(theirs.Plain(model="m", **{name: value})) for value in values]
    assert len({*digests, digest(theirs.Plain(model="m"))}) == len(values) + 1
    assert digests == [digest(theirs.Plain(model="m", **{name: value})) for value in values]
    assert not caplog.records


SEEDED = """
import sys
from kura_cache_adapters import CachedEmbeddingModel
from {package} import Part, Plain, Pooling
words = {{"alpha", "beta", "gamma", "delta", 1, 2.5, None, ("a", "b")}}
embedder = Plain(
    model="m", words=words, frozen=frozenset("abcdef"), nested=[{{"deep": {{"x", "y", "z"}}}}],
    parts={{Pooling.CLS, Pooling.MEAN}}, options=dict.fromkeys("qwerty"), part=Part("p"), bytes=b"x",
)
added = CachedEmbeddingModel(embedder, sys.argv[1], preprocessing="lowercase", temperature=0.5)
print(added.cache_key("text"), CachedEmbeddingModel(embedder, sys.argv[1]).embed_sync(["text"]))
"""


def test_keys_are_the_same_under_every_hash_seed_and_in_every_process(theirs: Any, tmp_path: Path) -> None:
    code = SEEDED.format(package=theirs.__name__)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    answers = []
    for seed in ("0", "1", "4242", "random"):
        told = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "cache")],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
        )
        answers.append(told.stdout.splitlines()[0])
    assert len({*answers}) == 1


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("langchain_openai", 'OpenAIEmbeddings(api_key="k", default_query={"v": "1"}, model_kwargs=extra)'),
        ("llama_index.core", "MockEmbedding(embed_dim=3)"),
        (
            "kura_cache_adapters",
            'OpenAIEmbeddingModel(extra_body=extra, extra_headers={"x-b": "1", "x-a": "2"})',
        ),
    ],
)
def test_so_are_those_of_known_embedders(package: str, make: str) -> None:
    pytest.importorskip(package, reason=f"needs {package}")
    code = (
        f"from {package} import *\nfrom kura_cache_adapters import CachedEmbeddingModel\n"
        'extra = {"extra_body": {"input_type": "query", "a": 1, "b": 2}}\n'
        f'print(CachedEmbeddingModel({make}).cache_key("text"))'
    )
    answers = set()
    for seed in ("0", "4242"):
        command = [sys.executable, "-W", "ignore", "-c", code]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        answers.add(told.stdout)
    assert len(answers) == 1


def test_slots_and_private_attributes_count_and_cached_properties_do_not(theirs: Any) -> None:
    assert digest(theirs.Slotted("a")) != digest(theirs.Slotted("b"))
    used = theirs.Lazy(model="m")
    assert used.tokenizer
    assert digest(used) == digest(theirs.Lazy(model="m"))
    other = theirs.Fields()
    other._mode = "text_search"
    assert digest(other) != digest(theirs.Fields())
    assert digest(theirs.Fields(note="")) != digest(theirs.Fields())


def test_files_count_by_what_is_in_them(theirs: Any, tmp_path: Path) -> None:
    seen = set()
    for at, (content, inside) in enumerate([("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")]):
        folder = tmp_path / f"{at}"
        (folder / "sub").mkdir(parents=True)
        (folder / "weights.bin").write_text(content)
        (folder / "sub" / "more.bin").write_text(inside)
        whole = digest(theirs.Plain(model="m", folder=str(folder)))
        assert digest(theirs.Plain(model="m", folder=folder)) == whole
        seen |= {whole, digest(theirs.Plain(model="m", path=str(folder / "weights.bin")))}
    assert len(seen) == 5
    here = digest(theirs.Plain(model="m", path=str(tmp_path / "nowhere")))
    assert here != digest(theirs.Plain(model="m", path=str(tmp_path / "elsewhere")))


CREDENTIALS = ["api_key", "my_api_key", "accessToken", "password", "passphrase", "client_secret", "token"]
SECRETS = ["creds", "conn_str", "tokens", "oauth", "dsn", "cookies", "session", "proxies", "jwt", "_secret"]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_credential_is_in_no_key(name: str, theirs: Any) -> None:
    plain = digest(theirs.Plain(model="m"))
    for value in (SECRET, "another-secret", SecretStr(SECRET)):
        assert digest(theirs.Plain(model="m", **{name: value})) == plain
    nested = digest(theirs.Plain(model="m", options={}))
    assert digest(theirs.Plain(model="m", options={name: SECRET})) == nested


@pytest.mark.parametrize("name", SECRETS)
def test_another_secret_counts_and_is_sealed(name: str, theirs: Any) -> None:
    wraps: list[Callable[[str], Any]] = [str, lambda value: [value], lambda value: {"x": value}]
    for wrap in wraps:
        one, two = (theirs.Plain(model="m", **{name: wrap(value)}) for value in (SECRET, "another"))
        assert digest(one) != digest(two)
        assert SECRET not in json.dumps(fingerprint(one).fields)
        nested = theirs.Plain(model="m", options={name: wrap(SECRET)})
        assert SECRET not in json.dumps(fingerprint(nested).fields)


def test_a_secret_is_removed_wherever_it_turns_up(theirs: Any) -> None:
    url = f"https://user:{SECRET}@127.0.0.1/embed?token={SECRET}"
    for held in (
        {"api_key": SECRET, "note": f"use {SECRET} here"},
        {"headers": {"x": SECRET}, "note": f"{SECRET}!"},
        {"creds": SECRET, "model": f"m-{SECRET}"},
        {"model": url},
        {"model": "m", "inner": theirs.Plain(model="n", password=SECRET)},
        {"model": "m", "part": theirs.Part(url)},
        {"model": "m", "list": [{"apiKey": SECRET}]},
    ):
        seen = fingerprint(theirs.Plain(**{"model": "m", **held}))
        assert SECRET not in json.dumps([seen.name, seen.fields, seen.of_roles]), held
    assert "use ***" in json.dumps(fingerprint(theirs.Plain(api_key=SECRET, note=f"use {SECRET}")).fields)


UNREADABLE = [object(), lambda text: text, open, sys, iter([])]


@pytest.mark.parametrize("held", UNREADABLE, ids=lambda held: type(held).__name__)
@pytest.mark.parametrize("name", ["weights", "_weights", "client"])
def test_what_cannot_be_read_is_refused_by_its_name(held: Any, name: str, theirs: Any) -> None:
    with pytest.raises(IdentityError, match=rf"attribute '{name}'.*model_name=.*identity="):
        fingerprint(theirs.Plain(model="m", **{name: held}))
    with pytest.raises(IdentityError, match=rf"attribute '{name}'"):
        fingerprint(theirs.Plain(model="m", **{name: [{"deep": held}]}))
    assert fingerprint(theirs.Plain(model="m", **{name: held}), named=True).name == "m"


def test_an_embedder_that_holds_nothing_or_itself_is_refused(theirs: Any) -> None:
    with pytest.raises(IdentityError, match=r"says nothing.*model_name="):
        fingerprint(theirs.Plain(api_key=SECRET, _lock=threading.Lock()))
    knot: list[Any] = []
    knot.append(knot)
    with pytest.raises(IdentityError, match="knot"):
        fingerprint(theirs.Plain(model="m", knot=knot))


# The user's own classes

SCRIPT = """
import sys
from kura_cache_adapters import CachedEmbeddingModel, IdentityError
class MyEmbeddings:
    model = "word-counts"
    def embed_documents(self, texts):
        return [[float({count})] for text in texts]
    def embed_query(self, text):
        return self.embed_documents([text])[0]
try:
    cached = CachedEmbeddingModel(MyEmbeddings(), sys.argv[1])
    print("shared", cached.embed_sync(["a b"]))
except IdentityError as error:
    print(error)
cached = CachedEmbeddingModel(MyEmbeddings(), sys.argv[1], model_name="{name}")
print(cached.embed_sync(["a b"]), cached.stats.misses)
"""


def run(script: Path, *arguments: str) -> str:
    told = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return told.stdout


def test_two_scripts_with_a_class_of_one_name_share_nothing_unless_they_say_so(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    answers = []
    for name, count in (("words-v1", "len(text.split())"), ("letters-v1", "len(text)")):
        script = tmp_path / f"{name}.py"
        script.write_text(SCRIPT.format(name=name, count=count))
        answers.append(run(script, cache))
    assert all('model_name="MyEmbeddings-v1"' in answer for answer in answers)
    assert [answer.splitlines()[-1] for answer in answers] == ["[[2.0]] 1", "[[3.0]] 1"]


COMMENTED = """
import sys
from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel
class MyEmbeddings:
    {comment}
    def embed_documents(self, texts):
        return [[float(len(text))] for text in texts]
    def embed_query(self, text):
        return self.embed_documents([text])[0]
def embed(texts):
    {comment}
    return [[float(len(text))] for text in texts]
class Model:
    {comment}
    model_name = "model-v1"
    def slug(self):
        return "model"
    async def embed(self, texts):
        return embed(texts)
misses = []
for source, name in (
    (MyEmbeddings(), "mine-v1"),
    (CallableEmbeddingModel(embed, model_name="function-v1"), None),
    (Model(), None),
):
    cached = CachedEmbeddingModel(source, sys.argv[1], model_name=name)
    cached.embed_sync(["a b"])
    misses.append(cached.stats.misses)
print(misses)
"""


def test_a_comment_in_code_of_the_users_own_costs_nothing(tmp_path: Path) -> None:
    script, cache = tmp_path / "script.py", str(tmp_path / "cache")
    told = []
    for comment in ("pass", "# what it does", '"""Say what it does."""', "pass\n\n\n    # further down"):
        script.write_text(COMMENTED.format(comment=comment))
        told.append(run(script, cache).strip())
    assert told == ["[1, 1, 1]", "[0, 0, 0]", "[0, 0, 0]", "[0, 0, 0]"]


PREFIXED = """
import sys
from langchain_huggingface import HuggingFaceEmbeddings
from kura_cache_adapters import CachedEmbeddingModel, IdentityError
class Passages(HuggingFaceEmbeddings):
    def embed_documents(self, texts):
        return super().embed_documents(["{prefix}" + text for text in texts])
embedder = Passages(model_name=sys.argv[2])
try:
    print("shared", CachedEmbeddingModel(embedder, sys.argv[1]))
except IdentityError as error:
    print(error)
cached = CachedEmbeddingModel(embedder, sys.argv[1], model_name="passages-{version}")
print(cached.embed_sync(["x"]) == embedder.embed_documents(["x"]), cached.stats.misses)
"""


def test_a_subclass_that_mends_its_prefix_says_so_by_its_version(tmp_path: Path, minilm: Path) -> None:
    pytest.importorskip("langchain_huggingface", reason="needs langchain-huggingface")
    script, cache = tmp_path / "script.py", str(tmp_path / "cache")
    for prefix, version in (("passsage: ", "v1"), ("passage: ", "v2")):
        script.write_text(PREFIXED.format(prefix=prefix, version=version))
        error, answer = run(script, cache, str(minilm)).splitlines()[-2:]
        assert "of your own code (__main__.Passages)" in error
        assert 'model_name="Passages-v1"' in error
        assert answer == "True 1"


def a_subclass(_: Path) -> Any:
    openai = pytest.importorskip("langchain_openai").OpenAIEmbeddings

    class Mine(openai):  # type: ignore[misc, valid-type]
        pass

    return Mine(api_key=SECRET)


def a_subclass_of_llama_index(_: Path) -> Any:
    openai = pytest.importorskip("llama_index.embeddings.openai").OpenAIEmbedding

    class Mine(openai):  # type: ignore[misc, valid-type]
        def _get_text_embeddings(self, texts: list[str]) -> Any:
            return super()._get_text_embeddings([f"passage: {text}" for text in texts])

    return Mine(api_key=SECRET)


def of_an_editable_project(tmp_path: Path) -> Any:
    name = f"project_{uuid.uuid4().hex}"
    (tmp_path / "src" / name).mkdir(parents=True)
    (tmp_path / "src" / name / "__init__.py").write_text(PACKAGE)
    sys.path.insert(0, str(tmp_path / "src"))
    try:
        return import_module(name).Plain(model="m")
    finally:
        sys.path.remove(str(tmp_path / "src"))
        del sys.modules[name]


def of_a_notebook(_: Path) -> Any:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(PACKAGE, namespace)
    return namespace["Plain"](model="m")


def of_a_string(_: Path) -> Any:
    namespace: dict[str, Any] = {}
    exec(PACKAGE, namespace)
    return namespace["Plain"](model="m")


def with_a_lambda(_: Path) -> Any:
    class Mine:
        embed_documents = staticmethod(lambda texts: [[0.0] for _ in texts])

    return Mine()


@pytest.mark.parametrize(
    "make",
    [
        a_subclass,
        a_subclass_of_llama_index,
        of_an_editable_project,
        of_a_notebook,
        of_a_string,
        with_a_lambda,
    ],
)
def test_code_of_the_users_own_must_be_named(make: Callable[[Path], Any], tmp_path: Path) -> None:
    embedder = make(tmp_path)
    with pytest.raises(
        IdentityError, match=r'of your own code .*model_name="\w+-v1", or identity=\{\.\.\.\}'
    ):
        fingerprint(embedder)
    assert fingerprint(embedder, named=True).fields == {}


def test_so_must_an_installed_class_with_a_method_of_the_users_own(
    theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = digest(theirs.Plain(model="m"))
    assert plain
    changed = theirs.Plain(model="m", embed_documents=lambda texts: texts)
    with pytest.raises(IdentityError, match="embed_documents replaced by code of your own"):
        fingerprint(changed)
    monkeypatch.setattr(theirs.Plain, "embed_documents", lambda _, texts: texts)
    with pytest.raises(IdentityError, match="your own code"):
        fingerprint(theirs.Plain(model="m"))


def a_subclass_of_openai(openai_server: Any, _: Any, **options: Any) -> Any:
    from kura_cache_adapters import OpenAIEmbeddingModel

    class Mine(OpenAIEmbeddingModel):
        async def embed(self, texts: list[str], *, role: str = "document") -> list[list[float]]:
            return await super().embed([f"passage: {text}" for text in texts], role=role)

    assert openai_server.url
    return Mine(**options), OpenAIEmbeddingModel()


def a_subclass_of_sentence_transformer(_: Any, minilm: Path, **options: Any) -> Any:
    from kura_cache_adapters import SentenceTransformerEmbeddingModel

    class Mine(SentenceTransformerEmbeddingModel):
        def _encode(self, texts: list[str], role: Any) -> Any:
            return super()._encode([f"passage: {text}" for text in texts], role)

    return Mine(path=minilm, **options), SentenceTransformerEmbeddingModel(path=minilm)


def a_subclass_of_kuras(openai_server: Any, _: Any) -> Any:
    kura = pytest.importorskip("kura.embedding", reason="needs the extra `kura`")

    class Mine(kura.OpenAIEmbeddingModel):  # type: ignore[misc, name-defined]
        async def embed(self, texts: list[str]) -> Any:
            return await super().embed([f"passage: {text}" for text in texts])

    assert openai_server.url
    return Mine(), kura.OpenAIEmbeddingModel()


def a_subclass_of_kuras_local_model(_: Any, minilm: Path) -> Any:
    kura = pytest.importorskip("kura.embedding", reason="needs the extra `kura`")

    class Mine(kura.SentenceTransformerEmbeddingModel):  # type: ignore[misc, name-defined]
        pass

    return Mine(str(minilm)), kura.SentenceTransformerEmbeddingModel(str(minilm))


SUBCLASSES = [
    a_subclass_of_openai,
    a_subclass_of_sentence_transformer,
    a_subclass_of_kuras,
    a_subclass_of_kuras_local_model,
]


@pytest.mark.parametrize("make", SUBCLASSES)
def test_a_subclass_of_a_model_that_is_read_never_finds_its_bases_vectors(
    make: Callable[..., Any], openai_server: Any, minilm: Path
) -> None:
    mine, base = make(openai_server, minilm)
    with pytest.raises(IdentityError, match=r'of your own code .*model_name="Mine-v1"'):
        CachedEmbeddingModel(mine)
    keys = {
        CachedEmbeddingModel(base).cache_key("x"),
        CachedEmbeddingModel(mine, model_name="Mine-v1").cache_key("x"),
        CachedEmbeddingModel(mine, model_name="Mine-v2").cache_key("x"),
        CachedEmbeddingModel(mine, identity={"prefix": "passage: "}).cache_key("x"),
    }
    assert len(keys) == 4


@pytest.mark.parametrize("make", SUBCLASSES[:2])
def test_a_subclass_that_says_what_it_is_is_taken(
    make: Callable[..., Any], openai_server: Any, minilm: Path
) -> None:
    said, base = make(openai_server, minilm, identity={"prefix": "passage: "})
    assert CachedEmbeddingModel(said).cache_key("x") != CachedEmbeddingModel(base).cache_key("x")
    mine, _ = make(openai_server, minilm)
    type(mine).identity = lambda _: {"prefix": "passage: "}
    assert CachedEmbeddingModel(mine).cache_key("x") != CachedEmbeddingModel(base).cache_key("x")


@pytest.mark.parametrize("by", ["functools.wraps", "partialmethod", "wrapt"])
def test_so_must_one_whose_method_is_wrapped_by_code_of_the_users_own(
    theirs: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    written = theirs.Plain.embed_documents

    @functools.wraps(written)
    def prefixed(self: Any, texts: list[str]) -> Any:
        return written(self, [f"passage: {text}" for text in texts])

    wrapped: Any = prefixed
    if by == "partialmethod":
        wrapped = functools.partialmethod(prefixed)
    if by == "wrapt":
        wrapped = pytest.importorskip("wrapt").FunctionWrapper(
            written, lambda call, _, args, __: call(["passage: ", *args[0]])
        )
    monkeypatch.setattr(theirs.Plain, "embed_documents", wrapped)
    with pytest.raises(IdentityError, match="your own code"):
        fingerprint(theirs.Plain(model="m"))


def test_an_installed_decorator_is_no_code_of_the_users_own(
    theirs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, written = digest(theirs.Plain(model="m")), theirs.Plain.embed_documents
    monkeypatch.setattr(theirs.Plain, "embed_documents", contextlib.contextmanager(written))
    assert digest(theirs.Plain(model="m")) == before


@pytest.mark.parametrize("make", SUBCLASSES)
def test_a_method_that_was_replaced_on_a_model_that_is_read_is_the_users_own(
    make: Callable[..., Any], openai_server: Any, minilm: Path
) -> None:
    _, base = make(openai_server, minilm)
    plain = CachedEmbeddingModel(base).cache_key("x")
    base.embed = lambda texts: texts
    with pytest.raises(IdentityError, match=r"embed replaced by code of your own.*model_name="):
        CachedEmbeddingModel(base)
    assert CachedEmbeddingModel(base, model_name="mine-v1").cache_key("x") != plain
