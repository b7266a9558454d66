"""What counts as a contradiction between what was sent and what Vanta lists."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symvanta_pipeline.accounts.proof import SEVERITIES, Listed, Proof, alive_ids, prove

SENT = pd.DataFrame(
    {"status": ["ACTIVE", "ACTIVE", "DEACTIVATED"], "level": ["ADMIN", "BASE", "BASE"]},
    index=pd.Index(["a", "b", "c"], name="unique_id"),
)
LIST = [
    Listed("a", "ACTIVE", "ADMIN", False),
    Listed("b", "ACTIVE", "BASE", False),
    Listed("c", "DEACTIVATED", "BASE", False),
]


def found(proof: Proof) -> dict[str, tuple[str, ...]]:
    return {finding.name: finding.unique_ids for finding in proof.findings}


def test_the_same_is_proved() -> None:
    assert prove(SENT, LIST) == Proof("proved", ())


def test_those_who_were_removed_are_listed_as_deleted_and_say_nothing() -> None:
    assert prove(SENT, [*LIST, Listed("z", "ACTIVE", "ADMIN", True)]) == Proof("proved", ())


@pytest.mark.parametrize(
    ("listed", "name", "ids", "verdict"),
    [
        (LIST[:2], "missing", ("c",), "contradicted"),
        ([*LIST[:2], Listed("c", "DEACTIVATED", "BASE", True)], "missing", ("c",), "contradicted"),
        ([*LIST[:2], Listed("c", "ACTIVE", "BASE", False)], "status", ("c",), "contradicted"),
        ([*LIST[1:], Listed("a", "ACTIVE", "BASE", False)], "level", ("a",), "contradicted"),
        ([*LIST, LIST[0]], "duplicate", ("a",), "proved"),
        ([*LIST, Listed("z", "ACTIVE", "ADMIN", False)], "never_sent", ("z",), "proved"),
        ([], "missing", ("a", "b", "c"), "contradicted"),
    ],
)
def test_each_difference_has_its_name(listed: list[Listed], name: str, ids: tuple[str, ...], verdict: str) -> None:
    proof = prove(SENT, listed)
    assert found(proof) == {name: ids}
    assert proof.verdict == verdict
    assert proof.findings[0].severity == SEVERITIES[name]


def test_one_good_record_does_not_hide_a_bad_twin() -> None:
    proof = prove(SENT, [*LIST, Listed("a", "DEACTIVATED", "ADMIN", False)])
    assert found(proof) == {"status": ("a",), "duplicate": ("a",)}
    assert proof.verdict == "contradicted"


def test_many_are_counted_and_some_are_shown() -> None:
    proof = prove(SENT, [*LIST, *(Listed(f"z{n}", "ACTIVE", "BASE", False) for n in range(9))])
    [finding] = proof.findings
    assert (finding.count, len(finding.unique_ids)) == (9, 5)
    assert str(finding) == "never_sent: 9 (z0, z1, z2, z3, z4 and 4 more)"


IDS = st.sampled_from("abcdef")
LISTED = st.builds(
    Listed, IDS, st.sampled_from(["ACTIVE", "DEACTIVATED"]), st.sampled_from(["ADMIN", "BASE"]), st.booleans()
)


def agree(listed: list[Listed], *, seen: list[Listed] | None = None) -> None:
    """See that "proved" means what it says of a list, or of what a proof that looks badly has seen of it."""
    alive = [account for account in listed if not account.is_deleted]
    as_sent = all(
        {(a.status, a.level) for a in alive if a.unique_id == unique_id} == {(row["status"], row["level"])}
        for unique_id, row in SENT.to_dict("index").items()
    )
    looked_at = listed if seen is None else seen
    assert (prove(SENT, looked_at).verdict == "proved") == as_sent
    assert alive_ids(looked_at) == {account.unique_id for account in alive}


@given(st.lists(LISTED) | st.permutations(LIST).flatmap(lambda same: st.lists(LISTED).map(lambda more: same + more)))
def test_proved_means_that_everybody_is_there_as_sent(listed: list[Listed]) -> None:
    agree(listed)


@pytest.mark.parametrize(
    ("listed", "seen"),
    [
        pytest.param(LIST[:2], LIST, id="who is missing"),
        pytest.param([*LIST[:2], Listed("c", "DEACTIVATED", "BASE", True)], LIST, id="who was removed"),
        pytest.param([*LIST[:2], Listed("c", "ACTIVE", "BASE", False)], LIST, id="a status"),
        pytest.param([*LIST[:2], Listed("c", "DEACTIVATED", "ADMIN", False)], LIST, id="a level"),
        pytest.param([*LIST, Listed("a", "DEACTIVATED", "ADMIN", False)], LIST, id="a bad twin"),
        pytest.param(LIST, LIST[:2], id="who is there"),
    ],
)
def test_a_proof_that_does_not_see_something_is_caught(listed: list[Listed], seen: list[Listed]) -> None:
    agree(listed)
    with pytest.raises(AssertionError):
        agree(listed, seen=seen)
