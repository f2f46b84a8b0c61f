"""User ids: one form for each, and no way from another name to somebody's account."""

import time
import unicodedata
from unittest.mock import patch

import email_validator
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from powauth.accounts import identifiers
from powauth.accounts.identifiers import EmailIdentifier, Identifier, UsernameIdentifier

EMAIL = EmailIdentifier()
INTERNATIONAL = EmailIdentifier(allow_international=True)
USERNAME = UsernameIdentifier()

LOOKALIKES = [
    "m\u0131ke@example.com",  # dotless i
    "mi\u212ae@example.com",  # KELVIN SIGN
    "mike@e\u212aample.com",
    "mike@e\uff58ample.com",  # full-width x
    "\uff4dike@example.com",
    "mike\uff20example.com",  # full-width at sign
    "mike\ufe6bexample.com",  # small at sign
    "mike@example\uff0ecom",  # full-width dot
    "mike@example\u3002com",  # ideographic dot
    "mike@examp\u2113e.com",  # script small l
    "mike@example.\u2102om",
    "m\u2170ke@example.com",  # small roman one
    "mike@ex\u00adample.com",  # soft hyphen, which IDNA drops
    "mike@ex\u200bample.com",  # zero-width space
    "mike\u200b@example.com",
    "mike@example.com\u200b",
    "mike@example.com\u00a0",
    "\u2000mike@example.com",
    "mike@example.com\u0085",
    "mike@example.com\u001f",
]


@pytest.mark.parametrize(
    "spelling", ["mike@example.com", "Mike@Example.Com", " mike@example.com", "mike@example.com\t ", "MIKE@EXAMPLE.COM"]
)
def test_uid_01_every_spelling_of_an_address_has_one_form(spelling: str) -> None:
    assert EMAIL.normalize(spelling) == "mike@example.com"


@pytest.mark.parametrize("identifier", [EMAIL, INTERNATIONAL], ids=["ascii", "international"])
@pytest.mark.parametrize("lookalike", LOOKALIKES, ids=ascii)
def test_uid_02_a_lookalike_never_becomes_the_ascii_address(identifier: Identifier, lookalike: str) -> None:
    try:
        found = identifier.normalize(lookalike)
    except ValueError:
        return
    assert found != "mike@example.com"
    assert not found.isascii() or "@xn--" in found or ".xn--" in found


@pytest.mark.parametrize("identifier", [EMAIL, INTERNATIONAL], ids=["ascii", "international"])
@given(st.data())
def test_uid_02_what_is_not_ascii_becomes_ascii_only_as_an_encoded_domain(
    identifier: Identifier, data: st.DataObject
) -> None:
    odd = st.characters(min_codepoint=0x80, exclude_categories=["Cs"])
    local = data.draw(st.text(odd | st.sampled_from("aik."), min_size=1, max_size=8))
    domain = data.draw(st.text(odd | st.sampled_from("aik.-"), min_size=1, max_size=8))
    for address in (f"{local}@example.com", f"mike@{domain}.com", f"{local}@{domain}.com"):
        try:
            found = identifier.normalize(address)
        except ValueError:
            continue
        assert identifier.normalize(found) == found
        written, form = address.rpartition("@"), found.rpartition("@")
        assert written[0].isascii() == form[0].isascii()
        for label, code in zip(written[2].split("."), form[2].split("."), strict=True):
            assert label.isascii() or code.startswith("xn--")


def test_uid_02_composed_and_decomposed_names_are_one_and_lookalike_domains_are_not() -> None:
    composed, decomposed = "m\u00fcller", unicodedata.normalize("NFD", "m\u00fcller")
    assert INTERNATIONAL.normalize(f"{composed}@example.com") == INTERNATIONAL.normalize(f"{decomposed}@example.com")
    assert INTERNATIONAL.normalize("\u00c9lan@example.com") == "\u00e9lan@example.com"
    forms = {EMAIL.normalize(f"mike@{domain}.com") for domain in (composed, decomposed, "xn--mller-kva", "M\u00dcLLER")}
    assert forms == {"mike@xn--mller-kva.com"}
    assert EMAIL.normalize("mike@ex\u0430mple.com") == "mike@xn--exmple-4nf.com"  # Cyrillic a
    assert EMAIL.normalize("mike@stra\u00dfe.com") != EMAIL.normalize("mike@strasse.com")


COMMON = ("a", "z", "0", "9", "A", "K", "-", ".", "_", "+", "@", "example", "com", "xn--", "a" * 62, "test", "\u212a")


def by_the_library_alone(address: object) -> str:
    """The form of an address, or what is wrong with it, where none is taken for a common one."""
    with patch.object(identifiers, "_is_common", lambda _: False):
        return form(address)


def form(address: object) -> str:
    try:
        return EMAIL.normalize(address)
    except ValueError as error:
        return f"error: {error}"


@given(st.lists(st.sampled_from(COMMON), max_size=12).map("".join))
@example("mia.o'brien+shop@example.com")
@example("mia@example-shop.co.uk")
@example("mia@ex--ample.com")
@example("mia@xn--bcher-kva.example")
@example("mia@a.b.c2")
@example("mia@1.2.3.4")
@example("mia@shop.test")
@example("mia@home.arpa")
@example("mia@local")
@example("a" * 64 + "@" + "b" * 63 + ".com")
@example("a@" + "b" * 64 + ".com")
@example("a@b." + "c" * 64)
@example("a" * 64 + "@" + "b" * 63 + "." + "c" * 63 + "." + "d" * 58 + ".com")
def test_uid_01_a_common_address_has_the_form_that_the_library_gives_it(address: str) -> None:
    assert form(address) == by_the_library_alone(address)


