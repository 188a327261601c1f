"""A TCP proxy in front of a server, which delays, cuts, garbles, answers short, or does not answer at all."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

_CHUNK = 1 << 16


class Proxy:
    """Pass bytes on between clients and a port of loopback, as `mode` says at the moment.

    Modes: pass; hang (nothing passes, connections are taken); delay (each answer comes `delay` seconds late);
    drip (a byte of an answer at a time); cut (an answer ends halfway, and so does its connection); short (an
    answer ends halfway, and its connection stays); garble (a bit in every 16 bytes of an answer is flipped);
    refuse (connections are closed, those that are there and those that are made); echo (the answer is what
    was asked); forget (nothing passes any more through the connections that are there; new ones are well).
    """

    def __init__(self, port: int, *, delay: float = 1.0) -> None:
        self.mode = "pass"
        self._forgotten = self._made = 0
        self.target, self._delay = port, delay
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def set(self, mode: str) -> None:
        """Change the mode."""
        self.mode = mode
        if mode == "forget":
            self._forgotten = self._made
        if mode == "refuse":
            self._end(self._sockets)

    def close(self) -> None:
        """End all connections, and the proxy."""
        self._end([self._listener, *self._sockets])

    def _end(self, sockets: list[socket.socket]) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                try:
                    self._connect(client)
                except OSError:
                    client.close()

    def _connect(self, client: socket.socket) -> None:
        if self.mode == "refuse":
            raise ConnectionRefusedError
        server = socket.create_connection(("127.0.0.1", self.target))
        self._sockets.append(server)
        self._made += 1
        for way in ((self._made, client, server, False), (self._made, server, client, True)):
            threading.Thread(target=self._pump, args=way, daemon=True).start()

    def _pump(self, number: int, source: socket.socket, target: socket.socket, answers: bool) -> None:  # noqa: FBT001
        with suppress(OSError):
            while some := source.recv(_CHUNK):
                while self.mode == "hang":
                    time.sleep(0.01)
                if number <= self._forgotten:
                    continue
                if not answers and self.mode == "echo":
                    source.sendall(some)
                elif not answers or not self._spoil(some, target):
                    target.sendall(some)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _spoil(self, some: bytes, client: socket.socket) -> bool:
        """Send an answer as the mode has it; tell whether it was sent here."""
        if self.mode == "delay":
            time.sleep(self._delay)
        elif self.mode == "cut":
            client.sendall(some[: len(some) // 2])
            raise OSError
        elif self.mode == "short":
            client.sendall(some[: len(some) // 2])
            return True
        elif self.mode == "garble":
            client.sendall(bytes(byte ^ (at % 16 == 5) for at, byte in enumerate(some)))
            return True
        elif self.mode == "drip":
            for at in range(len(some)):
                client.sendall(some[at : at + 1])
                time.sleep(0.02)
            return True
        return False
