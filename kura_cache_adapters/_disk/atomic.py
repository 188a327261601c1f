"""Files and directories that appear whole or not at all, and leave so."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from kura_cache_adapters._disk.locks import lock_file, patient_lock
from kura_cache_adapters._runtime.signals import pass_on_signals, suppressed

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEMPORARY = ".tmp"
_OURS = re.compile(r"\..+\.\d+-[0-9a-f]+\.tmp")  # as `_temporary` names them: a directory may be a user's own
_PREVIOUS = ".previous"
_COPY = ".copy"
_STALE_SECONDS = 3600
_NO_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EROFS}  # what fsync says where it has nothing to do
_FAILED = {errno.EIO, errno.ENOSPC, errno.EDQUOT}  # what it says of a directory that it could not flush
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)


def make_directory(path: Path, *, shared: bool = False) -> bool:
    """Make a directory and its parents, readable by their owner alone; tell whether it was missing.

    With shared the umask decides who may read and write them.
    """
    made = [directory for directory in (path, *path.parents) if not directory.exists()]
    for directory in reversed(made):
        directory.mkdir(mode=0o777 if shared else 0o700, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)  # raises where something else has the name
    return bool(made)


def anchor(path: Path) -> None:
    """Put a directory's name on disk, and its parents' names: another may have just made any of them."""
    for directory in path.parents:
        _sync(directory)


def create(path: Path, *, shared: bool = False) -> BinaryIO:
    """Open a new file for writing; it must not exist. Only its owner may read it, see `make_directory`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW
    return cast("BinaryIO", os.fdopen(os.open(path, flags, 0o666 if shared else 0o600), "wb"))


def create_over_leftovers(path: Path, target: Path) -> BinaryIO:
    """Open a new file for a target; the umask decides who may read it.

    What killed writers of the target have left is removed: who is at work holds a lock. Where there are no
    such locks, nothing is removed.
    """
    with patient_lock(path.parent):  # nobody sees a file that is not locked yet
        file = create(path, shared=True)
        with suppressed(OSError):
            lock_file(file.fileno())
            for other in path.parent.glob(f".{escape(target.name)}.*{_TEMPORARY}"):
                if _OURS.fullmatch(other.name) and _is_left(other):
                    discard(other)
    return file


@contextmanager
def published(path: Path, *, durable: bool) -> Iterator[Path]:
    """Give a temporary path to write a file or directory at; move it to `path` when done.

    With durable, content and name are on disk before this returns. On any error the temporary
    is removed and `path` is what it was.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        if durable:
            _sync_tree(temporary)
        _replace(temporary, path)
    except BaseException:  # Ctrl-C, too, leaves nothing behind
        discard(temporary)
        remove_stale_temporaries(path.parent)  # they may be what fills the disk
        raise
    if durable:
        _sync(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a whole directory at once, so that a crash leaves no half; a missing one is fine."""
    with suppressed(FileNotFoundError):
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
        temporary = _temporary(path)
        if _renamed(path, temporary):
            discard(temporary)
        else:
            shutil.rmtree(path)


def move(path: Path, target: Path) -> None:
    """Give a file or directory another name beside it; copy what cannot be renamed."""
    _settle(path)
    if _renamed(path, target):
        return
    temporary = _temporary(path)
    try:
        shutil.copytree(path, temporary, symlinks=True)
        _sync_tree(temporary)
        temporary.rename(_copy_of(path))
    except BaseException:
        discard(temporary)
        raise
    _sync(path.parent)
    shutil.rmtree(path)  # from here on the copy counts
    _copy_of(path).rename(target)


def discard(path: Path) -> None:
    """Remove what nobody reads any more, as far as it can be removed."""
    with suppressed(OSError, RecursionError):  # one that is too deep for rmtree stays
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def remove_stale_temporaries(directory: Path) -> None:
    """Remove what killed writers left behind an hour ago or earlier, as far as it can be removed."""
    with suppressed(OSError):
        for path in stale_temporaries(directory):
            discard(path)


def stale_temporaries(directory: Path) -> list[Path]:
    """List what killed writers left behind an hour ago or earlier.

    By the file system's own clock: an hour before what was changed last here. Other hosts have other ones.
    """
    status = dict[Path, os.stat_result]()
    for path in directory.iterdir():
        with suppressed(FileNotFoundError):  # others are at work
            status[path] = path.lstat()
    now = max((each.st_ctime for each in status.values()), default=0.0)
    ours = [path for path in status if _OURS.fullmatch(path.name)]
    return [path for path in ours if status[path].st_mtime < now - _STALE_SECONDS]


def restore_previous(directory: Path) -> None:
    """Put back directories that a killed writer had moved aside without finishing."""
    if not any(path.name.endswith((_PREVIOUS, _COPY)) for path in directory.glob(".*")):
        return
    with patient_lock(directory):
        for copy in directory.glob(f".*{_COPY}"):
            _settle(_named(copy, _COPY))
        for aside in directory.glob(f".*{_PREVIOUS}"):
            path = _named(aside, _PREVIOUS)
            discard(aside) if path.exists() else move(aside, path)


def _is_left(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW)
    try:
        return lock_file(descriptor)
    finally:
        os.close(descriptor)


def _replace(temporary: Path, path: Path) -> None:
    if not path.is_dir() and not (temporary.is_dir() and os.path.lexists(path)):
        temporary.replace(path)
        return
    # No call replaces a full directory, or anything by a directory: between the two renames a crash
    # leaves only the one aside.
    aside = path.with_name(f".{path.name}{_PREVIOUS}")
    with patient_lock(path.parent):
        _settle(path)
        discard(aside)
        move(path, aside)
        temporary.replace(path)
        discard(aside)


def _renamed(path: Path, target: Path) -> bool:
    """Rename a file or directory; tell whether that can be done.

    overlayfs (the layers of an image) does not rename the directories of a lower layer.
    """
    try:
        path.rename(target)
    except OSError as error:
        pass_on_signals(error)
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _settle(path: Path) -> None:
    """Put a copy, where there is one, in the place of what a killed writer had begun to remove."""
    copy = _copy_of(path)
    if copy.is_dir() and not copy.is_symlink():
        discard(path)
        copy.rename(path)


def _copy_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{_COPY}")


def _named(hidden: Path, ending: str) -> Path:
    return hidden.with_name(hidden.name[1:].removesuffix(ending))


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}")


def _sync_tree(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _sync_tree(child)
    _sync(path)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a directory, which not every file system lets one do."""
    is_directory = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        pass_on_signals(error)
        if error.errno in _FAILED or not (is_directory or error.errno in _NO_FLUSH):
            raise
