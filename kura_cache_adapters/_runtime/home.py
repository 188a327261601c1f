"""The task that awaits the cache as the place where an async model runs: what it holds belongs there."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future, InvalidStateError
from contextlib import aclosing, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, TypeVar

from kura_cache_adapters._runtime.detached import own_detached

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

_T = TypeVar("_T")
_PATIENCE = 0.5  # seconds in which a loop that runs has looked at its callbacks

# The callers' task, for what works for them on the background loop; None for sync callers.
_home: ContextVar[Home | None] = ContextVar("kura_cache_home", default=None)

# What the callers above this one are embedding. It travels home: the model may ask a cache again.
inside: ContextVar[tuple[Any, ...]] = ContextVar("kura_cache_inside", default=())


@dataclass(slots=True)
class _Request:
    """A coroutine to be awaited at home, and who waits for it on the background loop."""

    work: Coroutine[Any, Any, Any]
    answer: Future[Any] = field(default_factory=Future)
    inside: tuple[Any, ...] = field(default_factory=inside.get)

    async def run(self) -> None:
        token = inside.set(self.inside)
        try:
            answer = await self.work
        except Exception as error:  # noqa: BLE001 - whatever the model raises: the caller hears it in the end
            with suppress(InvalidStateError):
                self.answer.set_exception(error)
        except BaseException:
            self.cancel()
            raise
        else:
            with suppress(InvalidStateError):  # nobody waits for it any more
                self.answer.set_result(answer)
        finally:
            with suppress(ValueError):  # a task that nobody finished is collected in another context
                inside.reset(token)

    def cancel(self) -> None:
        if getcoroutinestate(self.work) == CORO_CREATED:
            self.work.close()
        self.answer.cancel()


class Home:
    """A task that waits for the background loop's work, and meanwhile awaits what belongs to its loop.

    Made and served in that task; asked from the background loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests: deque[_Request | None] = deque()
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._streams: list[AsyncGenerator[Any, None]] = []
        self._closed = False
        self.when_still: list[Callable[[], object]] = []

    def settle_in(self) -> None:
        """Become the home of all that the current context works for."""
        _home.set(self)

    async def serve(self, done: Future[_T]) -> _T:
        """Await what is asked for until the work is done; return or raise what comes of it."""
        done.add_done_callback(lambda _: self._post(self._receive, None))
        try:
            while (request := await self._next_request()) is not None:
                await request.run()
                del request  # what it returned belongs to its caller, while this one waits
            return _outcome(done)
        except GeneratorExit:  # collected after its loop was closed: nothing can be awaited any more
            self._streams.clear()
            raise
        finally:
            done.cancel()
            self._close()
            for stream in self._streams:
                await stream.aclose()

    async def do(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await a coroutine at home, from the background loop; a home that was left cancels."""
        request = _Request(work)
        if not self._post(self._receive, request):
            request.cancel()
        own = own_detached()
        answer: _T = await (self._wait_for(request) if own is None else own.wait(self._wait_for(request)))
        return answer

    async def each(self, answers: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
        """Iterate at home over what is closed there, too, when the home is left."""
        self._streams.append(answers)
        while (answer := await self.do(_next(answers))) is not None:
            yield answer

    async def _wait_for(self, request: _Request) -> Any:  # noqa: ANN401 - the coroutine's answer
        """Wait; tell, where the loop stands still, those whom somebody else may wait for."""
        answer, signs = asyncio.wrap_future(request.answer), [True]
        while not (await asyncio.wait([answer], timeout=_PATIENCE))[0]:
            for give_up in () if signs else self.when_still:
                give_up()
            signs = []
            if not self._post(signs.append, True):  # noqa: FBT003 - a sign of life
                request.cancel()
        return answer.result()

    async def _next_request(self) -> _Request | None:
        # No asyncio.Queue: in a task that is collected after its loop was closed it would complain.
        if not self._requests:
            self._wake = self._loop.create_future()
            await self._wake
        return self._requests.popleft()

    def _receive(self, request: _Request | None) -> None:
        self._requests.append(request)
        if self._closed:
            self._close()
        elif not self._wake.done():
            self._wake.set_result(None)

    def _close(self) -> None:
        self._closed = True
        while self._requests:
            if (request := self._requests.popleft()) is not None:
                request.cancel()

    def _post(self, call: Callable[[_T], object], value: _T) -> bool:
        """Call on the home's loop; tell whether there still is one."""
        try:
            self._loop.call_soon_threadsafe(call, value)
        except RuntimeError:
            return False
        return True


def _outcome(done: Future[_T]) -> _T:
    if done.cancelled():
        raise asyncio.CancelledError
    return done.result()


async def _next(answers: AsyncGenerator[_T, None]) -> _T | None:
    async for answer in answers:
        return answer
    return None


async def at_home(work: Coroutine[Any, Any, _T]) -> _T:
    """Await a coroutine in the task that waits for it on its own loop, or here if there is none."""
    home = _home.get()
    return await (work if home is None else home.do(work))


async def each_at_home(answers: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """Iterate in the task that waits on its own loop, or here if there is none."""
    home = _home.get()
    async with aclosing(answers if home is None else home.each(answers)) as stream:
        async for answer in stream:
            yield answer


async def each_away(answers: AsyncGenerator[_T, None]) -> AsyncGenerator[_T, None]:
    """Iterate here, and let nothing in it go home."""
    leave_home()
    async with aclosing(answers) as stream:
        async for answer in stream:
            yield answer


def leave_home() -> None:
    """Let the current context work for nobody's loop but its own."""
    _home.set(None)


def when_still(give_up: Callable[[], object]) -> None:
    """Have a function called on the background loop if the home's loop stands still, or is no more."""
    if (home := _home.get()) is not None:
        home.when_still.append(give_up)
