"""Real runs that come to grief over people with names: what is said of them names nobody."""

from symvanta_pipeline.alerts.delivery import look
from symvanta_pipeline.ledger.live_connection import LiveConnection
from tests.alerts.receiver import Receiver
from tests.alerts.worker import targets_of
from tests.alerts.world import LINKS, World
from tests.support.leaks import Canaries, find_leaks, tables, text
from tests.support.parts import CLIENT_SECRET, Parts


def test_whoever_is_in_the_way_is_named_nowhere(parts: Parts, receiver: Receiver) -> None:
    rule, brake, refused = parts.customer("rule"), parts.customer("brake", people=9), parts.customer("refused")
    parts.person(rule, email=None)
    parts.vanta.fault("put", "status", tenant=str(refused), status=400)
    parts.bystanders(40)
    parts.run("rule", "brake", "refused")
    parts.sym.execute("UPDATE users SET deactivated_at = now() WHERE organization_id = %s", brake)
    parts.run("brake")
    World(parts.ledger_url, parts.ledger).pass_time(minutes=6)
    lines: list[str] = []
    with LiveConnection(parts.ledger_url) as live:
        look(live, targets_of(receiver.url, lines.append), LINKS)

    told = {got.content["customers"][0]["customer"]: got.content["kind"] for got in receiver.at("/webhook")}
    assert told == {"rule": "rule email", "brake": "nobody_active", "refused": "BodyRefused"}
    people = parts.sym.connection.execute("SELECT name, email FROM users").fetchall()
    canaries = Canaries(
        {
            "name": {name for name, _ in people},
            "e-mail": {email for _, email in people if email},
            "client secret": [CLIENT_SECRET],
        }
    )
    said = [*lines, *(got.text for got in receiver.got)]
    assert len(said) == 9
    assert find_leaks(canaries, [*text("a message", *said), *tables(parts.ledger_url)]) == []
    assert find_leaks(canaries, text("a planted message", f"ask {people[0][1]}"))
