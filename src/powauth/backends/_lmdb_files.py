"""The folder and the files of an LMDB store: made if they are missing, refused if others can write to them.

Whoever can write to the store can sign in as anybody. So the files belong to the app's user alone, unless the app
declares that it trusts a group. Pods of Kubernetes must do so: in a volume with ``fsGroup``, that group may write to
everything.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from powauth.errors import ConfigError, StoreMissing

DATA: Final = "data.mdb"
LOCK: Final = "lock.mdb"

_ROOT: Final = 0


class _Modes(NamedTuple):
    folder: int
    file: int


_OWN: Final = _Modes(0o700, 0o600)
_GROUP: Final = _Modes(0o2770, 0o660)
"""The modes for a trusted group. The set-group-ID bit gives new files the folder's group."""


def check_exists(path: Path) -> None:
    """Refuse a folder without a store.

    Raises:
        StoreMissing: if there is no store. `prepare` reports a folder that this process may not read.
    """
    try:
        with contextlib.suppress(PermissionError):
            (path / DATA).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreMissing(
            f"there is no LMDB store at {path}: the app creates it when it starts; check the path"
        ) from error


def prepare(path: Path, *, group_access: bool) -> tuple[int, int]:
    """Make missing files, refuse files that others can write to, and return device and inode of the data file.

    ``lock.mdb`` is never opened here: closing it would drop the locks that LMDB holds on it in this process.

    Raises:
        ConfigError: if the folder cannot be used, or somebody else can write to it.
    """
    if not hasattr(os, "geteuid"):
        raise ConfigError(
            "LMDB files must belong to this process, and this system cannot tell: on Windows use SQLite, as in "
            "'sqlite:///sessions.db'"
        )
    modes = _GROUP if group_access else _OWN
    try:
        try:
            path.mkdir(mode=0o700)
            path.chmod(modes.folder)
        except FileExistsError:
            pass
        _check(path, path.stat(), stat.S_ISDIR, "directory", group_access=group_access)
        for name in (DATA, LOCK):
            file = path / name
            try:
                descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                pass
            else:
                os.fchmod(descriptor, modes.file)
                os.close(descriptor)
            _check(file, file.lstat(), stat.S_ISREG, "regular file", group_access=group_access)
        status = (path / DATA).lstat()
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be used ({error.strerror}): give a directory that this process may write to, "
            "or may make in one that exists"
        ) from error
    return status.st_dev, status.st_ino


def _check(path: Path, status: os.stat_result, kind: Callable[[int], bool], name: str, *, group_access: bool) -> None:
    if not kind(status.st_mode):
        raise ConfigError(f"{path} must be a {name}: give the backend a directory of its own")
    if status.st_mode & stat.S_IWOTH:
        change = "o-w" if group_access else "go-w"
        raise ConfigError(
            f"{path} can be written by anybody: chmod {change} it, and make sure nobody did. If it is a volume "
            "of Kubernetes, give the backend a directory inside of it that does not exist yet"
        )
    groups = {os.getegid(), *os.getgroups()}
    if group_access:
        trusted = status.st_uid in (os.geteuid(), _ROOT) or status.st_gid in groups
        if status.st_mode & stat.S_IWGRP and status.st_gid not in groups:
            raise ConfigError(
                f"{path} can be written by group {status.st_gid}, and this process is not in it: chgrp it, or chmod "
                "g-w it, and make sure nobody did"
            )
    else:
        trusted = status.st_uid == os.geteuid()
        if trusted and status.st_mode & stat.S_IWGRP:
            raise ConfigError(
                f"{path} can be written by group {status.st_gid}: chmod go-w it, and make sure nobody did. If all who "
                "are in this group may be trusted with the sessions, as with Kubernetes' fsGroup, give "
                "LMDBBackend(…, group_access=True), or lmdb:///path?group_access=1"
            )
    if not trusted:
        raise ConfigError(
            f"{path} belongs to user {status.st_uid}, this process is {os.geteuid()}: run it as the owner, or give a "
            "directory that does not exist yet"
        )
