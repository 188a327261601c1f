"""Dialects: another distribution teaches the cache its framework by one entry point, and breaks no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from kura_cache_adapters._identity.providers import DIALECTS
from kura_cache_adapters.embedding import Dialect, Method
from kura_cache_adapters.embedding.framework import FrameworkEmbeddingModel
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.frameworks import Spy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FRAMEWORK = """
class Vectorizer:
    def __init__(self, model, revision=1):
        self.model, self.revision, self.batch = model, revision, 2
        self._calls = []

    def _vectors(self, role, texts):
        self._calls.append([role, list(texts)])
        return [[float(len(text)), float(len(role)), float(self.revision)] for text in texts]

    def vectorize(self, texts):
        return self._vectors("document", texts)

    async def vectorize_later(self, texts):
        return self._vectors("document", texts)

    def question(self, text):
        return self._vectors("query", [text])[0]

    def labels(self, texts):
        return self._vectors("label", texts)


class Memo:
    def __init__(self, inner):
        self.inner = inner

    def vectorize(self, texts):
        raise AssertionError("a cache around an embedder is seen through")
"""
DIALECT = """
from kura_cache_adapters.embedding import Dialect, Method, Provider

DIALECT = Dialect(
    name="tiny",
    methods={
        "document": Method("vectorize", "vectorize_later"),
        "query": Method("question", one_text=True),
        "label": Method("labels"),
    },
    records={
        "tiny_frame:Memo": Provider(name="", around="inner"),
        "tiny_frame:Vectorizer": Provider(
            name="model", decides="revision", transport="batch _calls", roles=("query", "label")
        ),
    },
    batch_sizes=("batch",),
)
"""
PREAMBLE = """
import json, pickle, sys
from kura_cache_adapters import CachedEmbeddingModel, CallableEmbeddingModel
from kura_cache_adapters.embedding.framework import FrameworkEmbeddingModel
from tiny_frame import Memo, Vectorizer
"""


def distribution(site: Path, name: str, entry: str, **modules: str) -> None:
    """Install a package: its modules, and the metadata that names its entry point."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[kura_cache_adapters.dialects]\n{entry}\n")
    for module, code in modules.items():
        (site / f"{module}.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Where the tiny framework is installed, with its dialect."""
    place = tmp_path / "site-packages"
    distribution(place, "tiny", "tiny = tiny_dialect:DIALECT", tiny_frame=FRAMEWORK, tiny_dialect=DIALECT)
    return place


@pytest.fixture
def run(site: Path, tmp_path: Path) -> Callable[[str], Any]:
    """Run a program where it is installed; return what it prints as JSON."""

    def result(program: str) -> Any:
        paths = os.pathsep.join([str(site), *sys.path])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(program)],
            env={**os.environ, "PYTHONPATH": paths},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return result


def test_a_framework_is_added_from_outside_by_one_entry_point(run: Any) -> None:
    told = run("""
        embedder = Vectorizer("m")
        cached = CachedEmbeddingModel(embedder, "./cache")
        for _ in range(2):
            answers = [cached.embed_sync(["a", "bc", "d"])]
            answers += [cached.embed_sync(["a", "bc"], role=role) for role in ("query", "label")]
        keys = {cached.cache_key("a", role=role) for role in ("document", "query", "label")}
        print(json.dumps([cached.model_name, cached.roles, answers, embedder._calls, len(keys)]))
    """)
    name, roles, answers, calls, keys = told
    assert (name, roles, keys) == ("m", ["query", "label"], 3)
    assert answers[0] == [[1.0, 8.0, 1.0], [2.0, 8.0, 1.0], [1.0, 8.0, 1.0]]
    assert answers[1:] == [[[1.0, length, 1.0], [2.0, length, 1.0]] for length in (5.0, 5.0)]
    assert calls == [
        ["document", ["a", "bc"]],
        ["document", ["d"]],
        ["query", ["a"]],
        ["query", ["bc"]],
        ["label", ["a", "bc"]],
    ]


