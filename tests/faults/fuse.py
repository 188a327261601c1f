"""A FUSE file system of the tests' own: `python fuse.py BEHIND MOUNTED [direct_io] [ERROR]`.

It shows what is in a directory and speaks the kernel's protocol (linux/fuse.h) itself. With direct_io files
cannot be mapped; with the number of an error, flushing a directory fails with it. While there is a file
`BEHIND.failing`, reading a file fails with EIO.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH110, PTH208

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BUFFER, _MOST = 1 << 18, 1 << 17  # bytes of a request, and of what one writes
_BIG_WRITES = 1 << 5
_NO_ANSWER = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
_MODE, _SIZE, _TIMES, _NOW = 1, 8, 16 | 32, 128 | 256  # what SETATTR sets
_NO_ENTRY = b"\0" * 40


class FileSystem:
    """What is behind, by numbers that the kernel knows files by."""

    def __init__(self, behind: str, *, direct_io: bool, error: int) -> None:
        self._behind = behind
        self._direct_io, self._error = direct_io, error
        self._paths, self._last = {1: behind}, 1
        self._answers: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: lambda node, _: self._attributes(node),
            4: self._set_attributes,
            9: self._mkdir,
            10: lambda node, body: self._do(os.unlink, self._child(node, body)),
            11: lambda node, body: self._do(os.rmdir, self._child(node, body)),
            12: lambda node, body: self._rename(node, body, 8),
            14: lambda node, body: self._open(self._paths[node], *struct.unpack_from("I", body)),
            15: self._read,
            16: self._write,
            17: lambda *_: struct.pack("5Q4I6I", *[1 << 20] * 5, 4096, 255, 4096, *[0] * 7),
            18: lambda _, body: self._do(os.close, *struct.unpack_from("Q", body)),
            20: lambda _, body: self._do(os.fsync, *struct.unpack_from("Q", body)),
            25: lambda *_: b"",
            26: lambda *_: struct.pack("4I2H2I2H8I", 7, 31, 0, _BIG_WRITES, 0, 0, _MOST, 1, *[0] * 10),
            27: lambda *_: struct.pack("QII", 0, 0, 0),
            28: self._list,
            29: lambda *_: b"",
            30: self._flush_directory,
            35: self._create,
            45: lambda node, body: self._rename(node, body, 16),
        }

    def serve(self, device: int) -> None:
        """Answer until it is unmounted."""
        while True:
            try:
                request = os.read(device, _BUFFER)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                continue
            _, code, unique, node = struct.unpack_from("IIQQ", request)
            if code not in _NO_ANSWER:
                number, body = self._answer(code, node, request[40:])
                os.write(device, struct.pack("IiQ", 16 + len(body), -number, unique) + body)

    def _answer(self, code: int, node: int, body: bytes) -> tuple[int, bytes]:
        try:
            return 0, self._answers[code](node, body)
        except KeyError:
            return errno.ENOSYS, b""
        except OSError as error:
            return error.errno or errno.EIO, b""

    @staticmethod
    def _do(call: Callable[..., object], *values: object) -> bytes:
        call(*values)
        return b""

    def _child(self, node: int, name: bytes) -> str:
        return f"{self._paths[node]}/{os.fsdecode(name.rstrip(bytes(1)))}"

    def _entry(self, path: str) -> bytes:
        attributes = _attributes_of(os.lstat(path))
        number = next((node for node, known in self._paths.items() if known == path), None)
        if number is None:
            number = self._last = self._last + 1
            self._paths[number] = path
        return struct.pack("Q", number) + _NO_ENTRY[8:] + attributes

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._child(node, body))

    def _attributes(self, node: int) -> bytes:
        return bytes(16) + _attributes_of(os.lstat(self._paths[node]))

    def _set_attributes(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, _, used, written, _, used_ns, written_ns, _, mode = struct.unpack_from(
            "IIQQQQQQIIII", body
        )
        path = self._paths[node]
        if valid & _MODE:
            os.chmod(path, mode & 0o7777)
        if valid & _SIZE:
            os.truncate(path, size)
        if valid & _NOW:
            os.utime(path)
        elif valid & _TIMES:
            os.utime(path, ns=(used * 10**9 + used_ns, written * 10**9 + written_ns))
        return self._attributes(node)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        path = self._child(node, body[8:])
        os.mkdir(path, struct.unpack_from("I", body)[0] & 0o7777)
        return self._entry(path)

    def _rename(self, node: int, body: bytes, start: int) -> bytes:
        old_name, new_name = body[start:].split(b"\0")[:2]
        old, new = self._child(node, old_name), self._child(struct.unpack_from("Q", body)[0], new_name)
        os.rename(old, new)
        paths = {each: path for each, path in self._paths.items() if path != new}
        self._paths = {
            each: new + path[len(old) :] if f"{path}/".startswith(f"{old}/") else path
            for each, path in paths.items()
        }
        return b""

    def _open(self, path: str, flags: int, mode: int = 0) -> bytes:
        descriptor = os.open(path, flags & ~os.O_NOATIME, mode & 0o7777)
        return struct.pack("QII", descriptor, int(self._direct_io), 0)

    def _create(self, node: int, body: bytes) -> bytes:
        path = self._child(node, body[16:])
        opened = self._open(path, *struct.unpack_from("II", body))
        return self._entry(path) + opened

    def _read(self, _: int, body: bytes) -> bytes:
        if os.path.exists(f"{self._behind}.failing"):
            raise OSError(errno.EIO, "the disk behind fails")
        descriptor, start, size = struct.unpack_from("QQI", body)
        return os.pread(descriptor, size, start)

    def _write(self, _: int, body: bytes) -> bytes:
        descriptor, start, size = struct.unpack_from("QQI", body)
        return struct.pack("II", os.pwrite(descriptor, body[40 : 40 + size], start), 0)

    def _list(self, node: int, body: bytes) -> bytes:
        _, start, size = struct.unpack_from("QQI", body)
        listed = b""
        for at, name in enumerate(sorted(os.listdir(self._paths[node]))[start:], int(start) + 1):
            encoded = os.fsencode(name)
            entry = struct.pack("QQII", at, at, len(encoded), 0) + encoded
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > size:
                break
            listed += entry
        return listed

    def _flush_directory(self, *_: object) -> bytes:
        if self._error:
            raise OSError(self._error, os.strerror(self._error))
        return b""


def _attributes_of(status: os.stat_result) -> bytes:
    times = [status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns]
    seconds, parts = [each // 10**9 for each in times], [each % 10**9 for each in times]
    whose = [status.st_mode, status.st_nlink, status.st_uid, status.st_gid]
    return struct.pack(
        "6Q10I", status.st_ino, status.st_size, status.st_blocks, *seconds, *parts, *whose, 0, 4096, 0
    )


def main(behind: str, mounted: str, *options: str) -> None:
    """Mount, and serve until it is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR)
    values = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tests", os.fsencode(mounted), b"fuse", 0, values):
        sys.exit(os.strerror(ctypes.get_errno()))
    error = next((int(option) for option in options if option.isdigit()), 0)
    FileSystem(behind, direct_io="direct_io" in options, error=error).serve(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
