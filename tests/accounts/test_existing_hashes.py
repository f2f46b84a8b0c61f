"""REP-29: password hashes that werkzeug, Django and passlib have made."""

# ruff: noqa: E501 hashes are long

import hashlib
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Mapped, Session, mapped_column
from werkzeug.security import check_password_hash, generate_password_hash

from harness.support import SECRET, Clock, FakeConnection
from harness.users_databases import BareUser, Base, blocking_engine, cheap_hasher, table_name
from powauth import SessionAuth
from powauth.accounts import schemes
from powauth.accounts.bcrypt_schemes import Bcrypt, DjangoBcrypt, DjangoBcryptSHA256, PasslibBcryptSHA256
from powauth.accounts.policy import password_forms
from powauth.accounts.schemes import (
    Argon2,
    DjangoArgon2,
    DjangoPBKDF2,
    DjangoScrypt,
    PasslibPBKDF2,
    Scheme,
    WerkzeugPBKDF2,
    WerkzeugScrypt,
    kind_of,
)
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigError

SHORT = "seven red herons"
LONG = "seven red herons wade " * 6

MADE = {
    "django_argon2 long": "argon2$argon2id$v=19$m=64,t=1,p=1$eTUwb0N6d2ZYRVZ2bFd4amt5Rk5zSg$WX1UyQroDeqnk88GyTtz066SQFF43amZ2Y1i9A/SvT0",
    "django_argon2 short": "argon2$argon2id$v=19$m=64,t=1,p=1$RzAxckJCOTJGRWpDVDBhcnlNcUZleA$Gtswmse5EFTVxqwgRVdx5n0yCmVnPPTIzObPZZpzvjM",
    "django_bcrypt long": "bcrypt$$2b$04$M6J4yAm.98G80NcqvnsUsOP5M3ixDvC02dZXBUxtVtzxwk6Zh1Gi.",
    "django_bcrypt short": "bcrypt$$2b$04$l8CjnfKCDGYw826dv6CIG.HfM.QE2RCjUZModHuXL7Th1aMgCNEXu",
    "django_bcrypt_sha256 long": "bcrypt_sha256$$2b$04$IkM5XxixwZbqDz26Kyee4e7upoemfwkgJchaRs.zg038iecSoOCIi",
    "django_bcrypt_sha256 short": "bcrypt_sha256$$2b$04$cb89lOHs1TGBcHYpiwiBqOmqtFNGipOsv7oHTjAG8C/bW3pWdYLh.",
    "django_pbkdf2 long": "pbkdf2_sha256$1000$saltsaltsalt$jSnCvauR9phb/eB8Hu+tPUZa+v/BrItUlNBDEY9DpvM=",
    "django_pbkdf2 short": "pbkdf2_sha256$1000$saltsaltsalt$HaCULRuIu/x6ds3PXDWXSElg8sjdUMHLcP32TYpRkOU=",
    "django_pbkdf2_sha1 long": "pbkdf2_sha1$1000$saltsaltsalt$U19702crgcJKSdfGa9p0O9dz9EQ=",
    "django_pbkdf2_sha1 short": "pbkdf2_sha1$1000$saltsaltsalt$DBhO4Ihvom9WopyiLWRVuoAVBgM=",
    "django_scrypt long": "scrypt$1024$saltsaltsalt$8$5$3Bwpmqw1EYl0sW2wmXGjVcc5pnmfhyxgReaNdWN0KPc0rBc80UzddDvF1j6tEAIkPHP1LrwSAI/9BZP2wU1ZdA==",
    "django_scrypt short": "scrypt$1024$saltsaltsalt$8$5$2jvkzhIQo6nZYKOx7KBd62LbRBxBrPFjf2Ke5LZAZTLyfrDC3OQVevkQhOVoLbCobwlkP99La1l0BTySBPEINQ==",
    "passlib_argon2i long": "$argon2i$v=19$m=64,t=1,p=1$LSVkzHkPYQxBSGmN0VprTQ$m3ZTCYTovCFpvt0KwBxns2Jg60mGvXHyZ5a9udFQgr4",
    "passlib_argon2i short": "$argon2i$v=19$m=64,t=1,p=1$2FvLuRfC+J/TOmfM+R+DEA$2hewxA/burc6tlIjWwtVcicODdXFPbVreNAlk1zYsfo",
    "passlib_argon2id long": "$argon2id$v=19$m=64,t=1,p=1$Ugqh9H6vFULofS/FGEMoRQ$kSi4DrbkWORxfr6B88+ielHnNaXS9j7o3V17aT26A+A",
    "passlib_argon2id short": "$argon2id$v=19$m=64,t=1,p=1$pbT2XgvhnBMihBDiHMP4/w$+l3yczv2hHqC1F8167ptqunevgTOZbMax92b9o0Kj00",
    "passlib_bcrypt long": "$2b$04$Qcbmn1FBk2tlLGH8/Vj5vOzfqMvdrMMQNSle1Ec1GLhZ502kyKC0W",
    "passlib_bcrypt short": "$2b$04$WfbbR8sa2GJhESUb5x5yxOOWIwo5nOBrmdNFeKW8h9JxC.vV/kxvy",
    "passlib_bcrypt_2a long": "$2a$04$H/BcUBbPAyDzsDfrQe6U2e9Reh93C0TnC7qtNUtR61rOFH7fN/A42",
    "passlib_bcrypt_2a short": "$2a$04$XNByqilJUHa7NO0qZbkx9uKyehClSzi46vJiNvTsHRBOvwshlWYHO",
    "passlib_bcrypt_sha256_v1 long": "$bcrypt-sha256$2b,4$xFkXvr1W59FiASwJP4ule.$Gx/PimL749fAKVEcnPbL2LRELDfE/cy",
    "passlib_bcrypt_sha256_v1 short": "$bcrypt-sha256$2b,4$2QbraISAfVfLZvphBc7z7u$kmixw0w/FwymCmg4v9N5lYUEka6HbDe",
    "passlib_bcrypt_sha256_v2 long": "$bcrypt-sha256$v=2,t=2b,r=4$FHteCNU2vMAg7nbnQ3Yd7u$2LKaLKsNiqbulVK2gwR8vwrcYPrn846",
    "passlib_bcrypt_sha256_v2 short": "$bcrypt-sha256$v=2,t=2b,r=4$2qaY9CYdNdUaLhp571oZFO$cxXN1h3cSES9Uzplmo4k2xFd1/Fs3G.",
    "passlib_pbkdf2_sha1 long": "$pbkdf2$1000$ihHCOEfovfd.D6HU2ts7Jw$3UE/7si6COF3C7PtZu4m07pyJcs",
    "passlib_pbkdf2_sha1 short": "$pbkdf2$1000$ilGqNWasdY4RwliLsZbyXg$ldzqvFDebopdw9ELCssCotruJj8",
    "passlib_pbkdf2_sha256 long": "$pbkdf2-sha256$1000$wVirdY6RklLKOcc4Z8w5hw$epj2qbe0RYzdNQlu5Wb/qqUjhWaHDS21VR46Z0kl.Vc",
    "passlib_pbkdf2_sha256 short": "$pbkdf2-sha256$1000$0XovxRij1Np7710rhRAiBA$q37vVbapncXrT/DBiuXNeFDCMm0fpNf1S7T/UcIdAUI",
    "passlib_pbkdf2_sha512 long": "$pbkdf2-sha512$1000$tzam1FpLqVVKSSnF2Ptf6w$CL7ELJQ//6cLjxGzPGwrT2.AqBUTMeU1tNlI6cYgWCtn4DkE6v2CKRWaeUShzSSMz6fZVMk8X2o/sH67guv4Rw",
    "passlib_pbkdf2_sha512 short": "$pbkdf2-sha512$1000$dS5FKCWk1BqDkPL./x/jXA$6UrR.X0myE8EWRkNKF1WZ1nVOXqPCr.sZeU1mkDtREdtA3Ysqg3iZ0CqVMyqXw/TNnTLQ6yZUP5uPU73ioES/A",
    "werkzeug_pbkdf2 long": "pbkdf2:sha256:1000$xZxuqrYogq0ZAp9E$2ac67132fe8eb802ca337ebf237ac9c33c21d370ae51255c5166ab2e45701abf",
    "werkzeug_pbkdf2 short": "pbkdf2:sha256:1000$viLaSYgjoo8NbeBe$c5e06c64c62435636d4e100214bf63f4744076761e21d2c1568fb420eb762557",
    "werkzeug_pbkdf2_sha512 long": "pbkdf2:sha512:1000$nDblkUIX5OCM8JAk$56c69a51b9a7ccf1d5f5d433a739f158174bd5bbd56d07e248f773012329825a0fa4e49a8667342f7ac375ff4e5d2113340c7bc678b173895651f333397872d7",
    "werkzeug_pbkdf2_sha512 short": "pbkdf2:sha512:1000$lPoUQPjl52WyWtNB$1a4b9b316e0e0134f2e074de80cacc1ff927c0eaeec979a76dffb61096338855a7e00c513ec705fc57d57c9dcd136c899820a0dfcdbdef06bc526f6a35c3e9a7",
    "werkzeug_scrypt long": "scrypt:1024:8:1$lfjoiQxXVyKRfwXH$8f344371a28625b677c3911646dac752cd835444ccfef4b7d856e21a7ae9d935c01c23c862bd86e009ba626d1263fef4f4ade91d5ead2d36b3cc78785407a0ae",
    "werkzeug_scrypt short": "scrypt:1024:8:1$i3XfJ1qx4XWk7bL2$d5242e6d06ff539188a9861298b429a789f111725be5ddda71760f78e5d1f0b64838cd7e0d74e2afd990c8249ffdac895ff79b71685be94e9970299e398edf0b",
}
"""Hashes that werkzeug 3.1, Django 5.2 and passlib 1.7.4 have made of the two passwords."""

