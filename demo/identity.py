"""The part of a user that requests see."""

from datetime import datetime
from uuid import UUID

import msgspec


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a user that requests see."""

    id: UUID
    email: str
    created_at: datetime
    administrator: bool
