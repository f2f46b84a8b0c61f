"""`Subjects`: turns an account into the fields that a record stores of it, and back."""

from typing import Any, Generic

import msgspec

from powauth.accounts.base import Account, UsersContext
from powauth.accounts.identity import I, IdentityCodec, Key, loaded_key, stored_key
from powauth.sessions.keyring import Mac
from powauth.sessions.record import MAX_PROOFS, Session, Subject, key_text


class Subjects(Generic[I]):
    """Seals the proofs of accounts, and encodes identities.

    Args:
        users: the users context.
        mac: makes the keyed hashes of proofs.
    """

    def __init__(self, users: UsersContext[Any, I], mac: Mac) -> None:
        self._users = users
        self._mac = mac
        self._codec: IdentityCodec[I] | None = None

    @property
    def codec(self) -> IdentityCodec[I]:
        """The codec of the identities. A users context may learn the identity's class only when it reads a user."""
        cls = self._users.identity
        codec = self._codec
        if codec is None or codec.cls is not cls:
            codec = self._codec = IdentityCodec(cls)
        return codec

    def subject(self, account: Account[I]) -> Subject:
        """Return the fields that a new record stores of an account."""
        codec = self.codec
        proof = self.sealed(account.key, account.proof)
        return Subject(stored_key(account.key), proof, codec.names, codec.encode(account.identity))

    def identity_in(self, session: Session) -> I | None:
        """Return the identity in a record; ``None`` if it must be rebuilt."""
        return self.codec.decode(session.names, session.identity)

    def merged(self, session: Session, account: Account[I]) -> Session:
        """Return a session with the current identity, merged with fields that other versions of the app stored."""
        codec = self.codec
        return msgspec.structs.replace(
            session, names=codec.names, identity=codec.merged(session.identity, account.identity)
        )

    def sealed(self, key: Key, proof: bytes) -> bytes:
        """Return the keyed hash of a proof and of the key of its user."""
        return self._mac.sign(_message(key, proof))

    def mark(self, key: Key) -> str:
        """Return a text that identifies a user and reveals nothing about them."""
        return self._mac.sign(key_text(stored_key(key)).encode()).hex()

    def proves(self, account: Account[I], session: Session) -> bool:
        """Return whether an account is active, and has a proof that the session accepts."""
        if not isinstance(account, Account) or account.active is not True:
            return False
        message = _message(account.key, account.proof)
        return any(self._mac.verify(message, proof) for proof in session.proofs)

    def resealed(self, session: Session, account: Account[I]) -> Session:
        """Return a session that accepts only the account's present proof."""
        return msgspec.structs.replace(session, proofs=(self.sealed(account.key, account.proof),))

    def also_accepting(self, session: Session, proof: bytes) -> Session:
        """Return a session that accepts one more proof of its user. The oldest is dropped if there are too many."""
        new = self.sealed(loaded_key(session.user_key), proof)
        if new in session.proofs:
            return session
        return msgspec.structs.replace(session, proofs=(*session.proofs, new)[-MAX_PROOFS:])

    def accepting(self, session: Session, account: Account[I], proof: bytes) -> Session:
        """Return a session that accepts the account's present proof and ``proof``. Other sessions stay unchanged."""
        old, new = self.sealed(account.key, account.proof), self.sealed(account.key, proof)
        if old not in session.proofs or new in session.proofs:
            return session
        return msgspec.structs.replace(session, proofs=(old, new))


def _message(key: Key, proof: bytes) -> bytes:
    return key_text(stored_key(key)).encode() + b"\0" + proof
