"""The form for users contexts of one's own: what it accepts, and what it says about the rest."""

from typing import Any

import msgspec
import pytest

from powauth import InvalidParams
from powauth.accounts.forms import BLANK, INVALID, CredentialsForm
from powauth.accounts.identifiers import EmailIdentifier, UsernameIdentifier

GOOD = "five brown owls hoot"


class Me(msgspec.Struct, frozen=True):
    id: int
    email: str


def errors_of(form: CredentialsForm, params: dict[str, Any], **how: bool) -> dict[str, list[str]]:
    with pytest.raises(InvalidParams) as caught:
        form.checked(params, **how)
    return {field: list(messages) for field, messages in caught.value.errors.items()}


def test_a_registration_needs_a_user_id_and_a_password() -> None:
    assert errors_of(CredentialsForm(), {}) == {"email": [BLANK], "password": [BLANK]}


def test_a_change_has_what_was_given_and_the_current_password() -> None:
    form = CredentialsForm()
    assert form.checked({"current_password": GOOD}, changing=True) == {"current_password": GOOD}
    assert form.checked({"password": "", "current_password": GOOD}, changing=True) == {"current_password": GOOD}
    assert form.checked({"password": GOOD}, changing=True, trusted=True) == {"password": GOOD}
    assert errors_of(form, {"password": GOOD}, changing=True) == {"current_password": [BLANK]}


def test_what_the_form_does_not_know_is_ignored_from_outside_and_refused_from_the_app() -> None:
    form = CredentialsForm()
    assert form.checked({"role": "admin", "current_password": GOOD}, changing=True) == {"current_password": GOOD}
    assert errors_of(form, {"role": "admin"}, changing=True, trusted=True) == {"role": ["cannot be set"]}


@pytest.mark.parametrize(("given", "message"), [(None, BLANK), ("", BLANK), (1, INVALID), ("\ud800", INVALID)])
def test_a_current_password_is_a_text(given: object, message: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        CredentialsForm().current_password({"current_password": given})
    assert dict(caught.value.errors) == {"current_password": [message]}


def test_a_form_that_sends_an_old_user_id_again_is_valid() -> None:
    form, old = CredentialsForm(), "root@localhost"
    params = {"email": old, "password": GOOD, "current_password": GOOD}
    assert form.validate(params, Me(id=1, email=old)) == {}
    assert form.validate(params, Me(id=1, email="mia@example.com")) == {"email": ["has invalid format"]}
    assert "email" in form.validate({"password": GOOD})


def test_users_may_have_several_user_ids() -> None:
    form = CredentialsForm({"email": EmailIdentifier(), "username": UsernameIdentifier()})
    assert form.login_key({"email": "", "username": "Mia"}) == "mia"
    assert form.login_key({"email": "Mia@Example.com", "username": "mia"}) == "mia@example.com"
    assert form.login_key({"username": ""}) is None
    assert form.checked({"email": "mia@example.com", "username": "Mia", "password": GOOD})["username"] == "mia"
