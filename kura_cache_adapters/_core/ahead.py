"""Batch after batch, in order: the next is embedded while the caller has the last."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import AsyncIterable, Sized
from concurrent.futures import Future, wait
from contextlib import aclosing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from kura_cache_adapters._core.lookup import checked_texts, iterator_of
from kura_cache_adapters._core.vectors import as_matrix
from kura_cache_adapters._runtime import loop
from kura_cache_adapters._runtime.members import members
from kura_cache_adapters._runtime.series import Series
from kura_cache_adapters.errors import RefusedTextsError
from kura_cache_adapters.protocols import StreamsBatches

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator

    from kura_cache_adapters._core.ask import Source
    from kura_cache_adapters._core.calls import Bare, Cached
    from kura_cache_adapters.identity import Role
    from kura_cache_adapters.protocols import Vectors

_B = TypeVar("_B", bound=Sized)
_T = TypeVar("_T")


class Ahead:
    """A model's calls, one batch ahead of the caller: two where the model itself limits what runs at once."""

    def __init__(self, calls: Bare | Cached, source: Source) -> None:
        """Take the calls of a model."""
        self.calls = calls
        self._source = source
        self._most = 2 if isinstance(source.model, StreamsBatches) else 1

    def series(self, batch: int, role: Role, total: int | None = None) -> Series:
        """Make the series that batches belong to; raise ValueError for a batch below 1 or an unknown role."""
        if batch < 1:
            message = f"batch must be at least 1, not {batch}"
            raise ValueError(message)
        self._source.role(role)
        return Series(self._source.name, total)

    def stream_sync(
        self, texts: Iterable[str], batch: int, role: Role
    ) -> Generator[tuple[list[str], Vectors], None, None]:
        """Yield each batch of texts with its vectors."""
        series = self.series(batch, role, len(texts) if isinstance(texts, Sized) else None)
        each = _texts_of(texts)
        return self.in_order(_batches(each, batch), lambda some: self.begin(some, role), series)

    def stream(
        self, texts: Iterable[str] | AsyncIterable[str], batch: int, role: Role
    ) -> AsyncGenerator[tuple[list[str], Vectors], None]:
        """Yield each batch of texts with its vectors, on the caller's loop."""
        series = self.series(batch, role, len(texts) if isinstance(texts, Sized) else None)
        if isinstance(texts, AsyncIterable):
            return self._in_order(_batches_awaited(texts, batch), role, series)
        return self._in_order(_each_at_once(_batches(_texts_of(texts), batch)), role, series)

    def begin(self, texts: list[str], role: Role) -> Future[Vectors]:
        """Begin to embed a batch, in a thread."""
        return loop.begin(self.calls.answer_sync, texts, role, as_matrix)

    async def on_this_loop(self, work: Callable[[Ahead], _T]) -> _T:
        """Do sync work in a thread, which has its batches embedded by tasks of this loop.

        Who is cancelled waits for the thread to let go of what it holds.
        """
        here = _OnALoop(self.calls, self._source)
        task = asyncio.ensure_future(asyncio.to_thread(work, here))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            here.stop()
            await asyncio.wait([task])
            raise

    def in_order(
        self, batches: Iterable[_B], begin: Callable[[_B], Future[Vectors]], series: Series
    ) -> Generator[tuple[_B, Vectors], None, None]:
        """Yield each batch with its vectors; who leaves waits until what is being paid for is stored."""
        under_way: deque[tuple[int, _B, Future[Vectors]]] = deque()
        start, ready = 0, None
        try:
            for batch in batches:
                if len(under_way) == self._most:
                    ready = _outcome(*under_way.popleft())
                under_way.append((start, batch, series.begin(begin, batch)))
                start += len(batch)
                if ready is not None:
                    yield ready
                    ready = None
            while under_way:
                yield _outcome(*under_way.popleft())
        except (Exception, GeneratorExit):  # Ctrl-C does not wait
            series.left = True
            wait([future for _, _, future in under_way])
            raise
        finally:
            series.close()

    async def _in_order(
        self, batches: AsyncGenerator[list[str], None], role: Role, series: Series
    ) -> AsyncGenerator[tuple[list[str], Vectors], None]:
        under_way: deque[tuple[int, list[str], asyncio.Task[Vectors]]] = deque()
        start, ready = 0, None
        try:
            async with aclosing(batches):
                async for batch in batches:
                    if len(under_way) == self._most:
                        ready = await _awaited(*under_way.popleft())
                    under_way.append((start, batch, series.begin(self._task, batch, role)))
                    start += len(batch)
                    if ready is not None:
                        yield ready
                        ready = None
            while under_way:
                yield await _awaited(*under_way.popleft())
        except asyncio.CancelledError:
            for _, _, task in under_way:
                task.cancel()
            raise
        finally:
            series.close()
            if under_way:
                await asyncio.gather(*[task for _, _, task in under_way], return_exceptions=True)

    def _task(self, texts: list[str], role: Role) -> asyncio.Task[Vectors]:
        return asyncio.create_task(self.calls.answer(texts, role, as_matrix))


class _OnALoop(Ahead):
    """Calls that are tasks of the loop on which this was made."""

    def __init__(self, calls: Bare | Cached, source: Source) -> None:
        super().__init__(calls, source)
        self._loop = asyncio.get_running_loop()
        self._begun: WeakSet[Future[Vectors]] = WeakSet()
        self._stopped = False

    def begin(self, texts: list[str], role: Role) -> Future[Vectors]:
        future = asyncio.run_coroutine_threadsafe(self.calls.answer(texts, role, as_matrix), self._loop)
        self._begun.add(future)
        if self._stopped:
            future.cancel()
        return future

    def stop(self) -> None:
        self._stopped = True
        for future in members(self._begun):
            future.cancel()


def _outcome(start: int, batch: _B, future: Future[Vectors]) -> tuple[_B, Vectors]:
    with _counted_from(start):
        return batch, loop.outcome(future)


async def _awaited(start: int, batch: _B, task: asyncio.Task[Vectors]) -> tuple[_B, Vectors]:
    with _counted_from(start):
        return batch, await task


@contextmanager
def _counted_from(start: int) -> Iterator[None]:
    """Name the positions of refused texts among all."""
    try:
        yield
    except RefusedTextsError as error:
        positions = [start + at for at in error.positions]
        raise RefusedTextsError(error.model_name, positions, error.message) from error.__cause__


def _texts_of(texts: Any) -> Iterator[Any]:  # noqa: ANN401 - whatever is handed in
    """Iterate over texts, or over the lines of an open file, without their ends."""
    each = iterator_of(texts)
    return (line.rstrip("\r\n") for line in each) if isinstance(texts, io.TextIOBase) else each


def _batches(each: Iterator[Any], size: int) -> Iterator[list[str]]:
    start = 0
    while some := checked_texts(islice(each, size), first=start):
        yield some
        start += len(some)


async def _each_at_once(batches: Iterator[list[str]]) -> AsyncGenerator[list[str], None]:
    for batch in batches:
        yield batch


async def _batches_awaited(texts: AsyncIterable[str], size: int) -> AsyncGenerator[list[str], None]:
    start, held = 0, []
    async for text in texts:
        held.append(text)
        if len(held) == size:
            yield checked_texts(held, first=start)
            start, held = start + size, []
    if held:
        yield checked_texts(held, first=start)