def test_its_records_tell_what_decides_and_its_wrappers_are_seen_through(run: Any) -> None:
    told = run("""
        def key(embedder):
            return CachedEmbeddingModel(embedder).cache_key("a")

        changed = Vectorizer("m")
        cached = CachedEmbeddingModel(changed)
        before = cached.cache_key("a")
        changed.revision = 2
        print(json.dumps({
            "batches": key(Vectorizer("m")) == before,
            "wrapped": key(Memo(Memo(Vectorizer("m")))) == before,
            "revision": key(Vectorizer("m", 2)) != before,
            "changed": cached.cache_key("a") == key(Vectorizer("m", 2)),
            "pickled": pickle.loads(pickle.dumps(cached)).cache_key("a") == cached.cache_key("a"),
        }))
    """)
    assert told == dict.fromkeys(told, True)


def test_what_a_dialect_cannot_ask_for_is_refused(run: Any) -> None:
    told = run("""
        asks = {
            "a role": lambda: FrameworkEmbeddingModel(Vectorizer("m"), roles=("clustering",)),
            "async": lambda: FrameworkEmbeddingModel(Vectorizer("m"), use_async=True),
            "a typo": lambda: CachedEmbeddingModel(Vectorizer("m")).embed_sync(["a"], role="labels"),
            "no embedder": lambda: FrameworkEmbeddingModel(object(), "m"),
        }
        told = {}
        for name, ask in asks.items():
            try:
                ask()
            except (ValueError, TypeError) as error:
                told[name] = str(error)
        print(json.dumps(told))
    """)
    assert "tiny have no method for the role 'clustering'" in told["a role"]
    assert "tiny have no async method for the role 'query'" in told["async"]
    assert "'document', 'query', 'label', not as 'labels'" in told["a typo"]
    assert "object is no embedder" in told["no embedder"]


def test_dialects_from_outside_are_not_loaded_for_what_is_known(run: Any) -> None:
    pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
    told = run("""
        from langchain_core.embeddings import DeterministicFakeEmbedding

        class Ours:
            model_name = "ours"
            vectorize = slug = lambda self: "ours"
            async def embed(self, texts):
                return [[1.0]] * len(texts)

        def embed(texts):
            return [[1.0]] * len(texts)

        models = [DeterministicFakeEmbedding(size=3), Ours(), CallableEmbeddingModel(embed, model_name="f")]
        lengths = [len(CachedEmbeddingModel(model, "./cache").embed_sync(["a"])[0]) for model in models]
        print(json.dumps([lengths, "tiny_dialect" in sys.modules]))
    """)
    assert told == [[3, 1, 1], False]


@pytest.mark.parametrize(
    ("entry", "code", "why"),
    [
        ("a = broken_dialect:DIALECT", "import nowhere_to_be_found", "nowhere_to_be_found"),
        ("a = broken_dialect:DIALECT", "raise SyntaxError('no')", "SyntaxError"),
        ("a = broken_dialect:DIALECT", "", "has no attribute 'DIALECT'"),
        ("a = broken_dialect:DIALECT", "DIALECT = {}", "which is not a Dialect"),
        (
            "a = broken_dialect:DIALECT",
            "from kura_cache_adapters.embedding import Dialect\nDIALECT = Dialect(name='b', methods={})",
            "no method for 'document'",
        ),
    ],
)
def test_a_broken_entry_point_is_named_and_breaks_no_other(
    entry: str, code: str, why: str, site: Path, run: Any
) -> None:
    distribution(site, "broken", entry, broken_dialect=code)
    answers, message = run("""
        answers = CachedEmbeddingModel(Vectorizer("m"), "./cache").embed_sync(["abc"])
        try:
            CachedEmbeddingModel(object())
        except TypeError as error:
            print(json.dumps([answers, str(error)]))
    """)
    assert answers == [[3.0, 8.0, 1.0]]
    assert message.startswith("cannot embed with a object: pass a BaseEmbeddingModel")
    assert "'a' of broken 1.0 (kura_cache_adapters.dialects)" in message
    assert why in message


def test_a_dialect_is_told_by_methods_alone() -> None:
    class Speaks:
        def embed_documents(self, texts: list[str]) -> Any:
            return Spy(FakeEmbeddingModel()).answer("document", texts)

    assert [dialect.name for dialect in DIALECTS if dialect.fits(Speaks())] == ["langchain"]
    assert FrameworkEmbeddingModel(Speaks(), "mine-v1").roles == ("query",)
    with pytest.raises(ValueError, match="no method for 'document'"):
        Dialect(name="mute", methods={"query": Method("ask")})
