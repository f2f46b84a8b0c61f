"""The ``powauth`` command, on a real store."""

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from harness.cli_support import NOW, fill
from powauth.backends.base import drive
from powauth.backends.lmdb import LMDBBackend
from powauth.cli import Status, main
from powauth.cli.output import BLOCK_ROWS
from powauth.cli.sessions import PURGE_STEP
from powauth.sessions.ids import encode_sid
from powauth.sessions.record import StoredKey
from powauth.sessions.store import CredentialsCache

A_UUID = UUID("2b1c7cf4-6a0c-4c3b-8e0a-7d2f4b9a51ce")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"lmdb://{tmp_path}/db"


def run(capsys: pytest.CaptureFixture[str], url: str, *arguments: str) -> tuple[int, str, str]:
    status = main(["sessions", "--backend", url, *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_secret_is_new_and_long(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["secret"]) == main(["secret"]) == 0
    first, second = capsys.readouterr().out.split()
    assert first != second
    assert len(first) == 64


def test_a_long_table_is_printed_in_blocks(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = fill(url, users=1, each=BLOCK_ROWS + 20)
    _, out, _ = run(capsys, url, "list", "--limit", "0")
    assert len(out.splitlines()) == len(made) + 1
    assert len({line.index("curl") for line in out.splitlines()[1:]}) == 1, "in columns"


def test_list_is_a_table_or_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = fill(url)
    status, out, _ = run(capsys, url, "list")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["sid", "user", "created_at", "renewed_at", "expires_at", "ip", "user_agent"]
    assert {line.split()[0] for line in lines[1:]} == {encode_sid(session.sid) for session in made}
    _, out, _ = run(capsys, url, "--json", "list", "--user", "1")
    rows = [msgspec.json.decode(line) for line in out.splitlines()]
    assert [(row["user"], row["ip"], row["user_agent"]) for row in rows] == [("1", "192.0.2.7", "curl")] * 2
    _, out, err = run(capsys, url, "list", "--limit", "4")
    assert len(out.splitlines()) == 5
    assert "only the first 4" in err


def test_show_and_revoke_one(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    sid = encode_sid(fill(url)[0].sid)
    status, out, _ = run(capsys, url, "show", sid)
    assert status == 0
    assert sid in out
    _, out, _ = run(capsys, url, "--json", "show", sid)
    assert msgspec.json.decode(out)["metadata"]["user_agent"] == "curl"
    assert run(capsys, url, "revoke", sid)[:2] == (0, "ended\n")
    for command in ("show", "revoke"):
        for absent in (sid, "nonsense"):
            status, out, err = run(capsys, url, command, absent)
            assert (status, out, err) == (1, "", "powauth: no such session\n")


@pytest.mark.parametrize(
    ("key", "shown", "typed"),
    [
        (7, "7", "7"),
        ("18446744073709551617", "18446744073709551617", "18446744073709551617"),
        ("ann", "ann", "ann"),
        (A_UUID.bytes, A_UUID.hex, A_UUID.hex),
        (A_UUID.bytes, A_UUID.hex, str(A_UUID).upper()),
        (str(A_UUID), str(A_UUID), str(A_UUID)),
    ],
)
def test_keys_of_each_type_are_shown_and_taken_as_text(
    url: str, capsys: pytest.CaptureFixture[str], key: StoredKey, shown: str, typed: str
) -> None:
    fill(url, users=1, key_of=lambda _: key)
    rows = [msgspec.json.decode(line) for line in run(capsys, url, "--json", "list")[1].splitlines()]
    assert [row["user"] for row in rows] == [shown] * 2
    assert shown in run(capsys, url, "list")[1]
    of_user = [
        msgspec.json.decode(line) for line in run(capsys, url, "--json", "list", "--user", typed)[1].splitlines()
    ]
    assert sorted(row["sid"] for row in of_user) == sorted(row["sid"] for row in rows)
    assert run(capsys, url, "--json", "revoke-user", typed)[:2] == (0, '{"revoked":2}\n')
    assert run(capsys, url, "count")[1] == "0\n"


def test_revoke_user_and_count(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url)
    assert run(capsys, url, "count")[:2] == (0, "6\n")
    assert run(capsys, url, "--json", "revoke-user", "2")[:2] == (0, '{"revoked":2}\n')
    assert run(capsys, url, "--json", "count")[1] == '{"count":4}\n'
    assert main(["sessions", "--backend", url, "--namespace", "admins", "count"]) == 0
    assert capsys.readouterr().out == "0\n"


def test_purge_removes_what_has_expired_step_by_step(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url, each=PURGE_STEP // 3 + 10, ttl=1)
    status, out, _ = run(capsys, url, "purge")
    assert status == 0
    assert int(out.split()[0]) > PURGE_STEP
    assert run(capsys, url, "purge")[1] == "0 removed\n"


def test_what_a_client_called_itself_cannot_reach_the_terminal(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url, agent="\x1b[2Jevil\r\n\u202e")
    for arguments in (["list"], ["--json", "list"]):
        out = run(capsys, url, *arguments)[1]
        assert "\x1b" not in out
        assert "\r" not in out


def test_an_unreadable_record_is_no_session(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    session = fill(url, users=1, each=1)[0]
    store = CredentialsCache(LMDBBackend(url.removeprefix("lmdb://")))
    record = drive(store.backend.get(b"credentials:" + session.sid, NOW))
    assert record is not None
    garbage = msgspec.structs.replace(record, value=b"\xc1", version=1)
    assert drive(store.backend.update(garbage, 0, NOW))
    drive(store.close())
    assert run(capsys, url, "show", encode_sid(session.sid))[0] == 1
    assert len(run(capsys, url, "list")[1].splitlines()) == 1


def test_mistakes_are_one_sentence(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POWAUTH_BACKEND", raising=False)
    assert main(["sessions", "count"]) == Status.USAGE
    assert "POWAUTH_BACKEND" in capsys.readouterr().err
    assert main(["sessions", "--backend", "nonsense", "count"]) == Status.CONFIGURATION
    assert capsys.readouterr().err.startswith("powauth: a backend URL begins with a scheme; use one of")
    fill(url, users=0)
    monkeypatch.setenv("POWAUTH_BACKEND", url)
    assert main(["sessions", "count"]) == 0


def test_it_runs_as_a_program(url: str) -> None:
    fill(url, users=0)
    command = [sys.executable, "-m", "powauth", "sessions", "--backend", url, "count"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
