"""The pytest plugin: recordings beside tests are replayed, recorded, rewritten and compared."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import kura_cache_adapters.testing.recordings  # noqa: F401 - here once, not in each run

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytester"]

MODEL = """
import asyncio, pathlib
from concurrent.futures import ThreadPoolExecutor
import pytest
from kura_cache_adapters import CacheMissError, CacheOptions
from kura_cache_adapters.testing import FakeEmbeddingModel

class Model(FakeEmbeddingModel):
    drift = float(pathlib.Path("drift").read_text()) if pathlib.Path("drift").exists() else 0.0

    async def embed(self, texts, *, role="document"):
        with open("asked", "a") as file:
            file.writelines(text + "\\n" for text in texts)
        return [[number + self.drift for number in row] for row in self.lists(texts, role)]
"""
TESTS = (
    MODEL
    + """
def test_one(embeddings):
    assert len(embeddings(Model()).embed_sync(["one", "two"])) == 2
    assert len(embeddings(Model()).embed_sync(["three"])) == 1

def test_two(embeddings):
    assert len(embeddings(Model()).embed_sync(["two", "four"])) == 2
"""
)


@pytest.fixture(autouse=True)
def tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project with two tests, and stand in it; other plugins are there for runs that name them."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.mkdir("tests")
    path = pytester.path / "tests" / "test_them.py"
    path.write_text(TESTS)
    return path


def run(pytester: pytest.Pytester, *arguments: str, passed: int = 2, **outcomes: int) -> str:
    """Run pytest in this process; return what it prints."""
    plugins = ("kura_cache_adapters.pytest_plugin", "no:cacheprovider")
    done = pytester.runpytest_inprocess(*(f"-p{each}" for each in plugins), *arguments)
    done.assert_outcomes(passed=passed, **outcomes)
    return done.stdout.str()


def asked(pytester: pytest.Pytester) -> list[str]:
    """Return the texts that models were asked for since the last time, sorted."""
    path = pytester.path / "asked"
    texts = sorted(path.read_text().split()) if path.exists() else []
    path.unlink(missing_ok=True)
    return texts


def files(pytester: pytest.Pytester) -> list[str]:
    """List what git would see of the recordings, without the names of files that chance chooses."""
    directory = pytester.path / "tests" / "embeddings"
    found = [path.relative_to(directory) for path in directory.rglob("*") if path.is_file()]
    kept = [path for path in found if ".claims" not in path.parts]
    return sorted("rows" if path.suffix == ".parquet" else path.name for path in kept)


# Replay and record


def test_what_was_not_recorded_fails_its_test_and_says_how_to_record(pytester: pytest.Pytester) -> None:
    printed = run(pytester, passed=0, failed=2)
    assert "CacheMissError: 2 of 2 texts for fake are not in RecordingStore(" in printed
    assert "Record what is missing with: pytest --embeddings=record" in printed
    assert asked(pytester) == []
    assert not (pytester.path / "tests" / "embeddings").exists()


def test_what_was_recorded_is_replayed(pytester: pytest.Pytester) -> None:
    assert "4 recorded in" in run(pytester, "--embeddings=record")
    assert asked(pytester) == ["four", "one", "three", "two"]
    assert files(pytester) == [".gitattributes", ".gitignore", "_identity.json", "rows"]
    run(pytester)
    assert " recorded in " not in run(pytester, "--embeddings=record")
    assert asked(pytester) == []


def test_each_recording_is_one_new_file_and_changes_no_other(pytester: pytest.Pytester, tests: Path) -> None:
    run(pytester, "--embeddings=record")
    before = {
        path: path.read_bytes()
        for path in (pytester.path / "tests" / "embeddings").glob("*/*")
        if path.is_file()
    }
    for number in range(12):
        with tests.open("a") as file:
            file.write(
                f"\ndef test_more_{number}(embeddings):\n    embeddings(Model()).embed_sync(['{number}'])\n"
            )
        run(pytester, "--embeddings=record", passed=3 + number)
    assert {path: path.read_bytes() for path in before} == before
    assert files(pytester).count("rows") == 13
    assert asked(pytester)[-4:] == ["four", "one", "three", "two"]
    run(pytester, passed=14)


def test_git_takes_recordings_as_binaries_and_ignores_the_rest(pytester: pytest.Pytester) -> None:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    run(pytester, "--embeddings=record")
    git("add", "-A")
    staged = git("diff", "--cached", "--name-only").split()
    kept = [name for name in staged if name.startswith("tests/embeddings/")]
    assert sorted(name.rpartition(".")[2] for name in kept) == [
        "gitattributes",
        "gitignore",
        "json",
        "parquet",
    ]
    (parquet,) = [name for name in kept if name.endswith(".parquet")]
    assert "diff: unset" in git("check-attr", "diff", parquet)
    assert "linguist-generated: set" in git("check-attr", "linguist-generated", parquet)


def test_no_text_and_no_key_of_an_api_is_recorded(pytester: pytest.Pytester, openai_server: object) -> None:
    (pytester.path / "tests" / "test_them.py").write_text(
        "from kura_cache_adapters import OpenAIEmbeddingModel\n"
        "def test_one(embeddings):\n"
        "    assert embeddings(OpenAIEmbeddingModel()).embed_sync(['a MARKED text'])\n"
    )
    run(pytester, "--embeddings=record", passed=1)
    directory = pytester.path / "tests" / "embeddings"
    content = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    assert len(content) >= 4
    assert not any(b"MARKED" in each for each in content)
    run(pytester, passed=1)


def test_options_and_keys_are_the_tests_own_and_the_mode_is_the_runs(
    pytester: pytest.Pytester, tests: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests.write_text(
        MODEL
        + """