CHEAP: dict[str, Scheme] = {
    "werkzeug_scrypt": WerkzeugScrypt(1024),
    "werkzeug_pbkdf2": WerkzeugPBKDF2(1000),
    "werkzeug_pbkdf2_sha512": WerkzeugPBKDF2(1000, digest="sha512"),
    "django_pbkdf2": DjangoPBKDF2(1000),
    "django_pbkdf2_sha1": DjangoPBKDF2(1000, digest="sha1"),
    "django_argon2": DjangoArgon2(1, 64),
    "django_bcrypt": DjangoBcrypt(4),
    "django_bcrypt_sha256": DjangoBcryptSHA256(4),
    "django_scrypt": DjangoScrypt(1024),
    "passlib_pbkdf2_sha1": PasslibPBKDF2(1000, digest="sha1"),
    "passlib_pbkdf2_sha256": PasslibPBKDF2(1000),
    "passlib_pbkdf2_sha512": PasslibPBKDF2(1000, digest="sha512"),
    "passlib_bcrypt": Bcrypt(4),
    "passlib_bcrypt_2a": Bcrypt(4),
    "passlib_bcrypt_sha256_v1": PasslibBcryptSHA256(4),
    "passlib_bcrypt_sha256_v2": PasslibBcryptSHA256(4),
    "passlib_argon2i": Argon2(1, 64),
}

