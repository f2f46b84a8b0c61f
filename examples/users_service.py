"""A users context over another service: a directory of people that answers JSON over HTTP."""

import httpx
import msgspec

from powauth import Account, InvalidParams, Overtaken, StoreUnavailable, UsersContext
from powauth.accounts.base import Params
from powauth.accounts.forms import GONE, INVALID, TAKEN, CredentialsForm, Errors, text_of
from powauth.accounts.identity import Key

REFUSALS = {403: {"current_password": [INVALID]}, 409: {"email": [TAKEN]}}


class Me(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    team: str


class Person(Me, frozen=True, kw_only=True):
    enabled: bool
    password_version: str  # changes whenever a password is set

    def member(self) -> "Member":
        me = Me(id=self.id, email=self.email, team=self.team)
        proof = f"{self.email} {self.password_version}".encode()
        return Account(key=self.id, identity=me, proof=proof, active=self.enabled)


Member = Account[Me]


class DirectoryUsers(UsersContext[Person, Me]):
    mode = "blocking"  # it waits for a network: on an event loop, powauth calls it in worker threads
    identity = Me

    def __init__(self, url: str) -> None:
        self._directory = httpx.Client(base_url=url, timeout=5)
        self._form = CredentialsForm()

    async def authenticate(self, params: Params) -> Member | None:
        member = self._ask("check", email=self._form.login_key(params), password=params.get("password"))
        return member if member is not None and member.active else None

    async def create(self, params: Params) -> Member:
        return self._save("add", **self._form.checked(params))

    async def update(self, key: Key, params: Params, *, trusted: bool = False, proof: bytes | None = None) -> Member:
        fields = self._form.checked(params, changing=True, trusted=trusted)
        return self._save("change", id=str(key), proof=None if proof is None else proof.hex(), **fields)

    async def delete(self, key: Key, params: Params | None = None) -> bool:
        proof = {} if params is None else {"current_password": self._form.current_password(params)}
        return self._ask("remove", id=str(key), **proof) is not None

    async def get(self, key: Key) -> Member | None:
        return self._ask("find", id=str(key))

    async def find(self, user_id: object) -> Member | None:
        return self._ask("find", email=self._form.key_of(user_id))

    def validate(self, params: Params, identity: Me | None = None) -> Errors:
        return self._form.validate(params, identity)

    async def close(self) -> None:
        self._directory.close()

    def _save(self, verb: str, **fields: object) -> Member:
        if (member := self._ask(verb, **fields)) is None:
            raise InvalidParams({"base": [GONE]})
        return member

    def _ask(self, verb: str, **fields: object) -> Member | None:
        try:
            answer = self._directory.post(verb, json={name: text_of(each) for name, each in fields.items()})
            if answer.status_code == 412:
                raise Overtaken
            if answer.status_code in REFUSALS:
                raise InvalidParams(REFUSALS[answer.status_code])
            person = msgspec.json.decode(answer.raise_for_status().content, type=Person | None)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise StoreUnavailable("the directory does not answer") from error
        return None if person is None else person.member()
