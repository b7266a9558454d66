"""That nothing which says why or what names a person is watched by every test of this folder; here is the watch."""

from tests.brakes.world import World, named_in_ledger

PLANTED = [
    "UPDATE outcomes SET sentence = 'held by Canary Person'",
    "UPDATE approvals SET reason = 'told by canary00001@acme.example'",
    'UPDATE proofs SET findings = \'[{"unique_ids": ["canary"]}]\'',
    "UPDATE account_changes SET unique_id = 'canary' WHERE id = (SELECT max(id) FROM account_changes)",
    "UPDATE audit_events SET detail = 'vat_' || repeat('x', 43)",
]


def test_the_watch_over_the_ledger_catches_a_name_an_address_and_a_token(world: World) -> None:
    company = world.company(members=25).pushed()
    company.leave(6)
    company.approve(company.push())
    company.pushed()
    ledger = world.parts.ledger
    assert named_in_ledger(ledger) == {}
    for statement in PLANTED:
        with ledger.transaction(force_rollback=True):
            assert world.tamper(statement) > 0
            [table] = named_in_ledger(ledger)
            assert table in statement
    assert named_in_ledger(ledger) == {}
