"""Takes a file down beside its place, and checks that one is whole, and what its name says."""

from __future__ import annotations

import errno
import os
import shutil
import time
from typing import TYPE_CHECKING

from kura_cache_adapters._disk import atomic
from kura_cache_adapters._runtime.signals import suppressed
from kura_cache_adapters._segments.format import row_count
from kura_cache_adapters._segments.tombstones import Tombstones, is_tombstone
from kura_cache_adapters._segments.verify import checked
from kura_cache_adapters.errors import DamagedSegmentError
from kura_cache_adapters.identity import ModelIdentity

if TYPE_CHECKING:
    from pathlib import Path

    from kura_cache_adapters._mirror.bucket import Bucket, Object
    from kura_cache_adapters._segments.format import SegmentFormat


def fetch(bucket: Bucket, place: Path, found: Object, path: Path, file_format: SegmentFormat) -> None:
    """Write the object that belongs to a place to a file of its age.

    Raises DamagedSegmentError if it is not what its name says, OSError where there is no room for it: then
    nothing was asked.
    """
    if shutil.disk_usage(path.parent).free < found.nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
    with atomic.create(path, shared=file_format.shared) as file:
        bucket.fetch(place.parent.name, place.name, found.nbytes, file)
    check(path, place.name, file_format)
    now = time.time()
    os.utime(path, (now, min(now, found.written.timestamp())))


def check(path: Path, name: str, file_format: SegmentFormat) -> None:
    """Raise DamagedSegmentError unless a file is whole: each row by its checksum, in order."""
    if is_tombstone(name):
        Tombstones(path.parent, shared=True).check(path.name)
        return
    segment = file_format.read(path)
    if len(segment) != row_count(name) or checked(segment) != (0, True):
        message = "it does not hold what its name and its checksums say"
        raise DamagedSegmentError(message)


def check_dimension(path: Path, name: str, file_format: SegmentFormat, dimension: int | None) -> None:
    """Raise DamagedSegmentError for a segment of another dimension, if there is one; a look-up serves one."""
    found = dimension if is_tombstone(name) else file_format.read(path).dimension
    if dimension not in {None, found}:
        message = f"its vectors have {found} dimensions, and those here {dimension}"
        raise DamagedSegmentError(message)


def is_identity(content: bytes, directory: str) -> bool:
    """Tell whether an identity is that of a space's directory."""
    with suppressed(ValueError):
        return ModelIdentity.from_json(content).directory == directory
    return False
