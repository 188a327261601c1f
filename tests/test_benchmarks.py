"""The benchmark runs, at a tiny size; nothing is said about times."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from kura_cache_adapters._segments import merge
from tests import peers
from tests.benchmarks import __main__ as benchmarks
from tests.benchmarks import charts, contestants, filling, large, profile, report, scale
from tests.benchmarks.paths import PATHS
from tests.benchmarks.targets import TARGETS
from tests.benchmarks.timing import FLOOR, Work

if TYPE_CHECKING:
    from pathlib import Path

TINY = ["--counts", "64", "--dimensions", "8", "--rounds", "2", "--large", "500", "--filled", "512"]
PEERS = [peers.LangChainFiles, peers.LlamaIndexCache, peers.DiskCache]
ABSENT = {"redisvl EmbeddingsCache": "ConnectionError('no <server> & no socket')"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Measure those that start at once: a Redis server of its own takes seconds to stop."""
    room = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contestants, "PEERS", PEERS)
        measured = benchmarks.measure(benchmarks.options_of(TINY), room)
    return json.loads(json.dumps({**measured, "absent": {**measured["absent"], **ABSENT}}))


def test_every_path_has_its_floor_and_those_that_take_part(everything: Any) -> None:
    assert {row["path"] for row in everything["paths"]} == {*PATHS}
    for path in PATHS:
        rows = {row["system"]: row for row in everything["paths"] if row["path"] == path}
        assert rows[FLOOR]["ratio"] == 1
        assert "ours (Arrow)" in rows
        for row in rows.values():
            assert (row["count"], row["dimension"]) == (64, 8)
            assert all(0 < row[name] < math.inf for name in ("median us", "minimum us", "ratio"))
            assert row["minimum us"] <= row["median us"]


def test_peers_take_part_or_are_absent_with_the_reason(everything: Any) -> None:
    rows = {row["system"] for row in everything["paths"] if row["path"] == "lists"}
    for peer in PEERS:
        assert (peer.name in rows) != (peer.name in everything["absent"])
    assert all(everything["absent"].values())
    assert "redisvl EmbeddingsCache: ConnectionError" in report.markdown(everything)


def test_the_machine_and_every_version_are_named(everything: Any) -> None:
    about = everything["machine"]
    assert {"cpu", "cores", "python", "date", "versions"} <= {*about}
    assert {system.package for system in peers.PEERS} <= {*about["versions"]}
    assert about["cpu"] in report.markdown(everything)


def test_sizes_and_the_opened_cache_are_reported(everything: Any) -> None:
    assert {"ours (Arrow)", "ours (Parquet, zstd)"} <= {row["system"] for row in everything["sizes"]}
    assert all(row["relative"] > 0 for row in everything["sizes"])
    assert {"count", "parts", "open ms", "resident MB", "first look-up ms"} <= {*everything["opening"]}
    assert everything["growth"] == everything["peak"] == everything["minilm"] == {}


def test_a_long_fill_writes_as_many_bytes_as_the_decisions_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "_AT_ONCE", 1 << 40)  # beside the writes, a merge may be in the next window
    filled = filling.fill(4096, 384, tmp_path)
    simulated, real = (filled[f"written in the worst window{which}"] for which in (", simulated", ""))
    assert 1 < simulated < real < 1.1 * simulated
    assert 0 < filled["p50 ms"] <= filled["p99 ms"] <= filled["longest ms"]
    assert filled["most open files"] > 0
    assert [*tmp_path.iterdir()] == []


def test_the_long_fill_and_awaited_hits_are_reported(everything: Any) -> None:
    assert everything["filling"]["count"] == 512
    awaited = everything["awaited"]
    names = ("one us", "one awaited us", "each of 50 gathered us", "a miss awaited us")
    assert all(awaited[name] > 0 for name in names)


def test_every_target_is_met_or_not_or_not_measured(everything: Any) -> None:
    lines = {target.name: target.line(everything) for target in TARGETS}
    for name, (_, _, measured, met) in lines.items():
        assert (met == "not measured") == (not measured), name
    assert lines["peak memory, of the returned array"][3] == "not measured"
    assert lines["all hits as arrays, of the floor"][3] in {"yes", "no"}
    given = {**everything, "peak": {"relative": 1.2}, "growth": {"growth": 2.1}}
    assert TARGETS[-1].line(given) == ["peak memory, of the returned array", "≤ 1.3", "1.2", "yes"]
    assert next(t for t in TARGETS if "1,000,000, of N" in t.name).line(given)[2:] == ["2.1", "no"]


def test_the_steps_of_hits_and_fills_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "RUNS", 2)
    for steps in (profile.hits(Work(300, 8), tmp_path), profile.fills(Work(300, 8), tmp_path)):
        assert all(seconds > 0 for seconds in steps.values())
        assert steps["all of it"] == max(steps.values())


def test_growth_and_peak_memory_are_measured(tmp_path: Path) -> None:
    grown = large.growth((32, 64), 8, tmp_path, rounds=1)
    assert {"growth", "growth of the floor", "minimum us"} <= {*grown}
    peak = large.peak(500, 64, tmp_path / "peak")
    assert peak["relative"] >= 0
    assert peak["array MB"] == 500 * 64 * 4 / 1e6


def test_what_is_predicted_of_scale_is_measured_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "ROUNDS", 1)
    monkeypatch.setattr(scale, "ASKED", 100)
    both = scale.scale(2_000, 16, tmp_path)
    predicted, measured = both["bytes on disk"]
    assert 0.9 < measured / predicted < 1.1
    assert all(value >= 0 for pair in both.values() for value in pair)


def test_charts_are_well_formed_and_name_machine_and_absent(everything: Any, tmp_path: Path) -> None:
    for path in charts.draw(everything, tmp_path / "charts"):
        content = path.read_text(encoding="utf-8")
        texts = " ".join(each.text or "" for each in ET.fromstring(content).iter())
        assert "prefers-color-scheme: dark" in content
        assert "microseconds per text" in texts
        assert everything["machine"]["python"] in texts
        assert "absent: redisvl EmbeddingsCache" in texts


def test_large_sizes_are_for_ours_only() -> None:
    found = [peers.Arrow, peers.DiskCache]
    assert contestants.entering(found, contestants.PEERS_UP_TO) == found
    assert contestants.entering(found, contestants.PEERS_UP_TO + 1) == [peers.Arrow]
