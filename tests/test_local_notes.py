"""What reading a local model costs, and what is remembered of its files."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `sentence-transformers`")

from sentence_transformers import SentenceTransformer

from kura_cache_adapters import CachedEmbeddingModel, SentenceTransformerEmbeddingModel
from kura_cache_adapters._identity import local_models, remembered
from tests.live_models import (
    TEXTS,
    key,
    load,
    scale_data,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(minilm: Path) -> Any:
    return load(minilm)


# What it costs


def test_a_run_of_hits_needs_no_torch(minilm: Path, tmp_path: Path) -> None:
    program = (
        "import sys, json\n"
        "from kura_cache_adapters import CachedEmbeddingModel, SentenceTransformerEmbeddingModel\n"
        f"source = SentenceTransformerEmbeddingModel(path={str(minilm)!r})\n"
        f"model = CachedEmbeddingModel(source, {str(tmp_path / 'cache')!r})\n"
        f"vectors = model.embed_sync({TEXTS!r})\n"
        "print(json.dumps(['torch' in sys.modules, model.stats.misses, vectors]))\n"
    )
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"XDG_CACHE_HOME": str(tmp_path / "home"), "PATH": "", "TOKENIZERS_PARALLELISM": "false"},
        )
        runs.append(json.loads(done.stdout))
    assert runs[0][:2] == [True, len(TEXTS)]
    assert runs[1][:2] == [False, 0]
    assert runs[0][2] == runs[1][2]


@pytest.mark.parametrize("elsewhere", ["code", "an adapter's base", "another file"])
def test_nothing_is_remembered_of_files_that_lie_elsewhere(
    minilm: Path, tmp_path: Path, elsewhere: str
) -> None:
    path = shutil.copytree(minilm, tmp_path / "model")
    arguments: dict[str, Any] = {"device": "cpu"}
    assert remembered.place_of(path, arguments) is not None
    if elsewhere == "code":
        arguments = {"trust_remote_code": True}
    elif elsewhere == "another file":
        arguments = {"processor_kwargs": {"tokenizer_file": str(path / "tokenizer.json")}}
    else:
        (path / "adapter_config.json").write_text("{}")
    assert remembered.place_of(path, arguments) is None


@pytest.mark.parametrize("change", ["a normalizer", "a longest text"])
@pytest.mark.parametrize("role", ["query", "document"])
def test_every_route_of_a_router_is_read_and_watched(minilm: Path, role: str, change: str) -> None:
    package: Any = import_module("sentence_transformers.models")  # where every release has it
    routes = {name: [load(minilm)[0], load(minilm)[1]] for name in ("query", "document")}
    model = SentenceTransformer(modules=[package.Router(routes, "document")], device="cpu")
    cached = CachedEmbeddingModel(model)
    before = cached.cache_key("x")
    if change == "a normalizer":
        routes[role][0].tokenizer.backend_tokenizer.normalizer = None
    else:
        routes[role][0].max_seq_length = 5
    assert cached.cache_key("x") != before
    assert cached.cache_key("x") == key(copy.deepcopy(model))


def test_a_user_without_a_home_has_no_notes_and_no_trouble(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwd = pytest.importorskip("pwd", reason="of POSIX")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as the XDG specification says
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    assert key(SentenceTransformerEmbeddingModel(path=minilm)) == key(load(minilm))
    assert not [*tmp_path.iterdir()]


def test_a_relative_path_is_where_it_was_when_it_was_given(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(minilm.parent)
    key(SentenceTransformerEmbeddingModel(path=minilm.name))
    cached = CachedEmbeddingModel(SentenceTransformerEmbeddingModel(path=minilm.name), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cached.embed_sync(TEXTS[:1])


@pytest.mark.parametrize("damage", ["other fields", "no mapping", "a flipped digit", "deep", "cut", "empty"])
def test_a_damaged_note_costs_one_more_loading(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    right = key(SentenceTransformerEmbeddingModel(path=minilm))
    (note,) = tmp_path.glob("kura-cache-adapters/models/*.json")
    written = note.read_bytes()
    start = written.index(b"{")
    told = json.loads(written[start:])
    damaged = {
        "other fields": json.dumps({**told, "fields": None, "prompts": [1]}).encode(),
        "no mapping": b"[]",
        "a flipped digit": written[start:].replace(b'"weights": "', b'"weights": "0', 1),
        "deep": b'{"fields":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "cut": written[start:-20],
        "empty": b"",
    }
    for head in (b"", written[:start]):
        note.write_bytes(head + damaged[damage])
        assert key(SentenceTransformerEmbeddingModel(path=minilm)) == right
        assert note.read_bytes() == written


def test_weights_are_read_once_for_each_content(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from kura_cache_adapters._identity import modules

    reads: list[object] = []
    plain = modules.digest_of_weights

    def counting(read: Any) -> str:
        reads.append(read)
        return plain(read)

    monkeypatch.setattr(modules, "digest_of_weights", counting)
    for _ in range(3):
        CachedEmbeddingModel(model).cache_key("x")
    model.max_seq_length = 8
    CachedEmbeddingModel(model).cache_key("x")
    assert len(reads) == 1
    scale_data(model)
    CachedEmbeddingModel(model).cache_key("x")
    assert len(reads) == 2


def test_a_named_model_with_an_identity_is_not_read(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(local_models, "content", refuse)
    monkeypatch.setattr(local_models, "state", refuse)
    named = CachedEmbeddingModel(model, model_name="minilm-v1", identity={"revision": 3})
    assert named.cache_key("x")


def test_nothing_keeps_a_model_alive(minilm: Path) -> None:
    import gc
    import weakref

    model = load(minilm)
    CachedEmbeddingModel(model).cache_key("x")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
