"""The form that each target gives a message. Pure: no HTTP.

Belongs here: markup, its escaping, the limits of size. Does not belong here: words (``messages``), sending
(``targets``).

Slack's rules [documented at api.slack.com]: ``&``, ``<`` and ``>`` are escaped in mrkdwn, so that no text can make a
link or a mention; a section holds up to 3,000 characters, a message up to 50 blocks.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Final

from symvanta_pipeline.alerts.messages import Affected, Message, utc

MOST_ENTRIES: Final = 15  # sections of a Slack message that tell of customers
MOST_NAMES: Final = 20  # customers that one entry names
MOST_RUNS: Final = 5  # runs that one entry, or a log's line, leads to
LONGEST_LINKS: Final = 1200  # characters of the links to customers, and of those to runs, in one section
LONGEST_SECTION: Final = 2900  # characters, escaped
LONGEST_LINE: Final = 8000  # characters

REPEATED: Final = "Possibly a repetition: an earlier attempt to send this was cut off before its answer came."
_SIGN: Final = {"recovered": ":white_check_mark:", "disconnected": ":white_check_mark:"}


def slack(message: Message) -> dict[str, Any]:
    """Return the JSON of Slack's incoming webhooks; ``text`` is what notifications and simpler receivers show."""
    sign = _SIGN.get(message.state, ":warning:")
    blocks = [_section(f"{sign} *{escaped(message.title)}*")]
    if message.repeated:
        blocks.append(_section(f"_{REPEATED}_"))
    blocks += [_section(text) for text in _entries_in_mrkdwn(message)]
    foot = f"{_link(message.runbook, 'Runbook')} · {utc(message.at)} · {message.id}"
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": foot}]})
    names = _cut(", ".join(affected.customer for affected in message.customers), LONGEST_SECTION)
    note = f" ({REPEATED})" if message.repeated else ""
    return {"text": escaped(f"{message.title}: {names}{note}"), "blocks": blocks, "unfurl_links": False}


def webhook(message: Message) -> dict[str, Any]:
    """Return the JSON for everybody else: the message as it is, all customers included."""
    return message.model_dump(mode="json")


def line(message: Message) -> str:
    """Return one line for a log."""
    told = [f"{_names(group)}: {text}" for text, group in _by_text(message).items()]
    note = f" {REPEATED}" if message.repeated else ""
    runs = _runs(message.customers)
    led_to = f" | {', '.join(runs[:MOST_RUNS])}{_and_more(len(runs) - MOST_RUNS)}" if runs else ""
    foot = f"{led_to} | {message.runbook} | alert {message.id}.{note}"
    text = _cut(" ".join(f"{message.title}. {' | '.join(told)}".split()), max(0, LONGEST_LINE - len(foot)))
    return _cut(" ".join(f"{text}{foot}".split()), LONGEST_LINE)


def escaped(text: str) -> str:
    """Return a text that Slack's mrkdwn shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _entries_in_mrkdwn(message: Message) -> Iterator[str]:
    by_text = list(_by_text(message).items())
    for text, group in by_text[:MOST_ENTRIES]:
        names = _that_fit([_link(affected.partition, affected.customer) for affected in group[:MOST_NAMES]])
        runs = _runs(group)
        labels = ["run"] if len(runs) == 1 else [f"run {number + 1}" for number in range(MOST_RUNS)]
        links = _that_fit([_link(run, label) for run, label in zip(runs, labels, strict=False)])
        led_to = f" · {', '.join(links)}{_and_more(len(runs) - len(links))}" if links else ""
        head = f"{', '.join(names)}{_and_more(len(group) - len(names))} {_since(group)}{led_to}\n"
        yield head + _escaped_within(text, LONGEST_SECTION - len(head))
    if more := sum(len(group) for _, group in by_text[MOST_ENTRIES:]):
        yield f"and {more} more: `symvanta customers`"


def _runs(customers: Sequence[Affected]) -> list[str]:
    """List the runs of the latest attempts, each once: customers of whom the same is said may come from several."""
    return list(dict.fromkeys(affected.run for affected in customers if affected.run))


def _that_fit(links: Sequence[str]) -> list[str]:
    """Return the first links, as many as leave room for what is said: each is as long as Dagster's address makes it."""
    ends = accumulate(len(link) + 2 for link in links)
    return [link for link, end in zip(links, ends, strict=True) if end <= LONGEST_LINKS]


def _by_text(message: Message) -> dict[str, list[Affected]]:
    """Gather the customers of whom the same is said."""
    found: dict[str, list[Affected]] = {}
    for affected in message.customers:
        found.setdefault(_text(message, affected), []).append(affected)
    return found


def _text(message: Message, affected: Affected) -> str:
    again = "Again, within a day. " if affected.again else ""
    if affected.before is None:
        return f"{again}{affected.next_step}"
    kind = f" ({affected.before.kind})" if affected.before.kind else ""
    was = f"Announced before: {affected.before.state}{kind} since {utc(affected.before.since)}. "
    return was + (affected.what + "." if message.state in _SIGN else affected.next_step)


def _names(group: list[Affected]) -> str:
    return f"{', '.join(a.customer for a in group[:MOST_NAMES])}{_and_more(len(group) - MOST_NAMES)} {_since(group)}"


def _and_more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _since(group: list[Affected]) -> str:
    first, last = min(a.since for a in group), max(a.since for a in group)
    return f"since {utc(first)}" if utc(first) == utc(last) else f"since {utc(first)} to {utc(last)}"


def _link(url: str, label: str) -> str:
    """Return a link; a path in the project stays a path."""
    if not url.startswith(("https://", "http://")):
        return f"`{escaped(url)}`"
    return f"<{escaped(url).replace('|', '%7C')}|{escaped(label)}>"


def _escaped_within(text: str, longest: int) -> str:
    """Cut before escaping shows, so that no entity is cut in two."""
    while len(escaped(text)) > longest:
        text = _cut(text, len(text) - max(1, (len(escaped(text)) - longest) // 5))
    return escaped(text)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: max(longest - 1, 0)]}…"


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}
