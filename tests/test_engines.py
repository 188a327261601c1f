"""What is embedded by the workers of an engine is paid for once, whoever is killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("pandas", reason="needs pandas, as most engines do")

from tests.engines import embed_of, texts_of

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[1]
JOB = "import sys; from tests.engines import main; main(*sys.argv[1:])"  # in a module that workers can import
CHUNK = 256  # texts that a killed worker was asking for
NEEDS = {
    "dask": "dask.dataframe",
    "datasets": "datasets",
    "ray": "ray.data",
    "spark": "pyspark",
    "daft": "daft",
}
DIES = ["dask", "datasets", "ray"]


def long(engines: list[str]) -> list[object]:
    return [pytest.param(engine, marks=pytest.mark.long) for engine in engines]


def job(engine: str, directory: Path, count: int, seconds: float = 0.0) -> subprocess.Popen[bytes]:
    """Start a job; skip where the engine is not installed."""
    package = NEEDS[engine].partition(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    if engine == "spark" and shutil.which("java") is None:
        pytest.skip("Spark needs a JVM")
    command = [sys.executable, "-c", JOB, engine, str(directory), str(count), str(seconds)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "DAFT_ANALYTICS_ENABLED": "0",
        "HF_HOME": str(directory / "hf"),
    }
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)


def done(engine: str, directory: Path, count: int, seconds: float = 0.0) -> None:
    assert job(engine, directory, count, seconds).wait(180) == 0, (directory / "log").read_text()[-3000:]


def paid(directory: Path) -> list[str]:
    path = directory / "paid"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        ("datasets", 2000),
        *(pytest.param(engine, 50_000, marks=pytest.mark.long) for engine in NEEDS),
    ],
)
def test_each_text_is_paid_for_once_over_all_workers_and_never_again(
    engine: str, count: int, tmp_path: Path
) -> None:
    done(engine, tmp_path, count)
    assert sorted(paid(tmp_path)) == sorted({*texts_of(count)})
    done(engine, tmp_path, count)
    assert len(paid(tmp_path)) == count
    assert len((tmp_path / "made").read_text().split()) <= 2 * 2  # no more than one a worker and run


@pytest.mark.parametrize("engine", long(DIES))
def test_after_a_worker_was_killed_only_the_missing_reach_the_model(engine: str, tmp_path: Path) -> None:
    count = 10_000
    running = job(engine, tmp_path, count, 0.1)
    while len(paid(tmp_path)) < count // 4:
        assert running.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.05)
    os.kill(int((tmp_path / "made").read_text().split()[0]), signal.SIGKILL)
    assert running.wait(180) != 0
    before = paid(tmp_path)
    with embed_of(tmp_path) as embed:
        texts = texts_of(count)
        missing = [texts[at] for at in embed.model.missing(texts)]
    assert count // 8 < len(missing) < count
    assert len({*before} & {*missing}) <= 2 * CHUNK  # what was asked for at that moment, by either
    done(engine, tmp_path, count)
    assert sorted(paid(tmp_path)[len(before) :]) == sorted(missing)
