"""What the ledger says of customers: keys, tokens, scopes, states, and whether all of them fit into an hour.

Belongs here: judging what is stored. Does not belong here: any call to Vanta; no token is used or refreshed.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from symvanta_pipeline.doctor.ledger import reading
from symvanta_pipeline.doctor.verdict import Verdict, fail, named, number, ok, warn
from symvanta_pipeline.ledger.snapshots import customer_records
from symvanta_pipeline.ledger.status import status_of
from symvanta_pipeline.ledger.vault import KeyRing, TokenUnreadable, UnknownTokenKey, Vault
from symvanta_pipeline.settings import KeySettings, VantaSettings, load
from symvanta_pipeline.vanta.oauth import missing_scopes

MINUTES: Final = 60
# An access token lasts an hour and is refreshed in every cycle that finds it due.
UNREFRESHED_AFTER: Final = timedelta(days=2)
AT_REST: Final = ("healthy", "new", "disconnected")

_CONNECTED: Final = """
SELECT customer, organization_id, scope, expires_at
FROM connections LEFT JOIN tokens USING (organization_id)
WHERE state = 'connected' ORDER BY customer COLLATE "C"
"""


def keys() -> Verdict:
    """Compare the key ring with the keys that stored tokens need."""
    ring = _ring()
    with reading() as connection:
        try:
            Vault(connection, ring).check_keys()
        except UnknownTokenKey as error:
            return fail(str(error), "put the missing keys back behind the first one, or reconnect those customers")
        [(older, stored)] = connection.execute(
            "SELECT count(*) FILTER (WHERE key_id <> %s), count(*) FROM tokens WHERE key_id IS NOT NULL",
            [ring.encrypting_id],
        ).fetchall()
    if older:
        return warn(f"{older} of {number(stored, 'token')} not yet under the first key", "symvanta keys rotate")
    return ok(f"{number(stored, 'token')}, all under key {ring.encrypting_id}")


def tokens() -> Verdict:
    """Decrypt each connected customer's token, and look when it was last refreshed."""
    oldest = datetime.now(UTC) - UNREFRESHED_AFTER
    unreadable, without, unrefreshed = list[str](), list[str](), list[str]()
    with reading() as connection:
        vault = Vault(connection, _ring())
        found: list[tuple[str, UUID, str | None, datetime | None]] = connection.execute(_CONNECTED).fetchall()
        for customer, organization_id, _, expires_at in found:
            if expires_at is None:
                without.append(customer)
            elif not _is_readable(vault, organization_id):
                unreadable.append(customer)
            elif expires_at < oldest:
                unrefreshed.append(customer)
    if unreadable:
        return fail(f"cannot be decrypted: {named(unreadable)}", "put the key back that they need, or reconnect them")
    if without:
        return fail(f"connected, and without a token: {named(without)}", "symvanta connect each of them again")
    if unrefreshed:
        return warn(
            f"not refreshed for over {UNREFRESHED_AFTER.days} days: {named(unrefreshed)}",
            "see why nothing runs for them: symvanta customers",
        )
    return ok(f"{number(len(found), 'connected customer')}, every token can be decrypted")


def scopes() -> Verdict:
    """Compare what each connected customer granted with what is needed."""
    with reading() as connection:
        granted = connection.execute(_CONNECTED).fetchall()
    lacking = {customer: missing_scopes(scope) for customer, _, scope, _ in granted if scope is not None}
    lacking = {customer: missing for customer, missing in lacking.items() if missing}
    if not lacking:
        return ok("every connected customer granted what is needed")
    scopes_lacked = sorted({scope for missing in lacking.values() for scope in missing})
    return warn(
        f"{number(len(lacking), 'customer')} did not grant {', '.join(scopes_lacked)}: {named(list(lacking))}",
        "reconnect them; if it stays so, look at the scopes of the application at Vanta",
    )


def states() -> Verdict:
    """Count the customers by state."""
    now = datetime.now(UTC)
    with reading() as connection:
        counted = Counter(status_of(record, now).state for record in customer_records(connection))
    if not counted:
        return ok("none was ever connected")
    told = ", ".join(f"{count} {state}" for state, count in sorted(counted.items()))
    troubled = sum(count for state, count in counted.items() if state not in AT_REST)
    return warn(told, "symvanta customers says what each of them needs") if troubled else ok(told)


def rate_budget() -> Verdict:
    """Compare the number of connected customers with what the budgets let through in an hour, and look for a pause."""
    settings = load(VantaSettings)
    # One token call is kept for people who connect. A customer costs one token call and one PUT an hour; reading back
    # spends only what is left.
    by_tokens = (settings.vanta_token_requests_per_minute - 1) * MINUTES
    by_puts = settings.vanta_resource_requests_per_minute * MINUTES
    with reading() as connection:
        [(connected, paused)] = connection.execute(
            """
            SELECT (SELECT count(*) FROM connections WHERE state = 'connected'),
                   (SELECT max(extract(epoch FROM paused_until - clock_timestamp()))::float8 FROM rate_budgets)
            """
        ).fetchall()
    fit = min(by_tokens, by_puts)
    told = f"{number(fit, 'customer')} fit into an hour, you have {connected}"
    if connected > fit:
        hours = -(-connected // fit)
        variable = "VANTA_TOKEN_REQUESTS_PER_MINUTE" if by_tokens <= by_puts else "VANTA_RESOURCE_REQUESTS_PER_MINUTE"
        return warn(
            f"{told}: a cycle takes up to {hours} hours", f"ask Vanta for a higher limit, then raise {variable}"
        )
    if paused and paused > 0:
        return warn(
            f"{told}; paused for {paused:.0f} s more, since Vanta answered 429", "wait; look who else calls Vanta"
        )
    return ok(told)


def _ring() -> KeyRing:
    return KeyRing(load(KeySettings).symvanta_token_keys.get_secret_value())


def _is_readable(vault: Vault, organization_id: UUID) -> bool:
    try:
        vault.load(organization_id)
    except TokenUnreadable:
        return False
    return True
