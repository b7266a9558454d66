"""How a customer's connection stands, in the words of its own admin. Pure: no database, no clock.

Belongs here: which of the few cases it is, and what the person reads. Does not belong here: HTML (``pages``), the
operator's view of the same (``ledger.status``).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from symvanta_pipeline.ledger.status import CustomerRecord, status_of

Kind = Literal["none", "syncing", "good", "trouble", "ended"]

SLOW_AFTER = timedelta(minutes=10)  # a first sync takes seconds; beyond this nobody should wait in front of a page
BROKEN_RULE = "rule "  # how a sentence begins that a customer can do something about; others are for operators
NEWS_FOR = timedelta(hours=1)  # how long the first sync is the news


@dataclass(frozen=True)
class Standing:
    """What a page says of a connection.

    Attributes:
        kind: of sign: nothing yet, under way, good, trouble, ended.
        title: the state in a few words.
        text: what it means, and what to do next.
        follows: whether the page looks again by itself.
        is_connected: whether disconnecting makes sense.
    """

    kind: Kind
    title: str
    text: str
    follows: bool = False
    is_connected: bool = True


# Somebody's step on the connection is under way, in another tab or by another person.
CHANGING = Standing(
    "syncing",
    "The connection is being changed",
    "Somebody is connecting or disconnecting it at this very moment. This takes seconds, a minute at most.",
    follows=True,
    is_connected=False,
)


def standing_of(record: CustomerRecord | None, now: datetime) -> Standing:
    """Judge one connection; None is an organization that never had one."""
    if record is None:
        return Standing(
            "none",
            "Not connected",
            "Connect Vanta, and Sym tells it every hour who your Sym users are: who has access, at which level, how "
            "they log in, and who has left.",
            is_connected=False,
        )
    state = status_of(record, now).state
    if state == "disconnected":
        return Standing(
            "ended",
            "Disconnected",
            "Sym sends nothing to Vanta any more. What Vanta already knows stays there until you remove it in Vanta.",
            is_connected=False,
        )
    if state == "parked":
        return Standing(
            "trouble",
            "Vanta no longer accepts the connection",
            "Somebody may have removed Sym in Vanta. Nothing is sent until you reconnect.",
        )
    if not record.is_tried:
        return _before_first_sync(record, now)
    return _connected(state, record, now)


def _before_first_sync(record: CustomerRecord, now: datetime) -> Standing:
    if now - record.connected_at < SLOW_AFTER:
        text = "This takes less than a minute as a rule, and goes on by itself when you close this page."
        return Standing("syncing", "Connected: first sync is running", text, follows=True)
    text = "Nothing is lost and nothing is left to do for you: it goes on by itself, and Sym's team sees it too."
    return Standing("syncing", "Connected: the first sync takes longer than usual", text)


def _connected(state: str, record: CustomerRecord, now: datetime) -> Standing:
    if state == "held":
        return Standing("trouble", "Connected: the sync is on hold", _held_text(record))
    if state == "failing" and record.needs_reconnect:
        return Standing(
            "trouble",
            "Connected, but the permission is not enough any more",
            "Nothing is sent until you reconnect; Vanta keeps what it was sent before.",
        )
    is_accepted = record.last_accepted_at is not None and record.last_accepted_at >= record.connected_at
    if state in ("failing", "late") or not is_accepted:
        return Standing(
            "trouble",
            "Connected: the last sync did not get through",
            "Vanta keeps what it was sent before. Sym tries again every hour and Sym's team sees it too; there is "
            "nothing to do for you.",
        )
    title = "Connected: first sync accepted" if now - record.connected_at < NEWS_FOR else "Connected"
    return Standing("good", title, "Vanta has your Sym users, and is told again every hour. Nothing to do.")


def _held_text(record: CustomerRecord) -> str:
    reason = (record.sentence or "").rstrip(". ")
    if reason.startswith(BROKEN_RULE):
        return (
            f"Sym found something that it does not send unseen: {reason}. Vanta keeps what it was sent before. Correct "
            "it in Sym, or ask Sym's team; it is tried again every hour."
        )
    return "Vanta keeps what it was sent before. Sym's team has to look at it first, and sees it too; please ask them."


def shown_time(moment: datetime | None) -> str | None:
    """Return a time as it stands on a page."""
    return f"{moment.astimezone(UTC):%-d %B %Y, %H:%M} UTC" if moment else None
