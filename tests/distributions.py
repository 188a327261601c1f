"""Installs throw-away distributions: a package and its metadata, as pip leaves them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

ACME = Path(__file__).parent / "acme_vectors"


class Site:
    """A directory of installed packages, found by imports and by `importlib.metadata`."""

    def __init__(self, path: Path) -> None:
        self.path = path / "site-packages"
        self.path.mkdir()

    def install(
        self, name: str, entry_points: Mapping[tuple[str, str], str], code: Path | str = ACME
    ) -> None:
        """Install a package, with entry points: by group and name, where it leads."""
        if isinstance(code, Path):
            shutil.copytree(code, self.path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (self.path / f"{name}.py").write_text(code)
        metadata = self.path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        sections = (f"[{group}]\n{key} = {value}\n" for (group, key), value in entry_points.items())
        (metadata / "entry_points.txt").write_text("".join(sections))


def a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Make a site for one test; what was imported from it is forgotten."""
    known = {*sys.modules}
    site = Site(tmp_path)
    monkeypatch.syspath_prepend(site.path)
    yield site
    for name, module in [*sys.modules.items()]:
        if name not in known and str(site.path) in str(getattr(module, "__file__", "")):
            del sys.modules[name]
