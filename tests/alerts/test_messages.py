"""What messages say, and the form that each target gives them."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symvanta_pipeline.alerts import rendering
from symvanta_pipeline.alerts.changes import Change, Word
from symvanta_pipeline.alerts.messages import RUNBOOK, Affected, Links, Message, Trouble, message_of
from symvanta_pipeline.ledger.alerts import Announced
from symvanta_pipeline.ledger.status import CustomerRecord

ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
LINKS = Links("https://dagster.example", "docs/runbook.md")
WORDS = get_args(Word)


def change(
    name: str = "acme", state: Word = "held", *, sentence: str = "rule email broken by 1", **more: Any
) -> Change:
    organization = UUID(int=abs(hash(name)) % 2**64)
    announced = Announced(organization, state, "lost", NOON, ["held lost"], relapsed=False, at=NOON)
    given = {
        "record": CustomerRecord(name, organization, "connected", NOON, sentence=sentence),
        "state": state,
        "kind": "lost",
        "since": NOON,
        "ripe_at": NOON,
        "next_step": f"Nothing was sent ({sentence}): correct it in Sym.",
        "run_id": "5ef1c1d2",
        "before": None,
        "announces": announced,
    }
    return Change(**(given | more))


def message(*changes: Change, links: Links = LINKS) -> Message:
    return message_of(changes or [change()], links, connected=240, now=NOON + timedelta(minutes=5))


def test_it_says_what_happened_since_when_what_to_do_and_where_to_look() -> None:
    told = message()
    [acme] = told.customers
    assert told.title == "1 of 240 customers held (lost): nothing was sent of them; Vanta keeps what it accepted last"
    assert told.runbook == "docs/runbook.md#held"
    assert (acme.customer, acme.since, acme.before, acme.again) == ("acme", NOON, None, False)
    assert (acme.what, acme.next_step) == (
        "rule email broken by 1",
        "Nothing was sent (rule email broken by 1): correct it in Sym.",
    )
    assert acme.run == "https://dagster.example/runs/5ef1c1d2"
    assert acme.partition == ("https://dagster.example/assets/vanta/user_account_sync?view=partitions&partition=acme")


def test_a_recovery_says_what_it_is_the_end_of() -> None:
    before = Announced(UUID(int=1), "held", "lost", NOON - timedelta(hours=2), ["held lost"], relapsed=False, at=NOON)
    told = message(change(state="recovered", kind="", before=before))
    assert told.title == "1 of 240 customers recovered: Vanta has accepted a push since"
    assert told.customers[0].before == Trouble(state="held", kind="lost", since=NOON - timedelta(hours=2))
    assert "acme since 2026-06-01 12:00 UTC: Announced before: held (lost) since 2026-06-01 10:00 UTC. " in (
        rendering.line(told)
    )


def test_a_relapse_says_so() -> None:
    again = Announced(UUID(int=1), "held", "lost", NOON, ["held lost"], relapsed=True, at=NOON)
    told = message(change(announces=again))
    assert told.customers[0].again
    assert "Again, within a day. Nothing was sent" in rendering.line(told)


def test_every_state_leads_to_a_heading_of_the_runbook() -> None:
    headings = {anchor(line) for line in (ROOT / "docs/runbook.md").read_text().splitlines() if line.startswith("#")}
    assert set(RUNBOOK) == set(WORDS)
    assert set(RUNBOOK.values()) <= headings
    assert anchor("## A heading, with signs!") == "a-heading-with-signs"


def anchor(heading: str) -> str:
    """Return what a heading is linked by on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


def test_customers_of_whom_the_same_is_said_stand_together() -> None:
    told = message(*[change(f"c{n}", next_step="Vanta is away.") for n in range(4)], change("other", next_step="Else."))
    assert "c0, c1, c2, c3 since 2026-06-01 12:00 UTC: Vanta is away. | other since" in rendering.line(told)
    sections = [block["text"]["text"] for block in rendering.slack(told)["blocks"] if block["type"] == "section"]
    assert len(sections) == 3


def test_each_run_is_led_to_once() -> None:
    """Guards against a link to the first customer's run for all of whom the same is said."""
    told = message(*[change(f"c{n}", run_id=f"run-{n % 3}", next_step="Vanta is away.") for n in range(6)])
    [section] = [b["text"]["text"] for b in rendering.slack(told)["blocks"] if "Vanta is away" in str(b)]
    links = [f"<https://dagster.example/runs/run-{n}|run {n + 1}>" for n in range(3)]
    assert f" · {', '.join(links)}\n" in section
    assert " | https://dagster.example/runs/run-0, https://dagster.example/runs/run-1, " in rendering.line(told)
    [alone] = [b["text"]["text"] for b in rendering.slack(message())["blocks"] if "correct it" in str(b)]
    assert " · <https://dagster.example/runs/5ef1c1d2|run>\n" in alone
    without = message(change(run_id=None))
    assert "/runs/" not in json.dumps(rendering.slack(without)) + rendering.line(without)


def test_of_many_runs_the_first_are_led_to_also_where_there_is_much_to_say() -> None:
    many = message(*[change(f"c{n:02}", run_id=f"run-{n:02}", sentence=f"{n} " * 200) for n in range(50)])
    line = rendering.line(many)
    assert "https://dagster.example/runs/run-04 and 45 more | docs/runbook.md#held | alert " in line
    assert len(line) <= rendering.LONGEST_LINE


