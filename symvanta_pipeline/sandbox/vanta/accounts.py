"""What Vanta stores: the accounts of each tenant, as the last PUT left them.

Belongs here: the state of the world and its soft deletions. Does not belong here: validation (``schema``), HTTP.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from symvanta_pipeline.sandbox.vanta.schema import UserAccount


def utc_now() -> str:
    """RFC 3339 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class StoredAccount:
    """An account as sent, and Vanta's own three timestamps (RFC 3339)."""

    account: UserAccount
    created_at: str
    updated_at: str
    deleted_at: str | None = None

    @property
    def shown_status(self) -> str:
        """What the Access page says: Active or Deactivated; a soft-deleted account is Deactivated."""
        return "Active" if self.account["status"] == "ACTIVE" and not self.deleted_at else "Deactivated"

    def content(self) -> dict[str, Any]:
        """The account as the API lists it."""
        times = {"createdAt": self.created_at, "updatedAt": self.updated_at, "deletedAt": self.deleted_at}
        return {**self.account, **times}


class Accounts:
    """The accounts of all tenants; each PUT replaces what its tenant had."""

    def __init__(self, *, now: Callable[[], str] = utc_now) -> None:
        self._now = now
        self._by_tenant: dict[str, dict[str, StoredAccount]] = {}

    @property
    def tenants(self) -> tuple[str, ...]:
        """Every tenant that ever had a PUT."""
        return tuple(self._by_tenant)

    def put(self, tenant: str, accounts: Iterable[UserAccount], *, untouched: frozenset[str] = frozenset()) -> None:
        """Make these the tenant's accounts: absent ones are soft-deleted, re-appearing ones come back.

        Args:
            tenant: the ``source_id``.
            accounts: with distinct ``uniqueId``.
            untouched: ids that stay as they are, present or not.
        """
        now = self._now()
        stored = self._by_tenant.setdefault(tenant, {})
        present = set(untouched)
        for account in accounts:
            present.add(account["uniqueId"])
            self._upsert(stored, account, now)
        for unique_id, record in stored.items():
            if unique_id not in present and record.deleted_at is None:
                record.deleted_at = record.updated_at = now

    def stored(self, tenant: str) -> list[StoredAccount]:
        """Everything ever sent and accepted for a tenant, in the order of first appearance."""
        return list(self._by_tenant.get(tenant, {}).values())

    def counts(self, tenant: str) -> Counter[str]:
        """How many accounts the Access page shows per status."""
        return Counter(record.shown_status for record in self.stored(tenant))

    @staticmethod
    def _upsert(stored: dict[str, StoredAccount], account: UserAccount, now: str) -> None:
        record = stored.setdefault(account["uniqueId"], StoredAccount(account, now, now))
        if record.account != account or record.deleted_at:
            record.account, record.updated_at, record.deleted_at = account, now, None
