"""A file system of the tests' own: it passes on what it is asked to a directory, and fails as it is told.

`python -m tests.faults.fuse BACKING MOUNTPOINT CONTROL` speaks the kernel's protocol (linux/fuse.h).
Faults are files in CONTROL: `read` (its content is the errno of each READ), `stale` (ESTALE for what was
removed while it was open), `direct` (files are opened with direct I/O: no shared maps), `rename` (the errno
of renaming a directory), `flush` (the errno of flushing a directory).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path

HEADER = struct.Struct("<IIQQIIIHH")
ATTRIBUTES = struct.Struct("<6Q10I")
MODE, SIZE, ATIME, MTIME, ATIME_NOW, MTIME_NOW = 1, 8, 16, 32, 128, 256  # what SETATTR sets
NO_REPLY = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET


class FileSystem:
    """A directory, seen through the kernel's requests."""

    def __init__(self, backing: Path, control: Path) -> None:
        self.control = control
        self.paths: dict[int, Path] = {1: backing}
        self.nodes: dict[Path, int] = {backing: 1}
        self.next = 2

    def fault(self, name: str) -> int:
        """Return the errno of a fault; 0 where it is not switched on."""
        with suppress(FileNotFoundError):
            return int((self.control / name).read_text() or errno.EIO)
        return 0

    def fail(self, name: str) -> None:
        if code := self.fault(name):
            raise OSError(code, name)

    def path(self, node: int) -> Path:
        if node not in self.paths:
            raise OSError(errno.ESTALE if self.fault("stale") else errno.ENOENT, "gone")
        return self.paths[node]

    def child(self, node: int, name: bytes) -> Path:
        return self.path(node) / os.fsdecode(name.rstrip(b"\0"))

    def entry(self, path: Path) -> bytes:
        attributes = self.attributes(path.lstat())
        if path not in self.nodes:
            self.nodes[path], self.paths[self.next] = self.next, path
            self.next += 1
        return struct.pack("<QQQQII", self.nodes[path], 0, 0, 0, 0, 0) + attributes

    def forget(self, path: Path) -> None:
        self.paths.pop(self.nodes.pop(path, 0), None)

    def move(self, old: Path, new: Path) -> None:
        self.forget(new)
        for path in [path for path in self.nodes if path == old or old in path.parents]:
            node = self.nodes.pop(path)
            moved = new / path.relative_to(old)
            self.nodes[moved], self.paths[node] = node, moved

    @staticmethod
    def attributes(s: os.stat_result) -> bytes:
        times = [s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns]
        seconds, rest = [at // 10**9 for at in times], [at % 10**9 for at in times]
        return ATTRIBUTES.pack(
            *(s.st_ino, s.st_size, s.st_blocks, *seconds, *rest),
            *(s.st_mode, s.st_nlink, s.st_uid, s.st_gid, 0, 4096, 0),
        )

    def opened(self, descriptor: int) -> bytes:
        return struct.pack("<QII", descriptor, 1 if self.fault("direct") else 0, 0)

    def answer(self, opcode: int, node: int, body: bytes) -> bytes:
        """Return what the kernel is told; raise OSError for an error."""
        method = getattr(self, f"op_{opcode}", None)
        if method is None:
            raise OSError(errno.ENOSYS, "not here")
        answer: bytes = method(node, body)
        return answer

    def op_1(self, node: int, body: bytes) -> bytes:  # LOOKUP
        return self.entry(self.child(node, body))

    def op_3(self, node: int, body: bytes) -> bytes:  # GETATTR
        flags, _, descriptor = struct.unpack_from("<IIQ", body)
        known = node in self.paths
        if not known and (self.fault("stale") or not flags & 1):
            self.path(node)
        status = self.paths[node].lstat() if known else os.fstat(descriptor)
        return struct.pack("<QII", 0, 0, 0) + self.attributes(status)

    def op_4(self, node: int, body: bytes) -> bytes:  # SETATTR
        valid, _, _, size, _, atime, mtime, _, a, m, _, mode = struct.unpack_from("<IIQQQQQQIIII", body)
        path = self.path(node)
        if valid & MODE:
            path.chmod(stat.S_IMODE(mode))
        if valid & SIZE:
            os.truncate(path, size)
        if valid & (ATIME | MTIME):
            status = path.lstat()
            now = valid & (ATIME_NOW | MTIME_NOW)
            times = (
                atime * 10**9 + a if valid & ATIME else status.st_atime_ns,
                mtime * 10**9 + m if valid & MTIME else status.st_mtime_ns,
            )
            os.utime(path) if now else os.utime(path, ns=times)
        return struct.pack("<QII", 0, 0, 0) + self.attributes(path.lstat())

    def op_9(self, node: int, body: bytes) -> bytes:  # MKDIR
        path = self.child(node, body[8:])
        path.mkdir(mode=struct.unpack_from("<I", body)[0] & 0o7777)
        return self.entry(path)

    def op_10(self, node: int, body: bytes) -> bytes:  # UNLINK
        path = self.child(node, body)
        path.unlink()
        self.forget(path)
        return b""

    def op_11(self, node: int, body: bytes) -> bytes:  # RMDIR
        path = self.child(node, body)
        path.rmdir()
        self.forget(path)
        return b""

    def op_12(self, node: int, body: bytes, skip: int = 8) -> bytes:  # RENAME
        old, new = body[skip:].split(b"\0")[:2]
        source, target = self.child(node, old), self.child(struct.unpack_from("<Q", body)[0], new)
        if source.is_dir():
            self.fail("rename")
        source.rename(target)
        self.move(source, target)
        return b""

    def op_45(self, node: int, body: bytes) -> bytes:  # RENAME2
        return self.op_12(node, body, 16)

    def op_14(self, node: int, body: bytes) -> bytes:  # OPEN
        flags = struct.unpack_from("<I", body)[0] & ~(os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL)
        return self.opened(os.open(self.path(node), flags))

    def op_35(self, node: int, body: bytes) -> bytes:  # CREATE
        flags, mode = struct.unpack_from("<II", body)
        path = self.child(node, body[16:])
        descriptor = os.open(path, flags & ~os.O_NOFOLLOW, mode & 0o7777)
        return self.entry(path) + self.opened(descriptor)

    def op_15(self, node: int, body: bytes) -> bytes:  # READ
        self.fail("read")
        if node not in self.paths and self.fault("stale"):
            raise OSError(errno.ESTALE, "removed")
        descriptor, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(descriptor, size, offset)

    def op_16(self, _: int, body: bytes) -> bytes:  # WRITE
        descriptor, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(descriptor, body[40 : 40 + size], offset), 0)

    def op_17(self, _: int, __: bytes) -> bytes:  # STATFS
        return struct.pack("<5Q4I24x", 1 << 30, 1 << 29, 1 << 29, 1 << 20, 1 << 20, 4096, 255, 4096, 0)

    def op_18(self, _: int, body: bytes) -> bytes:  # RELEASE
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def op_20(self, _: int, body: bytes) -> bytes:  # FSYNC
        os.fsync(struct.unpack_from("<Q", body)[0])
        return b""

    def op_25(self, _: int, __: bytes) -> bytes:  # FLUSH
        return b""

    def op_26(self, _: int, body: bytes) -> bytes:  # INIT: version 7.31, big writes
        readahead = struct.unpack_from("<III", body)[2]
        return struct.pack("<IIIIHHIIHHI7I", 7, 31, readahead, 32, 12, 9, 1 << 17, 1, 0, 0, 0, *[0] * 7)

    def op_27(self, node: int, _: bytes) -> bytes:  # OPENDIR
        self.path(node)
        return struct.pack("<QII", 0, 0, 0)

    def op_28(self, node: int, body: bytes) -> bytes:  # READDIR
        _, offset, size = struct.unpack_from("<QQI", body)
        found = b""
        for at, name in enumerate(sorted(os.listdir(self.path(node)))[offset:], offset + 1):  # noqa: PTH208
            raw = os.fsencode(name)
            item = struct.pack("<QQII", at, at, len(raw), 0) + raw + bytes(-len(raw) % 8)
            if len(found) + len(item) > size:
                break
            found += item
        return found

    def op_29(self, _: int, __: bytes) -> bytes:  # RELEASEDIR
        return b""

    def op_30(self, _: int, __: bytes) -> bytes:  # FSYNCDIR
        self.fail("flush")
        return b""

    def op_34(self, _: int, __: bytes) -> bytes:  # ACCESS
        return b""


def serve(backing: Path, mountpoint: Path, control: Path) -> None:
    """Mount, say so, and answer until the end."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    library = ctypes.CDLL(None, use_errno=True)
    if library.mount(b"tests", os.fsencode(mountpoint), b"fuse", 0, options):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    print("mounted", flush=True)  # noqa: T201 - to whoever waits for it
    system = FileSystem(backing, control)
    while True:
        request = os.read(device, 1 << 20)
        _, opcode, unique, node, *_ = HEADER.unpack_from(request)
        try:
            code, answer = 0, system.answer(opcode, node, request[HEADER.size :])
        except OSError as error:
            code, answer = error.errno or errno.EIO, b""
        if opcode not in NO_REPLY:
            with suppress(FileNotFoundError):  # who has asked is gone
                os.write(device, struct.pack("<IiQ", 16 + len(answer), -code, unique) + answer)


if __name__ == "__main__":
    serve(*map(Path, sys.argv[1:4]))