@pytest.mark.parametrize("length", [10, 200, 3000])
def test_a_long_address_of_dagster_breaks_no_limit(length: int) -> None:
    """Guards against a paragraph whose links alone are longer than Slack takes: it was never done."""
    links = Links(f"https://{'d' * length}.example", "docs/runbook.md")
    told = message(
        *[change(f"customer-{n:02}", run_id=f"run-{n}", next_step="Vanta is away.") for n in range(40)], links=links
    )
    assert broken_limits(rendering.slack(told)) == []
    assert "Vanta is away" in json.dumps(rendering.slack(told))
    assert len(rendering.line(told)) <= rendering.LONGEST_LINE


def test_the_json_is_what_is_written_in_the_docs() -> None:
    """Keys that others rely on: they are added to, never renamed."""
    [example] = re.findall(r"```json\n(.*?)```", (ROOT / "docs/alerts.md").read_text(), flags=re.DOTALL)
    shown = json.loads(example)
    sent = rendering.webhook(message())
    assert list(shown) == list(sent)
    assert list(shown["customers"][0]) == list(sent["customers"][0])
    assert Message.model_validate(shown).version == 1
    assert json.loads(json.dumps(sent))["at"] == "2026-06-01T12:05:00Z"


def test_a_message_from_another_version_can_still_be_read() -> None:
    stored = rendering.webhook(message())
    told = message()
    assert Message.model_validate(stored | {"added_later": 1}).title == told.title


def test_a_repetition_says_so_everywhere() -> None:
    told = message()
    again = told.model_copy(update={"repeated": True})
    assert rendering.webhook(again)["repeated"] is True
    for text in (json.dumps(rendering.slack(again)), rendering.line(again)):
        assert rendering.REPEATED in text
    for text in (json.dumps(rendering.slack(told)), rendering.line(told)):
        assert rendering.REPEATED not in text


def test_a_thousand_customers_are_one_message_that_slack_takes() -> None:
    told = message(*[change(f"customer-{n}", sentence=f"rule number {n} & more") for n in range(1000)])
    assert len(told.customers) == 1000
    assert broken_limits(rendering.slack(told)) == []
    assert "and 985 more: `symvanta customers`" in json.dumps(rendering.slack(told))
    assert len(rendering.line(told)) <= rendering.LONGEST_LINE


def broken_limits(content: dict[str, Any]) -> list[str]:
    """List which of Slack's documented limits a message breaks."""
    broken = [] if 0 < len(content["blocks"]) <= 50 else ["blocks"]
    broken += [] if len(content["text"]) <= 40_000 else ["text"]
    for block in content["blocks"]:
        texts = [block["text"]] if block["type"] == "section" else block["elements"]
        longest = 3000 if block["type"] == "section" else 2000
        broken += [block["type"] for text in texts if not 0 < len(text["text"]) <= longest]
    return broken


def test_a_broken_limit_would_be_seen() -> None:
    section = {"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}
    assert broken_limits({"text": "", "blocks": [section]}) == ["section"]
    assert broken_limits({"text": "", "blocks": []}) == ["blocks"]


# What mrkdwn would make a mention, a link or a date of; our own links lead to the bases of LINKS.
MARKUP = re.compile(r"<(?!https://dagster\.example[^|>]*\|[^>]*>)")
nasty = st.text(st.sampled_from("<>&|@!#`*_~\\\"' \n\0é\u2028aA1:/.-"), max_size=60)


@given(sentence=nasty, state=st.sampled_from(WORDS))
def test_no_text_becomes_markup_or_breaks_the_json(sentence: str, state: Word) -> None:
    told = message(change(state=state, sentence=sentence, next_step=sentence))
    for text in texts(rendering.slack(told)):
        assert not MARKUP.search(text), text
        assert not re.search(r"&(?!amp;|lt;|gt;)", text), text
    assert "\n" not in rendering.line(told)
    assert json.loads(json.dumps(rendering.webhook(told)))["state"] == state


def test_markup_would_be_seen() -> None:
    for text in ("<!channel>", "<@U123>", "<https://evil.example|dagster>", "&lt;<"):
        assert MARKUP.search(text)
    assert not MARKUP.search("<https://dagster.example/runs/1|run>")


def texts(content: dict[str, Any]) -> Iterator[str]:
    yield content["text"]
    for block in content["blocks"]:
        yield from [block["text"]["text"]] if block["type"] == "section" else [e["text"] for e in block["elements"]]


@settings(max_examples=50)
@given(st.text(max_size=5000))
def test_whatever_is_said_slack_takes(sentence: str) -> None:
    assert broken_limits(rendering.slack(message(change(next_step=sentence)))) == []


@pytest.mark.parametrize("text", ["ann@customer.example", "see <ann@customer.example>!", "a@b", "@"])
@pytest.mark.parametrize("state", WORDS)
def test_no_address_is_said(text: str, state: Word) -> None:
    record = CustomerRecord("acme", UUID(int=1), "parked", NOON, sentence=text, parked_reason=f"by {text}")
    told = message(change(state=state, record=record, next_step=f"ask {text} now"))
    for said in (json.dumps(rendering.slack(told)), rendering.line(told), json.dumps(rendering.webhook(told))):
        assert "@" not in said
        assert "(address removed)" in said


def test_a_slug_is_quoted_in_a_link() -> None:
    assert LINKS.partition("a~b._-c").endswith("partition=a~b._-c")
    assert LINKS.partition("a&b").endswith("partition=a%26b")


def test_a_customer_has_no_field_for_a_name() -> None:
    assert set(Affected.model_fields) == {
        "customer",
        "organization_id",
        "since",
        "before",
        "again",
        "what",
        "next_step",
        "run",
        "partition",
    }
