"""Verifying: what a reader would miss is found, and after a repair nothing is wrong and all else is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from kura_cache_adapters import CachedEmbeddingModel, MemoryStore, Report, TieredStore, open_cache
from kura_cache_adapters.testing import FakeEmbeddingModel
from tests.faults.damage import DAMAGES, GROUPS, TEXTS, contents, segments
from tests.faults.fault_lab import FORMATS, MANAGERS, STORES, WAYS, Ledger
from tests.faults.rewriting import rewrite
from tests.faults.test_claims import IN_THE_WAY
from tests.faults.test_damage import CHANGES

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
ON_DISK = [way for way in WAYS if way in FORMATS or way in MANAGERS]


def filled(way: str, path: Path) -> Ledger:
    ledger = Ledger(way, path, "")
    for group in GROUPS:
        ledger.ask(ledger.open(), group)
    return ledger


def verified(ledger: Ledger, *, repair: bool = False) -> Report:
    """Verify as an operator would: no model is there."""
    return open_cache(WAYS[ledger.way](ledger.path)).verify(repair=repair)


def found(ledger: Ledger) -> set[str]:
    missing = ledger.open().missing(TEXTS)
    return {text for at, text in enumerate(TEXTS) if at not in missing}


def check_repair(ledger: Ledger, before: set[str]) -> None:
    """What was found is still found; nothing is wrong any more, but what its model alone can write."""
    first = verified(ledger, repair=True)
    again = verified(ledger)
    left = [trouble for trouble in again.troubles if "version" not in trouble.why]
    assert all("_identity.json" in trouble.where for trouble in left)
    assert first.sound or left or len(again.troubles)
    assert found(ledger) >= before
    ledger.ask(ledger.open(), [*TEXTS, "new"])
    assert [each.why for each in verified(ledger).troubles if "version" not in each.why] == []
    assert found(ledger) == {*TEXTS}
    assert not ledger.outcome.wrong + ledger.outcome.raised


@pytest.mark.parametrize("way", ON_DISK)
def test_a_sound_cache_is_said_to_be_so(way: str, tmp_path: Path) -> None:
    report = verified(filled(way, tmp_path))
    tiers = 2 if way == "Multi manager" else 1
    assert report.sound
    assert [(space.rows, space.damaged, space.intact) for space in report.spaces] == [(18, 0, 18)] * tiers
    assert json.loads(json.dumps(report.as_dict()))["sound"]


def damage_and_repair(way: str, path: Path, name: str, number: int) -> None:
    whole = path / "whole"
    if not whole.exists():
        filled(way, whole)
    ledger = Ledger(way, path / f"{name} {number}", name)
    shutil.copytree(whole, ledger.path)
    chance = Random(f"{name} {number}")
    DAMAGES[name](chance.choice(contents(chance.choice(segments(ledger.path)))), chance)
    here = found(ledger)
    report = verified(ledger)
    gone = len(segments(ledger.path)) < len(segments(whole))  # of that nothing can tell
    assert len(here) == len(TEXTS) or gone or not report.sound
    check_repair(ledger, here)
    shutil.rmtree(ledger.path)


@pytest.mark.parametrize("way", FORMATS)
def test_every_damage_to_a_file_is_found_and_repaired(way: str, tmp_path: Path) -> None:
    for name in DAMAGES:
        for number in range(8 if name == "a flipped bit" else 1):
            damage_and_repair(way, tmp_path, name, number)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", ON_DISK)
def test_every_damage_is_found_and_repaired_again_and_again(way: str, tmp_path: Path) -> None:
    for name in DAMAGES:
        for number in range(200 if name == "a flipped bit" else 10):
            damage_and_repair(way, tmp_path, name, number)


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "nothing"])
@pytest.mark.parametrize("way", FORMATS)
def test_rows_that_were_exchanged_are_found_and_repaired(way: str, name: str, tmp_path: Path) -> None:
    ledger = filled(way, tmp_path)
    rewrite(contents(segments(tmp_path)[1])[0], CHANGES[name][0])
    here = found(ledger)
    assert name == "a row twice" or not verified(ledger).sound
    check_repair(ledger, here)


@pytest.mark.parametrize("way", FORMATS)
def test_rows_out_of_order_are_found_again_after_a_repair(way: str, tmp_path: Path) -> None:
    ledger = filled(way, tmp_path)
    rewrite(contents(segments(tmp_path)[0])[0], CHANGES["rows in falling order"][0])
    assert len(found(ledger)) < len(TEXTS)
    report = verified(ledger, repair=True)
    assert (report.sound, report.spaces[0].damaged) == (True, 0)
    assert len(report.troubles) == 1
    assert found(ledger) == {*TEXTS}


@pytest.mark.parametrize("way", FORMATS)
def test_a_newer_version_is_named_and_left_alone(way: str, tmp_path: Path) -> None:
    ledger = filled(way, tmp_path)
    rewrite(contents(segments(tmp_path)[0])[0], lambda _: None, version="2")
    before = segments(tmp_path)
    report = verified(ledger, repair=True)
    assert not report.sound
    assert "version" in report.troubles[0].why
    assert segments(tmp_path) == before


@pytest.mark.parametrize("way", FORMATS)
def test_a_name_that_lies_is_put_right_and_another_dimension_set_aside(way: str, tmp_path: Path) -> None:
    ledger = filled(way, tmp_path)
    one, two, _ = segments(tmp_path)
    one.rename(one.with_name("000000009" + one.name[9:]))
    here = found(ledger)
    other = Ledger(way, tmp_path / "other", "", dimension=9)
    other.ask(other.open(), TEXTS[:2])
    (stranger,) = segments(other.path)
    stranger.rename(two.with_name(stranger.name))
    shutil.rmtree(other.path)
    report = verified(ledger)
    whys = sorted(trouble.why for trouble in report.troubles)
    assert whys == ["it has 6 rows", "its vectors have 9 dimensions, and most here 8"]
    assert len(here) == 12
    check_repair(ledger, {*TEXTS})
    assert [path.name for path in two.parent.glob("_*.damaged")] == [f"_{stranger.name}.damaged"]


IDENTITIES: dict[str, Callable[[Path], object]] = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: os.truncate(path, 5),
    "garbage": lambda path: path.write_bytes(b"\xff" * 5000),
    "another one's": lambda path: path.write_text(path.read_text().replace('"fake"', '"make"')),
    "a directory": lambda path: DAMAGES["a directory"](path, Random(0)),
    "a link": lambda path: DAMAGES["a link to a device"](path, Random(0)),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_damaged_identity_is_found_and_written_anew_by_its_model(name: str, tmp_path: Path) -> None:
    ledger = filled("arrow", tmp_path)
    (path,) = tmp_path.rglob("_identity.json")
    whole = path.read_text()
    IDENTITIES[name](path)
    report = verified(ledger, repair=True)
    assert [trouble.where for trouble in report.troubles] == [str(path)]
    assert not report.sound
    assert "its model writes it again" in report.troubles[0].why
    model = ledger.open()
    assert model.cache is not None
    model.embed_sync(TEXTS)
    assert model.cache.verify(repair=True).sound
    assert path.read_text() == whole
    assert verified(ledger).sound


@pytest.mark.parametrize("name", [name for name in DAMAGES if name != "deleted"])
def test_a_damaged_tombstone_is_found_and_what_it_says_is_kept(name: str, tmp_path: Path) -> None:
    ledger = filled("arrow", tmp_path)
    shutil.copytree(tmp_path, tmp_path / "copy")
    ledger.open().forget(TEXTS[:9])
    (space,) = (path.parent for path in tmp_path.glob("*/_identity.json"))
    (tombstone,) = space.glob("_forgotten-*")
    DAMAGES[name](tombstone, Random(0))
    assert [trouble.where for trouble in verified(ledger).troubles] == [str(tombstone)]
    assert verified(ledger, repair=True).sound
    assert verified(ledger).troubles == ()
    shutil.copytree(tmp_path / "copy" / space.name, space, dirs_exist_ok=True)
    if name in {"a flipped bit", "cut by one byte", "doubled", "longer by a hole"}:
        assert len(ledger.open().missing(TEXTS)) >= 8


@pytest.mark.parametrize("what", [what for what in IN_THE_WAY if "place" in what or "gate" in what])
def test_what_lies_where_claims_are_to_be_is_found_and_removed(what: str, tmp_path: Path) -> None:
    ledger = filled("arrow", tmp_path)
    (gate,) = tmp_path.rglob(".claims/gate")
    gate.unlink()
    IN_THE_WAY[what](gate.parent)
    harmless = what == "an odd gate"
    assert [trouble.where for trouble in verified(ledger).troubles] == [str(gate.parent)] * (not harmless)
    assert verified(ledger, repair=True).sound
    check_repair(ledger, {*TEXTS})


def test_what_a_killed_writer_has_left_is_found_and_removed(tmp_path: Path) -> None:
    ledger = filled("arrow", tmp_path)
    segment = segments(tmp_path)[0]
    old, new = (segment.with_name(f".{segment.name}.99-0123456{at}.tmp") for at in range(2))
    for path in (old, new):
        shutil.copy(segment, path)
    os.utime(old, (0, 0))
    assert [trouble.where for trouble in verified(ledger).troubles] == [str(old)]
    assert verified(ledger, repair=True).sound
    assert (old.exists(), new.exists()) == (False, True)


def test_what_was_set_aside_is_named_and_is_no_trouble(tmp_path: Path) -> None:
    ledger = filled("arrow", tmp_path)
    path = segments(tmp_path)[0]
    os.truncate(path, 100)
    assert verified(ledger, repair=True).sound
    report = verified(ledger)
    assert report.troubles == ()
    assert report.spaces[0].set_aside == (f"_{path.name}.damaged",)


def test_every_tier_and_every_format_is_read(tmp_path: Path) -> None:
    model = FakeEmbeddingModel()
    tiers = TieredStore(MemoryStore(), STORES["arrow"](tmp_path / "a"), STORES["jsonl"](tmp_path / "b"))
    for cache in (tiers, f"parquet://{tmp_path / 'a'}"):
        CachedEmbeddingModel(model, cache).embed_sync(TEXTS)
    for path in segments(tmp_path):
        os.truncate(path, 10)
    report = open_cache(tiers).verify()
    assert [(space.store.partition("(")[0], len(space.troubles)) for space in report.spaces] == [
        ("MemoryStore", 0),
        ("ArrowStore", 1),
        ("ParquetStore", 1),
        ("JSONLStore", 1),
    ]


def test_a_store_that_fails_is_in_the_report(tmp_path: Path) -> None:
    class Away(MemoryStore):
        def spaces(self) -> list[Any]:
            raise OSError(5, "the server is away", "far")

    report = open_cache(TieredStore(Away(), filled_store(tmp_path))).verify()
    assert not report.sound
    assert "away" in report.troubles[0].why
    assert report.spaces[1].intact == 18


def filled_store(path: Path) -> Any:
    filled("arrow", path)
    return STORES["arrow"](path)


def test_entries_of_a_checkpoint_manager_are_read_and_repaired(tmp_path: Path) -> None:
    managers = pytest.importorskip("kura.checkpoints", reason="needs the extra `kura`")
    manager = managers.JSONLCheckpointManager(str(tmp_path))
    model = CachedEmbeddingModel(FakeEmbeddingModel(), manager)
    model.embed_sync(TEXTS)
    files = sorted(tmp_path.glob("embedding-*"))
    files[0].write_text("nonsense")
    shutil.copy(files[1], files[2])
    assert [(s.rows, s.damaged) for s in open_cache(manager).verify().spaces] == [(18, 2)]
    assert open_cache(manager).verify(repair=True).sound
    assert open_cache(manager).verify().spaces[0].rows == 16
    assert len(model.missing(TEXTS)) == 2


WRITER = """
import sys
from tests.test_verify import *
model = CachedEmbeddingModel(FakeEmbeddingModel(), sys.argv[1])
print("ready", flush=True)
for number in range(10**6):
    model.embed_sync([f"{sys.argv[2]} {number}"])
