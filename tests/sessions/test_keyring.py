"""Secret keys: what is refused, and what a code is good for."""

import hmac
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core_support import hurried
from harness.support import OTHER_SECRET, SECRET
from powauth.errors import ConfigError
from powauth.sessions.keyring import MAC_BYTES, MIN_SECRET_BYTES, PLACEHOLDERS, Keyring


def test_a_code_verifies_its_own_message_only() -> None:
    mac = Keyring(SECRET).mac("session", "credentials")
    code = mac.sign(b"message")
    assert len(code) == MAC_BYTES
    assert mac.verify(b"message", code)
    assert not mac.verify(b"massage", code)
    assert not mac.verify(b"", code)


@hurried
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_no_other_code_verifies(message: bytes, code: bytes) -> None:
    mac = Keyring([SECRET, OTHER_SECRET]).mac("session", "credentials")
    signed = (mac.sign(message), Keyring(OTHER_SECRET).mac("session", "credentials").sign(message))
    assert mac.verify(message, code) == (code in signed)


def test_signing_leaves_no_trace_for_the_next_message() -> None:
    mac = Keyring(SECRET).mac("session", "credentials")
    first = mac.sign(b"one")
    mac.sign(b"two")
    mac.verify(b"three", first)
    assert mac.sign(b"one") == first


def test_a_code_is_determined_by_the_key_alone() -> None:
    one, two = (Keyring(SECRET).mac("session", "credentials") for _ in range(2))
    assert one.sign(b"message") == two.sign(b"message")


def test_a_secret_is_the_same_as_text_and_as_bytes() -> None:
    assert Keyring(SECRET).mac("a", "b").sign(b"") == Keyring(SECRET.encode()).mac("a", "b").sign(b"")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("session", "credentials"), ("reset", "credentials")),
        (("session", "a"), ("session", "b")),
        (("ab", "c"), ("a", "bc")),
    ],
)
def test_each_purpose_and_context_has_its_own_key(one: tuple[str, str], two: tuple[str, str]) -> None:
    ring = Keyring(SECRET)
    assert not ring.mac(*two).verify(b"message", ring.mac(*one).sign(b"message"))


def test_the_newest_secret_signs_and_all_verify() -> None:
    old, new = Keyring(OTHER_SECRET).mac("p", "c"), Keyring(SECRET).mac("p", "c")
    both = Keyring([SECRET, OTHER_SECRET]).mac("p", "c")
    assert both.sign(b"m") == new.sign(b"m")
    assert both.verify(b"m", old.sign(b"m"))
    assert both.verify(b"m", new.sign(b"m"))
    assert not new.verify(b"m", old.sign(b"m"))


def test_several_older_secrets_verify() -> None:
    names = [secrets.token_urlsafe(48) for _ in range(4)]
    ring = Keyring(tuple(names)).mac("p", "c")
    assert all(ring.verify(b"m", Keyring(name).mac("p", "c").sign(b"m")) for name in names)


def test_codes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring([SECRET, OTHER_SECRET]).mac("p", "c")
    compared: list[bytes] = []
    real = hmac.compare_digest

    def spy(one: bytes, two: bytes) -> bool:
        compared.append(two)
        return real(one, two)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    assert not ring.verify(b"m", bytes(MAC_BYTES))
    assert compared == [bytes(MAC_BYTES)] * 2


@pytest.mark.parametrize("missing", [None, [], (), ""])
def test_a_missing_secret_is_refused(missing: object) -> None:
    with pytest.raises(ConfigError, match=r"missing|at least 32 bytes"):
        Keyring(missing)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [5, 0, True, 1.5, {"a": 1}, object(), [None], [5], bytearray(40), [SECRET, None]])
def test_a_secret_of_another_type_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="must be a string or bytes"):
        Keyring(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 8, 31])
def test_a_short_secret_is_refused(length: int) -> None:
    with pytest.raises(ConfigError, match=f"at least {MIN_SECRET_BYTES} bytes, not {length}"):
        Keyring(secrets.token_bytes(length))


def test_a_short_secret_among_several_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least"):
        Keyring([SECRET, "short"])


@pytest.mark.parametrize("word", PLACEHOLDERS)
def test_a_placeholder_is_refused_wherever_it_stands(word: str) -> None:
    for secret in (word + SECRET, SECRET + word.upper(), SECRET[:9] + word.title() + SECRET[9:]):
        with pytest.raises(ConfigError, match="placeholder"):
            Keyring(secret)


@pytest.mark.parametrize(
    "secret",
    ["a" * 64, "abcd" * 16, "1234567890" * 3 + "12", "0123456789abcdef" * 2, bytes(32), "abcdefghijklm" * 2 + "abcdef"],
)
def test_a_secret_that_repeats_itself_is_refused(secret: str | bytes) -> None:
    with pytest.raises(ConfigError, match="repeats itself"):
        Keyring(secret)


@hurried
@given(st.binary(min_size=8, max_size=40), st.integers(2, 5), st.integers(0, 8))
def test_a_period_is_found(part: bytes, times: int, more: int) -> None:
    secret = part * (times + 32 // len(part)) + part[:more]
    with pytest.raises(ConfigError):
        Keyring(secret)


def test_random_secrets_are_taken() -> None:
    for _ in range(300):
        for secret in (
            secrets.token_bytes(32),
            secrets.token_hex(16),
            secrets.token_hex(32),
            secrets.token_urlsafe(48),
        ):
            Keyring(secret)


def test_a_string_that_utf8_cannot_hold_is_refused_without_telling_it() -> None:
    with pytest.raises(ConfigError, match="UTF-8") as caught:
        Keyring("\udc80" + SECRET)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("secret", ["short-" + "Xy9", SECRET + "secret", "q7" * 20])
def test_no_message_holds_the_secret(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Keyring(secret)
    assert secret not in str(caught.value)


def test_a_keyring_does_not_show_its_keys() -> None:
    ring = Keyring([SECRET, OTHER_SECRET])
    assert repr(ring) == "<Keyring of 2>"
    assert SECRET not in repr(ring.mac("p", "c"))