PLAIN_BCRYPT = {"django_bcrypt", "passlib_bcrypt", "passlib_bcrypt_2a"}


@pytest.mark.parametrize("name", CHEAP)
def test_rep_29_hashes_of_other_programs_verify(name: str) -> None:
    hasher = cheap_hasher(existing=[CHEAP[name]])
    for size, password in (("short", SHORT), ("long", LONG)):
        stored = MADE[f"{name} {size}"]
        assert hasher.verify(stored, password)
        assert hasher.needs_rehash(stored)
        for wrong in (password[:-1], password + "x", password.upper(), "", " ", None, b"seven red herons", "\ud800"):
            # Plain bcrypt ignores what follows the 72nd byte, as it did where the hash was made.
            same = name in PLAIN_BCRYPT and isinstance(wrong, str) and wrong[:72] == password[:72]
            assert hasher.verify(stored, wrong) is same
        assert not cheap_hasher().verify(stored, password)
        assert not cheap_hasher().needs_rehash(stored)


@pytest.mark.parametrize("name", sorted(CHEAP))
def test_rep_29_a_hash_that_ignores_a_part_of_the_password_is_not_renewed(name: str) -> None:
    """A user who mistypes the part that plain bcrypt ignores signs in. A renewal would set the mistyped password."""
    hasher = cheap_hasher(existing=[CHEAP[name]])
    assert hasher.needs_rehash(MADE[f"{name} short"], SHORT)
    assert hasher.needs_rehash(MADE[f"{name} long"], LONG) is (name not in PLAIN_BCRYPT)
    for size, renewed in ((71, True), (72, name not in PLAIN_BCRYPT)):
        assert hasher.needs_rehash(MADE[f"{name} long"], LONG[:size]) is renewed
    assert hasher.needs_rehash(MADE[f"{name} long"], "é" * 36) is (name not in PLAIN_BCRYPT)