def test_one(embeddings):
    options = CacheOptions(chunk_size=1, refresh=True, key_secret="x" * 20)
    model = embeddings(Model(), options=options, preprocessing="lower")
    assert model.options.chunk_size == 1
    assert model.cache_key("one") != embeddings(Model()).cache_key("one")
    model.embed_sync(["one"])
"""
    )
    monkeypatch.setenv("KURA_CACHE", "off")
    run(pytester, passed=0, failed=1)
    run(pytester, "--embeddings=record", passed=1)
    assert asked(pytester) == ["one"]
    run(pytester, passed=1)
    assert asked(pytester) == []


def test_recordings_may_be_elsewhere(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nembeddings_dir = vectors/of tests\n")
    run(pytester, "--embeddings=record")
    assert [*(pytester.path / "vectors" / "of tests").glob("*/*.parquet")]
    run(pytester)
    assert not (pytester.path / "tests" / "embeddings").exists()


def test_threads_and_tasks_replay_what_they_have_recorded(pytester: pytest.Pytester, tests: Path) -> None:
    tests.write_text(
        MODEL
        + """
@pytest.fixture(scope="module")
def model(embeddings):
    return embeddings(Model())

def test_threads(model):
    with ThreadPoolExecutor(8) as threads:
        assert len({str(each) for each in threads.map(model.embed_sync, [["one", "two"]] * 50)}) == 1

@pytest.mark.asyncio
async def test_tasks(model):
    answers = await asyncio.gather(*(model.embed(["two", "three"]) for _ in range(50)))
    assert len({str(each) for each in answers}) == 1

@pytest.mark.asyncio
async def test_a_loop_of_its_own(model):
    assert len(await model.embed_array(["one"])) == 1