@given(
    st.text(st.sampled_from("az09AZ-._+"), min_size=1, max_size=70),
    st.from_regex(r"[a-zA-Z0-9.-]{1,190}", fullmatch=True),
)
def test_uid_01_so_has_whatever_looks_like_one(local: str, domain: str) -> None:
    for address in (f"{local}@{domain}", f"{local}@{domain}.org", f" {local}@{domain}.local"):
        assert form(address) == by_the_library_alone(address)


@pytest.mark.parametrize("address", ["mia@example.com", "Mia.Reed+shop@Mail.Example-Shop.CO.UK", "m_i-a.0@x.org"])
def test_a_common_address_is_not_taken_apart(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identifiers, "validate_email", None)
    assert EMAIL.normalize(address) == address.lower()


def test_a_domain_that_the_app_reserves_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EMAIL.normalize("mia@shop.intranet") == "mia@shop.intranet"
    reserved = [*email_validator.SPECIAL_USE_DOMAIN_NAMES, "shop.intranet"]
    monkeypatch.setattr(email_validator, "SPECIAL_USE_DOMAIN_NAMES", reserved)
    for domain in ("shop.intranet", "www.shop.intranet"):
        assert form(f"mia@{domain}") == by_the_library_alone(f"mia@{domain}") == "error: has invalid format"
    assert EMAIL.normalize("mia@workshop.intranet") == "mia@workshop.intranet"


@pytest.mark.parametrize(
    "address",
    [
        "mike@example.com\r\nBcc: eve@example.com",
        "mike\n@example.com",
        "mike@example.com\n",
        "mike\x00@example.com",
        "mike@example.com\x00",
        "mi ke@example.com",
        "mike@exam ple.com",
        '"mike"@example.com',
        '"mike eve"@example.com',
        "<mike@example.com>",
        "Mike <mike@example.com>",
        "mike@example.com>",
        "mike@[127.0.0.1]",
        "mike@[IPv6:::1]",
        "mike(comment)@example.com",
        "mike@example.com,eve@example.com",
        "mike@example.com;eve@example.com",
        "eve@example.net@example.com",
        "mike@example.com.",
        "mike@.example.com",
        "mike@example..com",
        ".mike@example.com",
        "mike.@example.com",
        "mi..ke@example.com",
        "mike@-example.com",
        "mike@localhost",
        "mike@xn--a.com",
        "mike",
        "@example.com",
        "mike@",
        "mi\ud800ke@example.com",
        "mike@\udc80.com",
    ],
    ids=ascii,
)
def test_uid_03_what_could_end_an_address_is_refused(address: str) -> None:
    for identifier in (EMAIL, INTERNATIONAL):
        with pytest.raises(ValueError, match="has invalid format"):
            identifier.normalize(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("a" * 65 + "@example.com", "at most 64"),
        ("a@" + ".".join(["b" * 60] * 5), "at most 254"),
        ("a@" + "b." * 50_000 + "com", "at most 254"),
        ("a" * 100_000_000, "at most 254"),
        ("@" * 300, "at most 254"),
        (" " * 10_000_000 + "a@example.com", "at most 254"),
    ],
    ids=["local part", "address", "50,000 labels", "100 MB", "at signs", "10 MB of blanks"],
)
def test_uid_03_what_is_too_long_is_refused_in_no_time(address: str, message: str) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match=message):
        EMAIL.normalize(address)
    assert time.process_time() - started < 0.05


def test_uid_03_the_longest_address_is_accepted() -> None:
    longest = "a" * 64 + "@" + ".".join(["b" * 46] * 4) + ".c"
    longest = longest + "om"[: 254 - len(longest)]
    assert EMAIL.normalize("\t " + longest) == longest
    with pytest.raises(ValueError, match="invalid"):
        INTERNATIONAL.normalize(
            "\u00e9" * 32 + "@" + "\u00fc" * 50 + "." + "\u00fc" * 50 + "." + "\u00fc" * 50 + ".com"
        )
    with pytest.raises(ValueError, match="at most 64"):
        INTERNATIONAL.normalize("\u00e9" * 33 + "@example.com")


@pytest.mark.parametrize("identifier", [EMAIL, USERNAME], ids=["email", "username"])
@pytest.mark.parametrize("value", [True, 0, 1.5, b"mike@example.com", ["mike@example.com"], {"$ne": ""}, object()])
def test_aut_04_what_is_no_text_is_no_user_id(identifier: Identifier, value: object) -> None:
    with pytest.raises(ValueError, match="is invalid"):
        identifier.normalize(value)


@pytest.mark.parametrize("identifier", [EMAIL, USERNAME], ids=["email", "username"])
@pytest.mark.parametrize("value", [None, "", " ", "\t"])
def test_a_missing_user_id_is_blank(identifier: Identifier, value: object) -> None:
    with pytest.raises(ValueError, match="can't be blank"):
        identifier.normalize(value)


@given(st.text(max_size=80))
@example("Mike")
@example("mi\u212ae")
def test_uid_02_a_user_name_is_plain_ascii_or_refused(value: str) -> None:
    try:
        found = USERNAME.normalize(value)
    except ValueError:
        return
    assert found == value.strip(" \t").lower()
    assert value.isascii()
    assert 1 <= len(found) <= 64
    assert USERNAME.normalize(found) == found


@pytest.mark.parametrize(
    "name", ["mike@example.com", "-mike", ".mike", "mike.", "mi ke", "mike\n", "mi\x00ke", "a" * 65]
)
def test_user_names_that_could_be_taken_for_something_else_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"may hold|at most 64"):
        USERNAME.normalize(name)