def test_argon2id_of_passlib_needs_no_scheme() -> None:
    assert cheap_hasher().verify(MADE["passlib_argon2id short"], SHORT)


def test_a_nul_counts_in_bcrypt() -> None:
    bcrypt = pytest.importorskip("bcrypt")
    hasher = cheap_hasher(existing=[Bcrypt(4)])
    stored = bcrypt.hashpw(b"seven\0red herons", bcrypt.gensalt(4)).decode()
    assert hasher.verify(stored, "seven\0red herons")
    assert not hasher.verify(stored, "seven\0blue herons")
    assert not hasher.verify(stored, "seven")
    assert hasher.verify(stored.replace("$2b$", "$2y$"), "seven\0red herons")


@pytest.mark.parametrize("name", CHEAP)
def test_each_scheme_reads_its_own_hashes_only(name: str) -> None:
    for other, stored in MADE.items():
        read = type(CHEAP[name]) is type(CHEAP.get(other.partition(" ")[0]))
        assert (CHEAP[name].cost_of(stored) is not None) is read
        assert CHEAP[name].verify(stored, b"another password") is False
        assert read is False or kind_of(stored) == type(CHEAP[name]).__name__


@pytest.mark.parametrize("name", CHEAP)
@given(data=st.data())
def test_a_damaged_hash_matches_nothing_and_raises_nothing(name: str, data: st.DataObject) -> None:
    stored = MADE[f"{name} short"]
    start = data.draw(st.integers(0, len(stored)))
    end = data.draw(st.integers(start, len(stored)))
    damaged = stored[:start] + data.draw(st.text(max_size=5)) + stored[end:]
    scheme = CHEAP[name]
    if schemes.is_affordable(scheme, damaged) and (scheme.cost_of(damaged) or 0) <= 4 * scheme.cost:
        scheme.verify(damaged, b"another password")


ABSURD = (
    "pbkdf2:sha256:5000001$salt$" + "00" * 32,
    "pbkdf2:sha256:1000$salt$" + "00" * 31,
    "pbkdf2:md5:1000$salt$" + "00" * 16,
    "pbkdf2_sha256$9999999999$salt$" + "A" * 43 + "=",
    "pbkdf2_sha256$1000$salt$" + "A" * 42,
    "$pbkdf2-sha256$9999999999$abcd$" + "A" * 43,
    "$pbkdf2-sha256$1000$abcde$" + "A" * 43,
    "scrypt:1048576:8:1$salt$" + "00" * 64,
    "scrypt:1024:8:9999$salt$" + "00" * 64,
    "scrypt:1000:8:1$salt$" + "00" * 64,
    "scrypt:1:8:1$salt$" + "00" * 64,
    "scrypt$1024$salt$8$5$" + "A" * 86,
    "$2b$17$" + "a" * 53,
    "$2b$03$" + "a" * 53,
    "$2b$99$" + "a" * 53,
    "$bcrypt-sha256$v=2,t=2b,r=31$" + "a" * 22 + "$" + "a" * 31,
    "$argon2i$v=19$m=262145,t=1,p=1$c2FsdHNhbHQ$" + "A" * 43,
    "$argon2i$v=19$m=262144,t=99,p=1$c2FsdHNhbHQ$" + "A" * 43,
    "$argon2i$v=19$m=1024,t=1,p=65$c2FsdHNhbHQ$" + "A" * 43,
    "argon2$argon2id$v=19$m=8,t=65,p=1$c2FsdHNhbHQ$" + "A" * 43,
)


@pytest.mark.parametrize("stored", ABSURD)
def test_a_hash_with_an_absurd_cost_is_refused_before_any_work(stored: str) -> None:
    assert not any(schemes.is_affordable(scheme, stored) for scheme in CHEAP.values())
    hasher = cheap_hasher(existing=list(dict.fromkeys(CHEAP.values())))
    assert not hasher.verify(stored, SHORT)
    assert not hasher.needs_rehash(stored)


