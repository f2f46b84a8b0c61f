"""Users with other user ids than an e-mail address, and models with more required columns (REP-34)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from sqlalchemy.schema import FetchedValue

from harness.pages_support import PASSWORD, Browser, Site, site
from harness.support import SECRET, MemoryUsers
from harness.users_databases import Base, blocking_engine, cheap_hasher, table_name
from powauth import SessionAuth
from powauth.accounts.fields import FormField
from powauth.accounts.identifiers import EmailIdentifier
from powauth.accounts.sqlalchemy import AccountMixin, SQLAlchemyUsers, UserMixin, UsernameMixin
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigError
from powauth.pages import BasePages, Messages, Routes


class Named(UsernameMixin, AccountMixin, Base):
    __tablename__ = table_name()


class Both(UsernameMixin, UserMixin, Base):
    __tablename__ = table_name()


class Perhaps(UserMixin, Base):
    __tablename__ = table_name()

    username: Mapped[str | None] = mapped_column(sa.String(64), unique=True)


class Member(UserMixin, Base):
    __tablename__ = table_name()

    full_name: Mapped[str] = mapped_column(sa.String(40))
    email_2: Mapped[str | None] = mapped_column(sa.String(40))
    age: Mapped[int]
    height: Mapped[Decimal] = mapped_column(sa.Numeric(5, 2))
    weight: Mapped[float]
    born: Mapped[date]
    newsletter: Mapped[bool]
    plan: Mapped[str] = mapped_column(sa.String(10), default="free")
    version: Mapped[int] = mapped_column()

    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012 - as SQLAlchemy documents it


FIELDS = ("full_name", "email_2", "age", "height", "weight", "born", "newsletter", "plan")
MODELS = (Named, Both, Perhaps, Member)


@dataclass
class SiteOf:
    """Makes sites with a model and the options of its users."""

    engine: sa.Engine
    folder: Path

    def __call__(self, model: type[Any], framework: str = "flask", **options: Any) -> AbstractContextManager[Site]:
        users = SQLAlchemyUsers(self.engine, model, hasher=cheap_hasher(), **options)
        return site(framework, self.folder, users=users)


@pytest.fixture(params=["sqlite", "postgresql+psycopg"])
def site_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SiteOf]:
    with blocking_engine(request.param, str(tmp_path), *MODELS) as engine:
        yield SiteOf(engine, tmp_path)


def everything_shown(browser: Browser, sign_in: dict[str, str], registration: dict[str, str]) -> list[str]:
    """Every page in the states that name the user id."""
    shown = [browser.get("/register"), browser.get("/login")]
    shown.append(browser.send(shown[0], **dict.fromkeys(registration, "#"), password="x"))
    shown.append(browser.send(shown[1], **sign_in, password="not the password"))
    account = browser.follow(browser.send(shown[0], **registration, password=PASSWORD))
    shown.append(account)
    shown.append(browser.send(account, "user_id", current_password="not the password"))
    changed = browser.send(account, "user_id", **dict.fromkeys(sign_in, "someone_2"), current_password=PASSWORD)
    shown.append(browser.follow(changed))
    shown.append(browser.get("/account/sessions"))
    return [page.html for page in shown]


@pytest.mark.parametrize("framework", ["flask", "asgi"])
def test_rep_34_a_a_user_name_is_called_no_e_mail_address(site_of: SiteOf, framework: str) -> None:
    with site_of(Named, framework, user_id_field="username") as here:
        shown = everything_shown(here.browser(), {"username": "mia"}, {"username": "mia"})
        assert not [html for html in shown if "mail" in html.lower()]
        register, login, invalid, refused, _, _, changed, _ = shown
        assert '<label for="register-username">User name</label>' in register
        assert 'autocomplete="username"' in register
        assert '<label for="login-username">User name</label>' in login
        assert "User name may hold letters" in invalid
        assert "That user name and password do not match an account." in refused
        assert "Your user name has been changed." in changed
        assert '<h2 id="user_id-title">User name</h2>' in changed
        assert "Change user name" in changed
        program = here.program()
        assert program.get("/register").json() == {"fields": ["username", "password"]}
        assert program.get("/login").json() == {"fields": ["username", "password"]}
        made = program.post("/register", json={"username": "Noa", "password": PASSWORD})
        assert made.json()["user"].keys() == {"id", "username"}
        wrong = here.program().post("/register", json={"password": PASSWORD})
        assert wrong.json() == {"errors": {"username": ["can't be blank"]}}


def test_rep_34_a_with_two_user_ids_the_pages_name_both(site_of: SiteOf) -> None:
    with site_of(Both, user_id_field=("email", "username")) as here:
        browser = here.browser()
        register = browser.get("/register")
        email, username = register.by_id("register-email"), register.by_id("register-username")
        assert (email["type"], email["autocomplete"]) == ("email", "email")
        assert (username["type"], username["autocomplete"]) == ("text", "username")
        assert {"required"} <= email.keys() & username.keys()
        sent = browser.send(register, email="mia@example.com", username="Mia", password=PASSWORD)
        account = browser.follow(sent)
        assert account.by_id("user_id-username")["value"] == "mia"
        login = here.browser().get("/login")
        for typed in ("mia@example.com", "mia"):
            other = here.browser()
            assert "E-mail address or user name" in login.text
            assert login.by_id("login-email")["type"] == "text"
            assert other.send(login, email=typed, password=PASSWORD).status == 303
        refused = browser.send(here.browser().get("/login"), email="mia", password="not the password")
        assert "That e-mail address or user name and password do not match an account." in refused.text
        done = browser.follow(browser.send(account, "user_id", username="noa", current_password=PASSWORD))
        assert "Your e-mail address or user name has been changed." in done.text
        assert here.browser().send(login, email="noa", password=PASSWORD).status == 303
        taken = here.browser().send(register, email="bo@example.com", username="noa", password=PASSWORD)
        assert (taken.status, "User name has already been taken" in taken.text) == (422, True)


def test_rep_34_a_an_optional_user_id_may_be_left_empty(site_of: SiteOf) -> None:
    with site_of(Perhaps, user_id_field=("email", "username")) as here:
        register = here.browser().get("/register")
        assert "User name (optional)" in register.text
        assert "required" not in register.by_id("register-username")
        for name in ("bo", "mia"):
            browser = here.browser()
            assert browser.send(register, email=f"{name}@example.com", password=PASSWORD).status == 303
        assert here.browser().send(register, email="x@example.com", username="#", password=PASSWORD).status == 422


def test_rep_34_a_the_words_are_the_apps_where_it_has_its_own(tmp_path: Path) -> None:
    messages = Messages(
        names={"email": "Adresse"},
        change_user_id="Meine {user_id}",
        sign_in_refused="{user_id} oder Passwort falsch.",
    )
    with site("wsgi", tmp_path, messages=messages) as here:
        browser = here.browser()
        assert "Adresse oder Passwort falsch." in browser.sign_in().text
        assert "Meine Adresse" in browser.register().text
    assert Messages(names={}).name(["login_id", "email"]) == "login id or email"
    assert Messages().naming(["email"]).change_user_id == "E-mail address"


def test_rep_34_a_the_sign_in_form_takes_every_user_id_of_an_existing_table(tmp_path: Path) -> None:
    """A browser refuses "Ann Lee" in a field of the type "email"."""
    with site("wsgi", tmp_path) as here:
        field = here.browser().get("/login").by_id("login-email")
        assert (field["type"], field["inputmode"], field["autocomplete"]) == ("text", "email", "username")


def test_rep_34_b_the_form_has_the_fields_that_the_model_requires(site_of: SiteOf) -> None:
    with site_of(Member, fields=FIELDS) as here:
        browser = here.browser()
        page = browser.get("/register")
        kinds = {str(each["name"]): each["type"] for each in page.forms[-1][1]}
        assert kinds == {
            "email": "email",
            "full_name": "text",
            "age": "number",
            "height": "number",
            "weight": "number",
            "born": "date",
            "newsletter": "checkbox",
            "password": "password",
        }
        assert page.by_id("register-full_name")["autocomplete"] == "name"
        assert page.by_id("register-full_name")["autocapitalize"] == "sentences"
        assert page.by_id("register-full_name")["maxlength"] == "40"
        assert "Full name" in page.text
        assert here.program().get("/register").json()["fields"] == [*kinds]
        filled = {"email": "mia@example.com", "full_name": "Mia", "born": "2001-02-03", "password": PASSWORD}
        sent = {**filled, "age": "42", "height": "1.85", "weight": "80.5"}
        wrong = browser.post("/register", {**sent, "age": "old", "newsletter": "perhaps", "weight": "much"})
        assert wrong.status == 422
        assert {"Age is invalid." in wrong.text, "Newsletter is invalid." in wrong.text} == {True}
        assert wrong.by_id("register-full_name")["value"] == "Mia"
        assert browser.post("/register", sent).status == 303
        noa = {**sent, "email": "noa@example.com", "newsletter": "true"}
        assert here.browser().post("/register", noa).status == 303
        program = here.program()
        assert program.post("/register", json=sent).json()["errors"]["age"] == ["is invalid"]
        given = {**filled, "email": "bo@example.com", "age": 7, "height": 1, "weight": 2.5, "newsletter": False}
        assert program.post("/register", json=given).status_code == 201
        query = sa.select(Member.email, Member.age, Member.height, Member.weight, Member.newsletter, Member.plan)
        with site_of.engine.connect() as connection:
            assert [tuple(row) for row in connection.execute(query.order_by(Member.email))] == [
                ("bo@example.com", 7, Decimal(1), 2.5, False, "free"),
                ("mia@example.com", 42, Decimal("1.85"), 80.5, False, "free"),
                ("noa@example.com", 42, Decimal("1.85"), 80.5, True, "free"),
            ]


def test_rep_34_b_a_required_column_that_no_form_has_is_refused(tmp_path: Path) -> None:
    class OwnBase(DeclarativeBase):
        pass

    class Tenant(UserMixin, OwnBase):
        __tablename__ = "tenants"

        tenant: Mapped[str]

    class Filled(UserMixin, OwnBase):
        __tablename__ = "filled"

        tenant: Mapped[str] = mapped_column(default=lambda: "one")
        trigger: Mapped[str] = mapped_column(server_default=FetchedValue())
        computed: Mapped[int] = mapped_column(sa.Computed("1 + 1"))

    engine = sa.create_engine("sqlite://")
    wrong = SQLAlchemyUsers(engine, Tenant, hasher=cheap_hasher())
    with pytest.raises(ConfigError) as caught, site("asgi", tmp_path, users=wrong):
        pass
    assert str(caught.value) == (
        "Tenant.tenant is NOT NULL and has no default, so no registration can succeed: add 'tenant' to "
        "SQLAlchemyUsers(fields=[...]), give the column a default, or turn the page to register off with "
        "Routes(register=None)"
    )
    with site("asgi", tmp_path, users=wrong, routes=Routes(register=None)) as here:
        browser = here.browser()
        assert browser.get("/register").status == 404
        login = browser.get("/login")
        assert (login.status, "No account yet?" in login.text) == (200, False)
    for model, fields in ((Tenant, ["tenant"]), (Filled, [])):
        users = SQLAlchemyUsers(engine, model, hasher=cheap_hasher(), fields=fields)
        with site("asgi", tmp_path, users=users) as here:
            assert here.browser().get("/register").status == 200
    engine.dispose()


def test_rep_34_b_a_default_of_a_dataclass_is_a_default() -> None:
    class Data(MappedAsDataclass, DeclarativeBase):
        pass

    class Person(Data):
        __tablename__ = "people"

        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        email: Mapped[str] = mapped_column(sa.String(254), unique=True)
        password_hash: Mapped[str | None] = mapped_column(sa.String(255))
        tags: Mapped[str] = mapped_column(default_factory=str)
        is_active: Mapped[bool] = mapped_column(default=True)

    users = SQLAlchemyUsers(sa.create_engine("sqlite://"), Person, hasher=cheap_hasher())
    assert [field.name for field in users.registration_fields()] == ["email"]


def test_rep_34_b_a_users_context_of_the_app_has_the_fields_of_its_user_ids() -> None:
    class Several(MemoryUsers):
        other_user_id_fields = ("login",)

    auth = SessionAuth(secret_key=SECRET, users=Several(), backend=MemoryBackend())
    assert BasePages(auth).settings.fields == (
        FormField(name="email", kind="email"),
        FormField(name="login", required=False),
    )


def test_an_international_address_needs_a_field_of_text() -> None:
    """Browsers take "é" before the @ for no address."""
    identifier = EmailIdentifier(allow_international=True)
    users = SQLAlchemyUsers(sa.create_engine("sqlite://"), Perhaps, hasher=cheap_hasher(), identifier=identifier)
    assert users.registration_fields()[0].kind == "text"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "-7", -7),
        ("integer", "1" * 19, "1" * 19),
        ("integer", 7, 7),
        ("integer", "\u0661", "\u0661"),
        ("number", "1.5", 1.5),
        ("number", "nan", "nan"),
        ("number", [], []),
        ("flag", "on", True),
        ("flag", "yes", "yes"),
        ("flag", [], []),
        ("date", "2001-02-03", "2001-02-03"),
    ],
)
def test_texts_of_a_form_become_the_values_that_they_mean(kind: Any, text: object, value: object) -> None:
    assert FormField(name="x", kind=kind).parsed(text) == value