"""
    )
    loops = ("-ppytest_asyncio.plugin", "-oasyncio_default_fixture_loop_scope=function")
    run(pytester, *loops, "--embeddings=record", passed=3)
    assert asked(pytester) == ["one", "three", "two"]
    run(pytester, *loops, passed=3)
    assert asked(pytester) == []


# Rewrite


def test_rewriting_replaces_all_and_prunes_what_nobody_asks_for(
    pytester: pytest.Pytester, tests: Path
) -> None:
    run(pytester, "--embeddings=record")
    tests.write_text(TESTS.replace('["three"]', '["five"]'))
    asked(pytester)
    printed = run(pytester, "--embeddings=rewrite")
    assert asked(pytester) == ["five", "four", "one", "two"]
    assert "4 rewritten in" in printed
    assert "1 pruned: no test has asked for them" in printed
    assert files(pytester) == [".gitattributes", ".gitignore", "_identity.json", "rows"]
    run(pytester)
    assert asked(pytester) == []


@pytest.mark.parametrize("reason", ["one file", "one name", "a skip", "a failure"])
def test_a_run_of_less_than_all_rewrites_and_prunes_nothing(
    pytester: pytest.Pytester, tests: Path, reason: str
) -> None:
    run(pytester, "--embeddings=record")
    more = {"a skip": "pytest.skip()", "a failure": "assert False"}
    tests.write_text(
        TESTS.replace('["three"]', '["five"]') + f"\ndef test_more():\n    {more.get(reason, 'pass')}\n"
    )
    (pytester.path / "drift").write_text("1")
    arguments = {"one file": [str(tests)], "one name": ["-k", "test_one or test_two"]}.get(reason, [])
    outcomes = {"a skip": {"skipped": 1}, "a failure": {"failed": 1}}.get(reason, {})
    passed = 3 if reason == "one file" else 2
    outcomes |= {"deselected": 1} if reason == "one name" else {}
    printed = run(pytester, "--embeddings=rewrite", *arguments, passed=passed, **outcomes)
    assert "4 rewritten in" in printed
    assert "1 left: no test has asked for them" in printed
    assert not [name for name in files(pytester) if name.startswith("_forgotten")]
    tests.write_text(TESTS.replace('["three"]', '["five", "three"]').replace("== 1", "== 2"))
    asked(pytester)
    run(pytester)
    assert "fake: 5 embedded, 0 of them not recorded; largest difference 1," in run(
        pytester, "--embeddings=drift"
    )


def test_rewriting_moves_to_another_dimension_in_a_run_of_all_only(
    pytester: pytest.Pytester, tests: Path
) -> None:
    run(pytester, "--embeddings=record")
    tests.write_text(TESTS.replace("Model()", "Model(dimension=3)"))
    assert "Not rewritten: " in run(pytester, "--embeddings=rewrite", str(tests))
    run(pytester, "--embeddings=rewrite")
    run(pytester)


# Live and drift


def test_live_embeds_and_records_nothing(pytester: pytest.Pytester) -> None:
    run(pytester, "--embeddings=live")
    assert asked(pytester) == ["four", "one", "three", "two", "two"]
    assert not (pytester.path / "tests" / "embeddings").exists()


def test_drift_tells_the_largest_difference_and_the_least_cosine(
    pytester: pytest.Pytester, tests: Path
) -> None:
    run(pytester, "--embeddings=record")
    assert "largest difference 0, least cosine 1.000000000" in run(pytester, "--embeddings=drift")
    (pytester.path / "drift").write_text("0.25")
    tests.write_text(TESTS.replace('["three"]', '["five"]'))
    before = {path: path.read_bytes() for path in pytester.path.glob("tests/embeddings/*/*.parquet")}
    asked(pytester)
    printed = run(pytester, "--embeddings=drift")
    assert (
        "fake: 4 embedded, 1 of them not recorded; largest difference 0.25, least cosine 0.767120236"
        in printed
    )
    assert asked(pytester) == ["five", "four", "one", "two"]
    assert {path: path.read_bytes() for path in pytester.path.glob("tests/embeddings/*/*.parquet")} == before


# Workers


def test_workers_of_xdist_record_rewrite_and_compare_as_one(pytester: pytest.Pytester, tests: Path) -> None:
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    workers = ("-pxdist.plugin", "-n2")
    assert "4 recorded in" in run(pytester, "--embeddings=record", *workers)
    assert asked(pytester) == ["four", "one", "three", "two"]
    assert files(pytester).count("rows") == 1
    run(pytester, *workers)
    tests.write_text(TESTS.replace('["three"]', '["five"]'))
    assert "1 pruned" in run(pytester, "--embeddings=rewrite", *workers)
    (pytester.path / "drift").write_text("0.5")
    assert "0 of them not recorded; largest difference 0.5," in run(pytester, "--embeddings=drift", *workers)


# Who does not use it


def test_it_costs_nothing_where_it_is_not_used(pytester: pytest.Pytester, tests: Path) -> None:
    tests.write_text(
        "import sys\n"
        "def test_it(request):\n"
        "    assert 'kura_cache_adapters.pytest_plugin' in sys.modules\n"
        "    assert not {'numpy', 'pyarrow', 'pydantic'} & {*sys.modules}\n"
    )
    for mode in ("replay", "record", "rewrite", "drift"):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-pkura_cache_adapters.pytest_plugin",
            "-pno:cacheprovider",
        ]
        pytester.run(*command, f"--embeddings={mode}").assert_outcomes(passed=1)
