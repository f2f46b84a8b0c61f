"""`extension_parts`: the parts of an authenticator that its extensions get."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from powauth.accounts.anywhere import anywhere
from powauth.accounts.attempts import AttemptLimits
from powauth.accounts.base import Account, Params, UsersContext
from powauth.accounts.grant import Grant
from powauth.accounts.hooks import EmitEvent, Parts
from powauth.accounts.identity import I, Key
from powauth.accounts.throttle import Counters, Throttle
from powauth.backends.base import Millis
from powauth.errors import StoreUnavailable
from powauth.http.carriers import Carrier, CookieCarrier, SeveralIds
from powauth.http.connection import Connection, Effects
from powauth.plug.authenticator import Authenticator
from powauth.plug.current_session import CurrentSession
from powauth.plug.reader import RequestReader
from powauth.sessions.keyring import Keyring
from powauth.sessions.store import CredentialsCache

NO_LIMITS = Throttle(per_account=None, per_source=None)
"""The throttle for the counters of extensions. Each extension passes its own limits."""


class ExtensionCookie:
    """A cookie of an extension; see `powauth.accounts.extension_ports.OwnCookie`.

    Args:
        carrier: reads and writes it.
        reader: notes it for the response.
    """

    def __init__(self, carrier: CookieCarrier, reader: RequestReader[Any]) -> None:
        self._carrier = carrier
        self._reader = reader

    def read(self, request: Connection) -> str | None:
        """See `powauth.accounts.extension_ports.OwnCookie.read`."""
        try:
            return self._carrier.read(request)
        except SeveralIds:
            return None

    def write(self, request: Connection, value: str, max_age: int | None = None) -> None:
        """See `powauth.accounts.extension_ports.OwnCookie.write`."""
        self._note(request, self._carrier.write(request, value, max_age))

    def clear(self, request: Connection) -> None:
        """See `powauth.accounts.extension_ports.OwnCookie.clear`."""
        self._note(request, self._carrier.clear(request))

    def _note(self, request: Connection, effects: Effects) -> None:
        for cookie in effects.cookies:
            self._reader.note_cookie(request, self._carrier.name, cookie)


def extension_parts(
    auth: Authenticator[Any, I],
    users: UsersContext[Any, I],
    store: CredentialsCache,
    keyring: Keyring,
    now: Callable[[], Millis],
    emit: EmitEvent,
    public_url: str | None,
    *,
    current: CurrentSession[I],
    reader: RequestReader[I],
    carrier: Carrier,
    session_key: str,
    current_user_key: str,
) -> Parts[I]:
    """Return the parts. Extensions get them before ``auth`` is complete, and call its methods afterwards.

    ``carrier`` is the one for browsers, and ``session_key`` its name without a prefix.

    Raises:
        ConfigError: if the namespace leaves no room for the counters.
    """

    async def change(key: Key, params: Params, *, proof: bytes | None = None, why: str | None = None) -> Account[I]:
        return await auth.accounts.change_account(key, params, proof=proof, why=why)

    async def address_proven(key: Key, address: str) -> None:
        await auth.accounts.hooks.address_proven(key, address)

    async def may_continue(key: Key) -> bool:
        return await auth.accounts.hooks.may_continue(key)

    async def may_be_claimed(key: Key, address: str) -> bool:
        return await auth.accounts.hooks.may_be_claimed(key, address)

    async def sign_in(request: Connection, account: Account[I], grant: Grant) -> I | None:
        identity = await auth.do_create(request, account, grant)
        attempt = grant.attempt
        if identity is not None and attempt is not None and attempt.counted_as is not None:
            with contextlib.suppress(StoreUnavailable):  # the counter expires anyway
                await auth.accounts.records.forget_failures_of(attempt.counted_as)
        return identity

    async def end_sessions(key: Key, why: str, *, keep: Connection | None = None) -> int:
        session = None if keep is None else current.session_of(keep, key)
        return await auth.accounts.records.end_sessions(key, why, session)

    def proven_methods(request: Connection, key: Key) -> Mapping[str, Millis] | None:
        session = None if auth.current_identity(request) is None else current.session_of(request, key)
        return None if session is None else session.amr

    def cookie(name: str) -> ExtensionCookie:
        own = carrier if isinstance(carrier, CookieCarrier) else CookieCarrier()
        return ExtensionCookie(own.named(f"{session_key}_{name}"), reader)

    async def check_password(password: str, request: Any = None) -> list[str]:
        return await auth.accounts.hooks.password_errors(password, request)

    return Parts(
        backend=store.backend,
        namespace=store.namespace,
        keyring=keyring,
        users=anywhere(users),
        now=now,
        emit=emit,
        current_user_key=current_user_key,
        public_url=public_url,
        limits=AttemptLimits(
            Counters(NO_LIMITS, keyring, store.namespace),
            store.backend,
            now,
            lambda purpose: auth.emit("throttled", None, detail=purpose),
        ),
        change=change,
        check_password=check_password,
        address_proven=address_proven,
        sign_in=sign_in,
        end_sessions=end_sessions,
        proven_methods=proven_methods,
        cookie=cookie,
        may_continue=may_continue,
        may_be_claimed=may_be_claimed,
    )