def test_a_combination_that_openssl_refuses_matches_nothing() -> None:
    stored = "scrypt:131072:1:1$salt$" + "00" * 64
    assert schemes.is_affordable(CHEAP["werkzeug_scrypt"], stored)
    assert CHEAP["werkzeug_scrypt"].verify(stored, b"seven red herons") is False


class Counting(Scheme):
    """Counts the work of another scheme."""

    max_cost = 10**9

    def __init__(self, scheme: Scheme) -> None:
        super().__init__(scheme.cost)
        self.scheme, self.done = scheme, 0

    def cost_of(self, stored: str) -> int | None:
        return self.scheme.cost_of(stored)

    def verify(self, stored: str, secret: bytes) -> bool:
        self.done += self.scheme.cost_of(stored) or 0
        return self.scheme.verify(stored, secret)

    def spend(self, cost: int, secret: bytes) -> None:
        self.done += cost
        self.scheme.spend(cost, secret)


@pytest.mark.parametrize("name", CHEAP)
def test_aut_02_every_verification_does_the_usual_work_of_each_scheme(name: str) -> None:
    usual = type(CHEAP[name])(6) if isinstance(CHEAP[name], Bcrypt) else CHEAP[name]
    scheme = Counting(usual)
    hasher = cheap_hasher(existing=[scheme])
    own = hasher.hash(SHORT)
    for stored in (MADE[f"{name} short"], own, None, "", "!", "$2b$04$damaged"):
        for password in (SHORT, LONG, "", None, "x" * 5000):
            scheme.done = 0
            hasher.verify(stored, password)
            assert scheme.done == scheme.cost, (stored, password)


def test_the_missing_work_of_scrypt_is_done_to_a_hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(hashlib, "scrypt", lambda secret, *, n, r, p, **_: done.append(n * r * p))
    for cost in (16, 100, 8 * 1023, 2**18, 2**18 - 1, 3 * 2**20):
        done.clear()
        WerkzeugScrypt(2**15).spend(cost, b"")
        assert 0.98 * cost - 16 <= sum(done) <= cost


# Composed and decomposed passwords

CAFE = "caf\u00e9 des herons"
DECOMPOSED = unicodedata.normalize("NFD", CAFE)


@pytest.mark.parametrize("stored", [CAFE, DECOMPOSED])
@pytest.mark.parametrize("typed", [CAFE, DECOMPOSED])
def test_rep_28_a_hash_of_a_decomposed_password_verifies(stored: str, typed: str) -> None:
    from argon2 import PasswordHasher as Other

    for made in (
        Other(time_cost=1, memory_cost=64, parallelism=1).hash(stored),
        generate_password_hash(stored, "pbkdf2:sha256:1000"),
    ):
        hasher = cheap_hasher(existing=[WerkzeugPBKDF2(1000)])
        assert hasher.verify(made, typed)
        assert not hasher.verify(made, "cafe des herons")


@given(st.text(min_size=1, max_size=30))
def test_a_password_has_at_most_three_forms_and_they_are_equivalent(password: str) -> None:
    try:
        forms = password_forms(password)
    except ValueError:
        return
    assert 1 <= len(forms) <= (1 if password.isascii() else 3)
    assert {unicodedata.normalize("NFC", form.decode()) for form in forms} == {unicodedata.normalize("NFC", password)}


def test_aut_02_all_forms_are_tried_whichever_fits() -> None:
    scheme = Counting(WerkzeugPBKDF2(1000))
    hasher = cheap_hasher(existing=[scheme])
    for stored in (CAFE, DECOMPOSED, "another password"):
        for made in (generate_password_hash(stored, "pbkdf2:sha256:1000"), hasher.hash(stored), None):
            scheme.done = 0
            hasher.verify(made, CAFE)
            assert scheme.done == 2000


# Options, and what the log says

