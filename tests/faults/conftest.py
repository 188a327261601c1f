"""What the fault suite prints: its table, where `--fault-table FILE` asks for one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.fault_lab import TABLE
from tests.faults.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ("fault", "way", "rounds", "acknowledged", "lost", "wrong", "raised", "stuck")


def pytest_terminal_summary(config: pytest.Config) -> None:
    """Write the outcomes as a Markdown table."""
    if (file := config.getoption("--fault-table")) is None:
        return
    rows = [[str(getattr(outcome, column)) for column in COLUMNS] for _, outcome in sorted(TABLE.items())]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    Path(file).write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that strikes at system calls."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("striking at system calls needs Linux and gcc")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(scope="session")
def workers(shim: Path) -> Iterator[Workers]:
    """Start workers that can be struck at their system calls."""
    with Workers(shim) as workers:
        yield workers


@pytest.fixture(scope="session")
def plain_workers() -> Iterator[Workers]:
    """Start workers that can be killed at any moment."""
    if not hasattr(os, "fork"):
        pytest.skip("workers are forked")
    with Workers(None) as workers:
        yield workers


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush nothing in this process: where there is no power cut, it would only take time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Mounted:
    """A directory behind the tests' own file system."""

    def __init__(self, backing: Path, path: Path, control: Path) -> None:
        self.backing, self.path, self.control = backing, path, control
        for each in (backing, path, control):
            each.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "tests.faults.fuse", str(backing), str(path), str(control)]
        self._server = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "mounted\n":
            _, told = self._server.communicate()
            pytest.skip(f"no FUSE file system can be mounted: {told.strip().splitlines()[-1:]}")

    def fault(self, name: str, code: int = 1) -> None:
        """Switch a fault on."""
        (self.control / name).write_text(str(code))

    def heal(self) -> None:
        """Switch all faults off."""
        for each in self.control.iterdir():
            each.unlink()

    def forget_pages(self) -> None:
        """Let the kernel forget what it has read of the files, so that it asks again."""
        for path in self.path.rglob("*"):
            if path.is_file():
                descriptor = os.open(path, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)

    def kill(self) -> None:
        """End the server, as a crash would."""
        self._server.kill()
        self._server.communicate()

    def unmount(self) -> None:
        """End all of it, whatever state it is in."""
        self.kill()
        subprocess.run(["umount", "-l", str(self.path)], check=False, capture_output=True)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    """Mount the tests' own file system."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse, and the right to mount")
    system = Mounted(tmp_path / "backing", tmp_path / "mounted", tmp_path / "control")
    yield system
    system.unmount()


@pytest.fixture
def mounted_elsewhere(mounted: Mounted, tmp_path: Path) -> Iterator[Mounted]:
    """Mount the same directory once more, as another host does: neither knows what the other has open."""
    system = Mounted(mounted.backing, tmp_path / "elsewhere", tmp_path / "elsewhere's control")
    yield system
    system.unmount()
