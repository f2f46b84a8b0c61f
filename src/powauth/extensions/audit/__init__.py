"""`Audit`: writes events to a table of the app's database, and shows users their recent activity."""

from powauth.extensions.audit._extension import Audit
from powauth.extensions.audit._table import AuditMixin, Entry

__all__ = ["Audit", "AuditMixin", "Entry"]