"""


def test_it_verifies_and_repairs_while_others_write(tmp_path: Path) -> None:
    ledger = filled("arrow", tmp_path)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, str(at)], cwd=ROOT, stdout=subprocess.PIPE, text=True) for at in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for _ in range(5):
            assert verified(ledger).sound
        victim = min(segments(tmp_path), key=lambda path: path.name)
        shutil.copy(victim, victim.with_name(f"000000007{victim.name[9:]}"))
        assert not verified(ledger).sound
        assert verified(ledger, repair=True).sound
        assert verified(ledger).sound
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert found(ledger) == {*TEXTS}


class Moved(FakeEmbeddingModel):
    """A model whose provider has put something else behind its name."""

    def __init__(self, noise: float, **options: Any) -> None:
        super().__init__(dimension=64, **options)
        self.noise = noise

    def array(self, texts: Any, role: str = "document") -> Any:
        vectors = super().array(texts, role)
        noise = np.random.default_rng(len(self.calls)).normal(size=vectors.shape)
        return (vectors + self.noise * noise).astype(vectors.dtype)


def test_a_model_that_answers_as_it_did_has_not_changed(tmp_path: Path) -> None:
    fake = FakeEmbeddingModel(roles=("query",))
    model = CachedEmbeddingModel(fake, tmp_path)
    model.embed_sync(TEXTS)
    model.embed_sync(TEXTS[:4], role="query")
    fake.calls.clear()
    drift = model.verify_sync([*TEXTS, "unknown"], sample=5)
    assert [(role.role, role.cached, role.sampled) for role in drift.roles] == [
        ("document", 18, 5),
        ("query", 4, 4),
    ]
    assert {(role.largest, role.cosine_min, role.cosine_median) for role in drift.roles} == {(0.0, 1.0, 1.0)}
    assert not drift.changed
    assert [len(call) for call in fake.calls] == [5, 4]
    assert model.missing(["unknown"]) == [0]
    assert json.loads(json.dumps(drift.as_dict()))["changed"] is False


@pytest.mark.parametrize(("noise", "changed"), [(1e-4, False), (1.0, True)])
async def test_a_little_drift_is_none_and_another_model_is_told(
    noise: float, tmp_path: Path, *, changed: bool
) -> None:
    await CachedEmbeddingModel(Moved(0), tmp_path).embed(TEXTS)
    drift = await CachedEmbeddingModel(Moved(noise), tmp_path).verify(TEXTS)
    (role,) = drift.roles
    assert drift.changed is changed
    assert role.largest is not None
    assert role.cosine_min is not None
    assert role.cosine_median is not None
    assert 0 < role.largest < 6 * noise
    assert role.cosine_min <= role.cosine_median < 1
    strict = await CachedEmbeddingModel(Moved(noise), tmp_path).verify(TEXTS, tolerance=0)
    assert strict.changed


def test_a_cache_around_a_cache_is_compared_with_the_model_beneath(tmp_path: Path) -> None:
    CachedEmbeddingModel(Moved(0), tmp_path).embed_sync(TEXTS)
    inner = CachedEmbeddingModel(Moved(1.0), tmp_path)
    assert CachedEmbeddingModel(inner, tmp_path).verify_sync(TEXTS).changed


async def test_another_dimension_is_another_model(tmp_path: Path) -> None:
    await CachedEmbeddingModel(FakeEmbeddingModel(dimension=8), tmp_path).embed(TEXTS)
    drift = await CachedEmbeddingModel(FakeEmbeddingModel(dimension=9), tmp_path).verify(TEXTS)
    assert drift.changed
    assert drift.roles[0].dimensions == (8, 9)


def test_nothing_cached_is_nothing_changed(tmp_path: Path) -> None:
    fake = FakeEmbeddingModel()
    for cache in (tmp_path, None):
        drift = CachedEmbeddingModel(fake, cache).verify_sync(TEXTS)
        assert not drift.changed
    assert fake.calls == []
