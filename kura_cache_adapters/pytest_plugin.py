"""A pytest plugin: the fixture `embeddings`, on recordings beside the tests, and the option for its modes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kura_cache_adapters.cached_embedding import CachedEmbeddingModel

# pytest imports this wherever the package is installed: what is heavy is imported for who uses it.

_MODES = {
    "replay": "what was not recorded fails the test",
    "record": "embed and record what is missing",
    "rewrite": "embed and record anew all that is asked for; a whole run prunes the rest",
    "live": "embed, without recordings",
    "drift": "embed, and compare with the recordings",
}
_OUTPUT = "kura_cache_embeddings"


class Embeddings(Protocol):
    """What the fixture `embeddings` gives to tests."""

    def __call__(self, model: Any, /, **keywords: Any) -> CachedEmbeddingModel:  # noqa: ANN401 - any embedder
        """Wrap an embedder on the recordings; keywords are those of `CachedEmbeddingModel`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the mode, and the setting of the directory."""
    modes = "; ".join(f"{mode}: {what}" for mode, what in _MODES.items())
    parser.getgroup("embeddings").addoption(
        "--embeddings", choices=list(_MODES), default="replay", help=f"What `embeddings` does. {modes}."
    )
    parser.addini(
        "embeddings_dir", "Where embeddings are recorded, from rootdir.", default="tests/embeddings"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch a run that records or compares."""
    run = _Run(config)
    config.stash[_RUN] = run
    if run.mode not in {"replay", "live"}:
        config.pluginmanager.register(run, "kura_cache_adapters.run")


@pytest.fixture(scope="session")
def embeddings(pytestconfig: pytest.Config) -> Iterator[Embeddings]:
    """Wrap an embedder on the recordings: `embeddings(model)` is a CachedEmbeddingModel."""
    from kura_cache_adapters.testing.recordings import Recordings  # noqa: PLC0415 - see above

    run = pytestconfig.stash[_RUN]
    recordings = Recordings(run.directory, run.mode)
    yield recordings.model
    run.drifts += map(tuple, recordings.drifts())
    recordings.close()


class _Run:
    """A run that records or compares: what it leaves out, and what becomes of its recordings."""

    def __init__(self, config: pytest.Config) -> None:
        self.mode: str = config.getoption("embeddings")
        self.directory: Path = config.rootpath / config.getini("embeddings_dir")
        self.drifts: list[tuple[Any, ...]] = []
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._before: set[Path] = set()
        self._left_out = 0
        self._told: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Note what was recorded before; forget what a run that was killed has left."""
        if self._is_worker or not self.directory.is_dir():
            return
        from kura_cache_adapters.testing.recordings import discard, files_in  # noqa: PLC0415 - see above

        self._before = files_in(self.directory)
        if self.mode == "rewrite":
            discard(self.directory)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count tests that are left out."""
        self._left_out += len(items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Count modules that are left out."""
        self._left_out += report.skipped

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count tests that did not run to their end."""
        self._left_out += report.skipped

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401 - pytest-xdist's
        """Take what a worker tells."""
        drifts, left_out = getattr(node, "workeroutput", {}).get(_OUTPUT, ((), 0))
        self.drifts += map(tuple, drifts)
        self._left_out += left_out

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Tell the controlling process, or settle what was recorded."""
        if self._is_worker:
            self._config.workeroutput[_OUTPUT] = self.drifts, self._left_out  # type: ignore[attr-defined]
        elif self.directory.is_dir():
            self._told = self._settle(whole=exitstatus == 0 and not self._left_out and self._asks_for_all())

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was recorded, or how far models have drifted."""
        if self._told:
            terminalreporter.section("embeddings")
            terminalreporter.write("\n".join([*self._told, ""]))

    def _settle(self, *, whole: bool) -> list[str]:
        from kura_cache_adapters.testing import recordings  # noqa: PLC0415 - see above

        match self.mode:
            case "record":
                return recordings.join(self.directory, self._before)
            case "rewrite":
                return recordings.settle(self.directory, whole=whole)
            case _:
                return recordings.tell(self.drifts)

    def _asks_for_all(self) -> bool:
        """Tell whether the tests that were asked for are all of those around the recordings."""
        config, here = self._config, self._config.invocation_params.dir
        if config.getoption("ignore", None) or config.getoption("ignore_glob", None):
            return False
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            return True
        return any(
            self.directory.parent.is_relative_to((here / argument).resolve()) for argument in config.args
        )


_RUN = pytest.StashKey[_Run]()
