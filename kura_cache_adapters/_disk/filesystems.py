"""Which file systems may be mapped: those on which a page that cannot be read is not a server's trouble."""

from __future__ import annotations

import sys

# The first field of `struct statfs`, from linux/magic.h and the file systems' own sources. Others (NFS, SMB,
# 9P, Ceph, Lustre, FUSE, ...) answer a page fault with a signal when their server does not answer.
_LOCAL = {
    *(0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x2FC12FC1),  # ext, XFS, Btrfs, F2FS, ZFS
    *(0xCA451A4E, 0x3153464A, 0x52654973, 0x3434),  # bcachefs, JFS, ReiserFS, NILFS
    *(0x01021994, 0x858458F6, 0x794C7630, 0x61756673, 0xF15F),  # tmpfs, ramfs, overlay, aufs, eCryptfs
    *(0x73717368, 0xE0F5E1E2, 0x9660, 0x15013346),  # squashfs, EROFS, ISO 9660, UDF
    *(0x7366746E, 0x2011BAB0, 0x4D44, 0x482B),  # NTFS, exFAT, FAT, HFS+
}


def is_local(descriptor: int) -> bool:
    """Tell whether an open file is on a file system of this machine alone; True where that is not known."""
    if not sys.platform.startswith("linux"):
        return True
    import ctypes  # noqa: PLC0415 - only where there is something to ask

    answer = (ctypes.c_long * 64)()
    if ctypes.CDLL(None, use_errno=True).fstatfs(descriptor, ctypes.byref(answer)):
        return True
    return answer[0] & 0xFFFFFFFF in _LOCAL
