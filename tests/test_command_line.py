"""The command line, through its own door: what it prints, what it changes, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason="needs the extra `cli`")

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

from kura_cache_adapters import CachedEmbeddingModel, open_cache
from kura_cache_adapters._cli import words
from kura_cache_adapters.cli import app
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests import command_page
from tests.servers import redis_server

DOCS = Path(__file__).parents[1] / "docs"
SCHEMA = json.loads((DOCS / "command_line.schema.json").read_text(encoding="utf-8"))
TEXTS = [f"text {at}" for at in range(40)]
MODELS = """
from kura_cache_adapters.testing import FakeEmbeddingModel

ready = FakeEmbeddingModel(dimension=8)


def made():
    return FakeEmbeddingModel(dimension=8)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory with a cache of two spaces, some texts, and a module of models."""
    monkeypatch.chdir(tmp_path)
    both: list[tuple[dict[str, Any], list[str]]] = [({}, TEXTS), ({"batch_size": 50}, TEXTS[:3])]
    for parameters, texts in both:
        with CachedEmbeddingModel(FakeEmbeddingModel(dimension=8), "./cache", **parameters) as model:
            model.embed_sync(texts)
            model.embed_sync(texts[:2])
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS[:5], "new", "new"]))
    (tmp_path / "models_of_mine.py").write_text(MODELS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "models_of_mine", raising=False)
    return tmp_path


def run(*said: str, code: int = 0, typed: str | None = None) -> str:
    ended = CliRunner().invoke(app, list(said), input=typed, catch_exceptions=False)
    assert ended.exit_code == code, ended.output
    return ended.output


def told(*said: str, code: int = 0) -> Any:
    """Return what a command says to a machine; the schema must allow it."""
    answer = json.loads(run(*said, "--json", code=code).splitlines()[-1])
    jsonschema.validate(answer, SCHEMA)
    assert answer["command"] == said[0]
    return answer


def names() -> list[str]:
    return run("ls", "-q").split()


def test_ls_names_each_space_with_its_totals(here: Path) -> None:
    large, small = told("ls")["spaces"]
    assert (large["entries"], small["entries"], large["dimension"]) == (40, 3, 8)
    assert small["identity"]["parameters"] == '{"batch_size":50}'
    assert names() == [large["name"], small["name"]]
    assert re.search(r"2 spaces, 43 entries, [\d.]+ kB", run("ls"))


def test_ls_takes_filters(here: Path) -> None:
    small = names()[1]
    for path in (here / "cache" / small).glob("*.arrow"):
        os.utime(path, (0, 0))
    assert run("ls", "-q", "--older-than", "30d").split() == [small]
    assert run("ls", "-q", "--unused-for", "8w").split() == [small]
    assert run("ls", "-q", "--model", small).split() == [small]
    assert len(run("ls", "-q", "--model", "fake").split()) == 2


def test_stats_tell_over_processes_what_entries_were_used_for(here: Path) -> None:
    uses = told("stats")["spaces"][names()[0]]
    assert (uses["texts"], uses["hits"], uses["texts_saved"]) == (42, 2, 2)
    assert "4.8%" in run("stats")


def test_keys_are_those_of_the_model(here: Path) -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel(dimension=8), "./cache")
    keys = sorted(map(model.cache_key, TEXTS))
    assert sorted(told("keys", names()[0])["keys"]) == sorted(run("keys", names()[0]).split()) == keys


def test_keys_of_a_file_stand_beside_its_columns(here: Path) -> None:
    model = ["-m", "models_of_mine:made"]
    assert told("keys", "texts.txt", "keyed.parquet", *model)["rows"] == 7
    keyed = pq.read_table("keyed.parquet")
    assert keyed.schema.field("key").type == pa.binary(32)
    cached = CachedEmbeddingModel(FakeEmbeddingModel(dimension=8), "./cache")
    rows = [(row["text"], row["key"].hex()) for row in keyed.to_pylist()]
    assert rows == [(text, cached.cache_key(text)) for text in [*TEXTS[:5], "new", "new"]]
    assert "is there already" in run("keys", "texts.txt", "keyed.parquet", *model, code=2)
    assert "say by --model" in run("keys", "texts.txt", "other.parquet", code=2)
    assert "no .parquet file" in run("keys", "texts.txt", "other.npy", *model, code=2)
    assert "'key' already" in run("keys", "keyed.parquet", "other.parquet", *model, code=2)
    assert not [*here.glob("*other*")]
    assert "7 rows" in run("keys", "texts.txt", "more.parquet", *model)


@pytest.mark.parametrize("name", ["ready", "made"])
def test_plan_and_explain_take_a_model_of_ones_own(here: Path, name: str) -> None:
    plan = told("plan", "texts.txt", "-m", f"models_of_mine:{name}", "--price", "2")["plan"]
    assert (plan["cached"], plan["duplicates"], plan["missing"]) == (5, 1, 1)
    assert told("explain", "text 1", "-m", f"models_of_mine:{name}")["hit"]
    assert not told("explain", "new", "-m", f"models_of_mine:{name}", code=1)["hit"]
    assert "hit" in run("explain", "text 1", "-m", f"models_of_mine:{name}")
    assert "to embed: 1" in run("plan", "texts.txt", "-m", f"models_of_mine:{name}")


def test_keywords_of_the_cache_are_in_the_keys(here: Path) -> None:
    model = ("-m", "models_of_mine:made", "-p")
    assert told("explain", "text 1", *model, "batch_size=50")["hit"]
    (space,) = (
        each["identity"] for each in told("ls")["spaces"] if "batch" in each["identity"]["parameters"]
    )
    assert space["parameters"] == '{"batch_size":50}'
    assert told("plan", "texts.txt", *model, "batch_size=51")["plan"]["cached"] == 0
    assert told("plan", "texts.txt", *model, "mode=fast")["plan"]["cached"] == 0
    assert "is no NAME=VALUE" in run("explain", "text 1", *model, "batch_size", code=2)
    assert "how a cache works" in run("explain", "text 1", *model, "chunk_size=1", code=2)


def test_embed_makes_a_file_of_a_file_and_pays_for_what_is_new(here: Path) -> None:
    stats = told("embed", "texts.txt", "out.npy", "-m", "models_of_mine:made")["stats"]
    assert (stats["hits"], stats["misses"]) == (5, 1)
    assert np.load("out.npy").shape == (7, 8)
    model = ["-m", "models_of_mine:made"]
    assert "out.parquet: hits 7, " in run("embed", "texts.txt", "out.parquet", *model)
    assert "is there already" in run("embed", "texts.txt", "out.npy", *model, code=2)
    assert "no column" in run("embed", "texts.txt", "x.npy", *model, "--column", "t", code=2)


def test_verify_finds_damage_and_repairs_it(here: Path) -> None:
    assert told("verify")["sound"]
    path = next((here / "cache" / names()[1]).glob("*.arrow"))
    content = bytearray(path.read_bytes())
    vector = np.asarray(FakeEmbeddingModel(dimension=8).array(TEXTS[:1]), np.float32).tobytes()
    content[content.index(vector)] ^= 1
    path.write_bytes(content)
    assert told("verify", code=1)["spaces"][1]["damaged"] == 1
    assert "wrong: " in run("verify", code=1)
    assert told("verify", "--repair")["sound"]
    assert told("verify")["spaces"][1]["rows"] == 2


def test_prune_shows_asks_and_drops(here: Path) -> None:
    going = told("prune", "--max-size", "1kB", "--dry-run")
    assert going["dry_run"]
    assert going["entries"] == 43
    assert "say --yes" in run("prune", "--max-size", "1kB", code=2)
    assert len(names()) == 2
    assert told("prune", "--max-size", "1kB", "--yes")["entries"] == 43
    assert [space["entries"] for space in told("ls")["spaces"]] in ([], [0, 0])
    assert told("prune", "--older-than", "1s", "--unused-for", "1s")["parts"] == 0


def test_compact_makes_one_file_of_many(here: Path) -> None:
    with CachedEmbeddingModel(FakeEmbeddingModel(dimension=8), "./cache") as model:
        for at in range(3):
            model.embed_sync([f"other {at}"])
    assert told("compact", "-m", names()[0])["parts"] == 3
    assert told("ls")["spaces"][0]["parts"] == 1
    assert "went" in run("compact")


def test_rm_takes_a_space_a_model_or_all(here: Path) -> None:
    large, small = names()
    assert [each["name"] for each in told("rm", small, "--dry-run")["spaces"]] == [small]
    assert told("rm", small, "--yes")["entries"] == 3
    assert names() == [large]
    run("rm", code=2)
    run("rm", large, "--all", "--yes", code=2)
    assert told("rm", "--all", "--yes")["entries"] == 40
    assert names() == []


def test_forget_takes_keys_and_gives_a_receipt(here: Path) -> None:
    model = CachedEmbeddingModel(FakeEmbeddingModel(dimension=8), "./cache")
    keys = [model.cache_key(text) for text in TEXTS[:3]]
    (here / "keys.txt").write_text("\n".join(keys[1:]))
    assert told("forget", keys[0], "--file", "keys.txt", "--dry-run")["spaces"][names()[0]] == 3
    assert "say --yes" in run("forget", keys[0], code=2)
    receipt = told("forget", keys[0], "--file", "keys.txt", "--yes")["receipt"]
    assert receipt["complete"]
    assert receipt["there"] == 3
    assert model.missing(TEXTS) == [0, 1, 2]
    assert "0 of 1 keys were there" in run("forget", keys[0], "--yes")
    run("forget", "--yes", code=2)
    run("forget", "no key", "--yes", code=2)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "npz"])
def test_what_is_exported_is_imported_elsewhere(here: Path, ending: str) -> None:
    name = names()[0]
    assert told("export", name, f"out.{ending}")["entries"] == 40
    assert told("import", f"out.{ending}", "-c", "./other")["adopted"]["stored"] == 40
    assert [each["name"] for each in told("ls", "-c", "./other")["spaces"]] == [name]
    assert "0 of 40 are stored; 40 were known" in run("import", f"out.{ending}", "-c", "./other")


def test_texts_and_vectors_are_imported_with_their_model(here: Path) -> None:
    vectors = FakeEmbeddingModel(dimension=8).array(["a", "b"])
    rows = [{"t": text, "v": list(map(float, vector))} for text, vector in zip("ab", vectors, strict=True)]
    (here / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = [
        "import",
        "mine.jsonl",
        "-m",
        "models_of_mine:made",
        "--text",
        "t",
        "--vector",
        "v",
        "--check",
        "1",
    ]
    assert told(*said)["adopted"]["stored"] == 2
    assert told("explain", "a", "-m", "models_of_mine:made")["hit"]


@pytest.mark.parametrize("scheme", ["parquet", "jsonl", "arrow"])
def test_convert_copies_into_any_format(here: Path, scheme: str) -> None:
    assert told("convert", f"{scheme}://./other")["entries"] == 43
    assert told("convert", f"{scheme}://./other")["entries"] == 0
    with open_cache(f"{scheme}://./other") as other, open_cache("./cache") as cache:
        for space in cache.spaces():
            keys = [*cache.keys(space)]
            mine, theirs = (each.store.space(space.identity).get_many(keys) for each in (cache, other))
            assert np.array_equal(mine.vectors, theirs.vectors)
    assert "0 entries were copied" in run("convert", f"{scheme}://./other", "-m", "fake")


def test_doctor_looks_at_the_installation_and_the_directory(here: Path) -> None:
    found = {each["what"]: each["found"] for each in told("doctor")["findings"]}
    assert found["writing"] == "works"
    assert found["spaces"] == "2"
    assert "is not there" in run("doctor", "-c", "./nowhere")
    assert not (here / "nowhere").exists()


def test_a_server_that_refuses_or_is_gone_ends_with_3_and_one_line_and_shows_no_password(here: Path) -> None:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    with redis_server("--requirepass", "right-MARKED") as server:
        right, wrong = (f"redis://:{word}-MARKED@127.0.0.1:{server.port}/0" for word in ("right", "wrong"))
        printed = [run("convert", right), run("ls", "-c", right), run("doctor", "-c", right)]
        assert told("convert", right)["target"] == f"redis://127.0.0.1:{server.port}/0"
        assert "answers; it has 2 spaces" in printed[-1]
        refused = [run(each, "-c", wrong, code=3) for each in ("ls", "stats")]
        printed += [run("doctor", "-c", wrong, code=1)]
    refused += [run("ls", "-c", right, code=3)]
    assert [len(each.splitlines()) for each in refused] == [1] * 3
    assert not [each for each in printed + refused if "MARKED" in each]


@pytest.mark.parametrize("command", ["ls", "stats", "verify", "compact", "keys x", "rm --all"])
def test_where_no_cache_is_nothing_is_made(here: Path, command: str) -> None:
    assert "there is no cache at" in run(*command.split(), "-c", "./nowhere", code=3)
    assert not (here / "nowhere").exists()


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (["ls", "-c", "what://x"], "no store for what://"),
        (["keys", "no such"], "no such"),
        (["ls", "-m", "no such"], "no such"),
        (["ls", "--older-than", "long"], "is no time"),
        (["prune", "--max-size", "much"], "is no size"),
        (["prune"], "older_than"),
        (["keys", "fake"], "has 2 spaces"),
        (["plan", "texts.txt", "-m", "nothing"], "names no model"),
        (["plan", "texts.txt", "-m", "no_module:at"], "can be imported"),
        (["export", "fake", "out.xls"], ""),
        (["import", "texts.txt"], ""),
    ],
)
def test_a_wrong_word_ends_with_2_and_the_cure(here: Path, said: list[str], says: str) -> None:
    output = run(*said, code=2)
    assert says in output
    assert len(output.splitlines()) == 1


def test_a_file_that_is_not_there_ends_with_3(here: Path) -> None:
    assert "nowhere.txt" in run("forget", "--file", "nowhere.txt", "--yes", code=3)


def test_the_page_is_its_help() -> None:
    page = command_page.PAGE.read_text(encoding="utf-8")
    assert page == command_page.written(page), "python -m tests.command_page writes it anew"


def test_python_runs_it_and_says_in_a_line_what_is_missing(here: Path) -> None:
    command = [sys.executable, "-m", "kura_cache_adapters", "ls", "-q"]
    assert len(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()) == 2
    hidden = "import sys; sys.modules['typer'] = None; from kura_cache_adapters.__main__ import main; main()"
    without = subprocess.run([sys.executable, "-c", hidden], check=False, capture_output=True, text=True)
    assert without.returncode == 2
    assert without.stderr == "kura-cache needs more: pip install 'kura-cache-adapters[cli]'\n"


@pytest.mark.parametrize(
    ("word", "count"),
    [("500MB", 500_000_000), ("2GiB", 2 << 30), ("10 gb", 10**10), ("7", 7), ("1.5k", 1500)],
)
def test_sizes_are_read_as_people_write_them(word: str, count: int) -> None:
    assert words.size(word) == count


@pytest.mark.parametrize(
    ("count", "word"),
    [(None, "?"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (123_456_789, "123 MB")],
)
def test_and_written_so(count: int | None, word: str) -> None:
    assert words.bytes_of(count) == word
