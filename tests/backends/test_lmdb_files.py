"""Who may write to the folder of an LMDB store: its owner, and a group if the app says so."""

import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from powauth.backends import backend_from_url
from powauth.backends.base import Record, drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.sql import SQLBackend
from powauth.errors import ConfigError

NOW = 1_900_000_000_000
RECORD = Record(b"credentials:00a", b"credentials:42", 0, NOW, NOW + 1_800_000, b"value")
FS_GROUP = 23_456
APP, SIDECAR, STRANGER = 23_001, 23_002, 23_003

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a part of a test as other users")


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def mounted(volume: Path, group: int) -> None:
    """Do what Kubernetes does with ``fsGroup`` when a pod starts: everything gets the group, and writable by it."""
    for path in (volume, *volume.rglob("*")):
        os.chown(path, -1, group)
        path.chmod(mode_of(path) | (0o2770 if path.is_dir() else 0o660))


def run_as(user: int, groups: list[int], work: Callable[[], None]) -> None:
    """Run ``work`` in a child process of another user. Its Python may not be readable for them, so it is forked."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups(groups)
            os.setgid(user)
            os.setuid(user)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "see what the child has printed"


def use(path: Path, *, group_access: bool = True) -> None:
    backend = LMDBBackend(path, group_access=group_access)
    drive(backend.delete(RECORD.key, NOW))
    assert drive(backend.create(RECORD, None, NOW))
    drive(backend.close())


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        if not all(each.stat().st_mode & 0o001 for each in path.parents):
            pytest.skip(f"other users cannot reach {path.parent}: set TMPDIR to a folder that they can")
        path.chmod(0o755)
        yield path


@pytest.mark.parametrize("by_url", [False, True])
def test_rep_15_a_volume_with_fsgroup_is_refused_with_the_option_that_allows_it(tmp_path: Path, by_url: bool) -> None:
    volume = tmp_path / "volume"
    volume.mkdir(mode=0o755)
    use(volume / "sessions", group_access=False)
    mounted(volume, os.getegid())
    assert mode_of(volume / "sessions") == 0o2770
    assert mode_of(volume / "sessions" / "data.mdb") == 0o660
    with pytest.raises(ConfigError) as caught:
        use(volume / "sessions", group_access=False)
    assert "group_access=True" in str(caught.value)
    assert "?group_access=1" in str(caught.value)
    if by_url:
        backend = backend_from_url(f"lmdb://{volume}/sessions?group_access=1")
        assert drive(backend.get(RECORD.key, NOW)) == RECORD
        drive(backend.close())
    else:
        use(volume / "sessions")


def test_rep_15_new_files_are_the_groups_as_well(tmp_path: Path) -> None:
    use(tmp_path / "sessions")
    assert mode_of(tmp_path / "sessions") == 0o2770
    assert {file.name: mode_of(file) for file in (tmp_path / "sessions").iterdir()} == {
        "data.mdb": 0o660,
        "lock.mdb": 0o660,
    }
    mounted(tmp_path, os.getegid())
    use(tmp_path / "sessions")


@pytest.mark.parametrize("name", [".", "data.mdb", "lock.mdb"])
def test_rep_15_what_anybody_can_write_stays_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "sessions"
    use(path)
    (path / name).chmod(mode_of(path / name) | 0o002)
    with pytest.raises(ConfigError, match=r"can be written by anybody: chmod o-w it.*directory inside of it"):
        use(path)


def test_rep_15_a_group_that_this_process_is_not_in_stays_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sessions"
    use(path)
    mine = path.stat().st_gid
    monkeypatch.setattr(os, "getegid", lambda: mine + 1)
    monkeypatch.setattr(os, "getgroups", lambda: [mine + 2])
    with pytest.raises(ConfigError, match="this process is not in it"):
        use(path)
    monkeypatch.setattr(os, "getgroups", lambda: [mine])
    use(path)


@as_root
def test_rep_15_two_users_of_one_group_share_the_store_and_a_stranger_cannot(everybodys: Path) -> None:
    volume = everybodys / "volume"
    volume.mkdir()
    os.chown(volume, 0, FS_GROUP)
    volume.chmod(0o2770)
    path = volume / "sessions"
    run_as(APP, [FS_GROUP], lambda: use(path))
    assert path.stat().st_gid == (path / "data.mdb").stat().st_gid == FS_GROUP
    mounted(volume, FS_GROUP)
    run_as(APP, [FS_GROUP], lambda: use(path))
    run_as(SIDECAR, [FS_GROUP], lambda: use(path))

    def refused() -> None:
        with pytest.raises(ConfigError, match=r"cannot be used|not in it|belongs to"):
            use(path)

    volume.chmod(0o2777)
    path.chmod(0o2775)
    run_as(STRANGER, [], refused)


@as_root
def test_rep_15_a_volume_that_is_the_folder_itself_belongs_to_root(everybodys: Path) -> None:
    volume = everybodys / "volume"
    volume.mkdir()
    os.chown(volume, 0, FS_GROUP)
    volume.chmod(0o2770)
    run_as(APP, [FS_GROUP], lambda: use(volume))
    volume.chmod(0o2777)  # an emptyDir

    def refused() -> None:
        with pytest.raises(ConfigError, match="directory inside of it"):
            use(volume)

    run_as(APP, [FS_GROUP], refused)
    run_as(APP, [FS_GROUP], lambda: use(volume / "sessions"))


@pytest.mark.parametrize("query", ["?group_access=yes", "?durable=0", "?group_access=1&x=2"])
def test_an_option_of_the_url_that_nobody_knows_is_refused(tmp_path: Path, query: str) -> None:
    with pytest.raises(ConfigError, match="no option but group_access=1"):
        backend_from_url(f"lmdb://{tmp_path}/sessions{query}")
    assert not (tmp_path / "sessions").exists()


def test_on_a_system_without_owners_of_files_the_error_names_another_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "geteuid")  # as on Windows
    with pytest.raises(ConfigError, match="on Windows use SQLite"):
        LMDBBackend(tmp_path / "sessions")


def test_on_a_system_without_o_cloexec_sqlite_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_CLOEXEC")  # as on Windows
    backend = SQLBackend(f"sqlite:///{tmp_path}/sessions.db")
    drive(backend.create_tables())
    assert drive(backend.count("credentials", 1_000)) == 0
    drive(backend.close())