MD5: Any = "md5"
YES: Any = 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: WerkzeugPBKDF2(0), "the cost of WerkzeugPBKDF2 must be a whole number from 1 to 5000000, not 0"),
        (lambda: WerkzeugPBKDF2(1000, digest=MD5), "digest must be 'sha1', 'sha256' or 'sha512', not 'md5'"),
        (lambda: WerkzeugScrypt(0), "n must be a whole number"),
        (lambda: WerkzeugScrypt(True), "n must be a whole number"),
        (lambda: WerkzeugScrypt(renew=YES), "renew must be True or False"),
        (lambda: Argon2(65, 64), "time_cost must be a whole number from 1 to 64, not 65"),
        (lambda: DjangoBcrypt(3), "rounds must be a whole number from 4 to 16, not 3"),
        (lambda: DjangoBcrypt(True), "rounds must be a whole number from 4 to 16, not True"),
        (lambda: cheap_hasher(existing=Bcrypt()), "existing must be a list of schemes"),
        (lambda: cheap_hasher(existing=[Bcrypt]), "existing must be a list of schemes"),
    ],
)
def test_wrong_options_are_refused(make: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_rep_29_the_log_says_once_which_scheme_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    hasher = cheap_hasher(existing=[WerkzeugScrypt(1024)])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for name in ("passlib_bcrypt", "django_pbkdf2", "werkzeug_scrypt"):
                hasher.verify(MADE[f"{name} short"], SHORT)
            hasher.verify("!a plain password", SHORT)
    assert [record.args for record in caplog.records] == [("Bcrypt", "Bcrypt"), ("DjangoPBKDF2", "DjangoPBKDF2")]
    assert all(MADE[f"{name} short"] not in caplog.text for name in ("passlib_bcrypt", "django_pbkdf2"))


# Sign-in


class Person(BareUser, Base):
    __tablename__ = table_name()


class Narrow(BareUser, Base):
    __tablename__ = table_name()

    password_hash: Mapped[str | None] = mapped_column(sa.String(60))


@pytest.mark.parametrize("renew", [True, False])
@pytest.mark.parametrize("driver", ["sqlite", "postgresql+psycopg"])
def test_rep_29_a_sign_in_renews_a_hash_or_leaves_it(driver: str, renew: bool, tmp_path: Path) -> None:
    made = generate_password_hash(SHORT, "pbkdf2:sha256:1000")
    with blocking_engine(driver, str(tmp_path), Person) as engine:
        hasher = cheap_hasher(existing=[WerkzeugPBKDF2(1000, renew=renew), Bcrypt(4)])
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, Person, hasher=hasher)
        with Session(engine) as session:
            session.add(Person(email="mia@example.com", password_hash=made))
            session.commit()
        auth: Any = SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend(), clock=Clock())
        params = {"email": "mia@example.com", "password": SHORT}
        first, second = FakeConnection(), FakeConnection()
        for connection in (first, second):
            drive(auth.call(connection))
            assert drive(auth.accounts.sign_in(connection, params)) is not None
        with Session(engine) as session:
            stored = session.scalar(sa.select(Person.password_hash))
        assert stored is not None
        assert stored.startswith("$argon2id$") is renew
        assert renew or (stored == made and check_password_hash(stored, SHORT))
        wrong = FakeConnection()
        drive(auth.call(wrong))
        assert drive(auth.accounts.sign_in(wrong, params | {"password": LONG})) is None


def test_rep_29_a_mistyped_rest_of_a_long_password_does_not_become_the_password(tmp_path: Path) -> None:
    stored = MADE["passlib_bcrypt long"]
    mistyped = LONG[:72] + "?"
    with blocking_engine("sqlite", str(tmp_path), Person) as engine:
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, Person, hasher=cheap_hasher(existing=[Bcrypt(4)]))
        with Session(engine) as session:
            mia = Person(email="mia@example.com", password_hash=stored)
            session.add(mia)
            session.commit()
            key = mia.id
        for password in (mistyped, LONG):
            account = drive(users.authenticate({"email": "mia@example.com", "password": password}))
            assert account is not None
            assert account.rehash is None
        changed = {"current_password": LONG, "password": "seven green ducks"}
        drive(users.update(key, changed))
        assert drive(users.authenticate({"email": "mia@example.com", "password": mistyped})) is None


def test_a_column_without_room_for_the_new_hash_is_refused(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/users.db")
    with pytest.raises(ConfigError, match="has room for 60 characters, and a new hash has 9"):
        SQLAlchemyUsers(engine, Narrow, hasher=cheap_hasher())
    engine.dispose()
