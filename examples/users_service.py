"""A users context over another service: a directory of people that answers JSON over HTTP."""

import json
from collections.abc import Mapping

import httpx
import msgspec

from powauth import Account, InvalidParams, StoreUnavailable, UsersContext
from powauth.accounts.identifiers import EmailIdentifier
from powauth.accounts.identity import Key
from powauth.accounts.passwords import PasswordPolicy

Params = Mapping[str, object]
REQUIRED: Params = {"email": None, "password": None}
GONE = {"base": ["no longer exists"]}
REFUSALS = {403: {"current_password": ["is wrong"]}, 409: {"email": ["has already been taken"]}}


class Me(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    team: str


class Person(Me, frozen=True, kw_only=True):
    enabled: bool
    password_version: str  # changes whenever a password is set


class DirectoryUsers(UsersContext[Person, Me]):
    mode = "blocking"  # it waits for a network: on an event loop, powauth calls it in worker threads
    identity = Me

    def __init__(self, url: str) -> None:
        self._directory = httpx.Client(base_url=url, timeout=5)
        self._emails, self._policy = EmailIdentifier(), PasswordPolicy()

    async def authenticate(self, params: Params) -> Account[Me] | None:
        # The directory does the same work for an address that nobody has.
        account = self._ask("check", email=self.login_key(params), password=params.get("password"))
        return account if account is not None and account.active else None

    async def create(self, params: Params) -> Account[Me]:
        return self._save("add", {**REQUIRED, **params})

    async def update(self, key: Key, params: Params, *, trusted: bool = False) -> Account[Me]:
        return self._save("change", params, id=str(key), **_proof(None if trusted else params))

    async def delete(self, key: Key, params: Params | None = None) -> bool:
        return self._ask("remove", id=str(key), **_proof(params)) is not None

    async def get(self, key: Key) -> Account[Me] | None:
        return self._ask("find", id=str(key))

    async def find(self, user_id: object) -> Account[Me] | None:
        return self._ask("find", email=self.login_key({"email": user_id}))

    def validate(self, params: Params, identity: Me | None = None) -> Mapping[str, list[str]]:
        return self._errors({**REQUIRED, **params} if identity is None else params)

    def login_key(self, params: Params) -> str | None:
        try:
            return self._emails.normalize(params.get("email"))
        except ValueError:
            return None

    async def close(self) -> None:
        self._directory.close()

    def _errors(self, params: Params) -> Mapping[str, list[str]]:
        email = self.login_key(params)
        errors = {"email": ["has invalid format"]} if "email" in params and email is None else {}
        if "password" in params and (messages := self._policy.check(params["password"], email)):
            errors["password"] = messages
        return errors

    def _save(self, verb: str, params: Params, **fields: object) -> Account[Me]:
        errors = self._errors(params)
        given = {"email": self.login_key(params), "password": params.get("password")}
        fields |= {name: given[name] for name in given.keys() & params.keys()}
        account = None if errors else self._ask(verb, **fields)
        if account is None:
            raise InvalidParams(errors or GONE)
        return account

    def _ask(self, verb: str, **fields: object) -> Account[Me] | None:
        body = json.dumps(fields, default=lambda _: None)  # a client may have sent anything in the place of a text
        try:
            answer = self._directory.post(verb, content=body)
            if answer.status_code in REFUSALS:
                raise InvalidParams(REFUSALS[answer.status_code])
            person = msgspec.json.decode(answer.raise_for_status().content, type=Person | None)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise StoreUnavailable("the directory does not answer") from error
        if person is None:
            return None
        proof = f"{person.email} {person.password_version}".encode()
        me = Me(id=person.id, email=person.email, team=person.team)
        return Account(key=person.id, identity=me, proof=proof, active=person.enabled)


def _proof(params: Params | None) -> dict[str, object]:
    return {} if params is None else {"current_password": params.get("current_password")}
