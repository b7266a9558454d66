import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from symvanta_pipeline.ledger.database import connect
from symvanta_pipeline.vanta.budget import Budget, RateBudgets, Statements, WouldWait

SCRIPT = Path(__file__).with_name("budget_process.py")
# Records every spend and every reservation beside the trimmed arrays, by the statements' own times.
JOURNAL = """
CREATE TABLE journal (id bigint GENERATED ALWAYS AS IDENTITY, name text, kind text, at timestamptz, pid int);
CREATE FUNCTION journal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.spent <> OLD.spent THEN
        INSERT INTO journal (name, kind, at, pid)
        VALUES (NEW.name, 'spent', NEW.spent[cardinality(NEW.spent)], pg_backend_pid());
    END IF;
    IF NEW.slots <> OLD.slots AND NEW.pauses = OLD.pauses THEN
        INSERT INTO journal (name, kind, at, pid)
        VALUES (NEW.name, 'slot', NEW.slots[cardinality(NEW.slots)], pg_backend_pid());
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER journal AFTER UPDATE ON rate_budgets FOR EACH ROW EXECUTE FUNCTION journal();
INSERT INTO rate_budgets (name) VALUES ('test'), ('token_background'), ('token_interactive'), ('resource');
"""


class Table:
    """The budgets' table with a journal, and budgets over it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = connect(url, application_name="budget test")
        self.connection.execute(JOURNAL.encode())
        self._opened: list[Statements] = []

    def budget(self, per_window: int, window: float, name: str = "test") -> Budget:
        """Give a budget over a connection of its own."""
        statements = Statements(lambda: connect(self.url, application_name="budget"))
        self._opened.append(statements)
        return Budget(statements, name, per_window, window=timedelta(seconds=window))

    def times(self, kind: str, name: str = "test") -> list[datetime]:
        """Give the recorded times of a kind in the order in which they were made."""
        rows = self.connection.execute("SELECT at FROM journal WHERE kind = %s AND name = %s ORDER BY id", [kind, name])
        return [row[0] for row in rows]

    def column(self, name: str) -> object:
        [(value,)] = self.connection.execute(f"SELECT {name} FROM rate_budgets WHERE name = 'test'".encode()).fetchall()
        return value

    def close(self) -> None:
        for statements in self._opened:
            statements.close()
        self.connection.close()


@pytest.fixture
def table(symvanta_url: str) -> Iterator[Table]:
    made = Table(symvanta_url)
    yield made
    made.close()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(symvanta_url: str) -> Iterator[Start]:
    """Start budget processes; whichever is left is killed."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: object) -> "subprocess.Popen[str]":
        command = [sys.executable, str(SCRIPT), symvanta_url, *map(str, arguments)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def excess(times: Sequence[datetime], per_window: int, window: float) -> list[tuple[datetime, datetime]]:
    """Find every stretch shorter than the window that holds more than the budget."""
    ordered = sorted(times)
    return [
        (first, last)
        for first, last in zip(ordered, ordered[per_window:], strict=False)
        if last - first < timedelta(seconds=window)
    ]


def test_the_checker_finds_one_request_too_many(table: Table) -> None:
    budget = table.budget(3, 0.5)
    for _ in range(7):
        budget.spend(budget.take())
    assert excess(table.times("spent"), 3, 0.5) == []
    for _ in range(3):
        table.connection.execute("UPDATE rate_budgets SET spent = spent || spent[cardinality(spent)]")
    assert len(table.times("spent")) == 10
    assert excess(table.times("spent"), 3, 0.5)


@pytest.mark.parametrize("longest_stall", [0.0, 0.4])
def test_processes_together_never_exceed_the_budget(table: Table, start: Start, longest_stall: float) -> None:
    processes = [start("test", 5, 0.5, 6, longest_stall, 2) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    spent = table.times("spent")
    assert len(spent) == 24
    assert len({row[0] for row in table.connection.execute("SELECT pid FROM journal")}) >= 4
    assert excess(spent, 5, 0.5) == []
    assert table.column("cardinality(spent)") == table.column("cardinality(slots)") == 5


def test_processes_that_disagree_about_the_budget_stay_within_the_larger(table: Table, start: Start) -> None:
    processes = [start("test", n, 0.4, 4, 0.3, 2) for n in (2, 4, 2, 4)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]
    spent = table.times("spent")
    assert len(spent) == 16
    assert excess(spent, 4, 0.4) == []


def test_first_come_first_served(table: Table) -> None:
    served: list[int] = []
    threads = []
    for number in range(6):
        budget = table.budget(1, 0.4)

        def request(budget: Budget = budget, number: int = number) -> None:
            budget.spend(budget.take())
            served.append(number)

        threads.append(threading.Thread(target=request))
        threads[-1].start()
        deadline = time.monotonic() + 20
        while len(table.times("slot")) <= number and time.monotonic() < deadline:
            time.sleep(0.005)
    for thread in threads:
        thread.join(timeout=30)
    assert served == list(range(6))
    slots = table.times("slot")
    assert all(later - earlier >= timedelta(seconds=0.4) for earlier, later in pairwise(slots))


def test_a_larger_budget_does_not_overtake_what_a_smaller_one_reserved(table: Table) -> None:
    table.connection.execute("UPDATE rate_budgets SET slots = ARRAY[clock_timestamp() + interval '1h']")
    assert table.budget(5, 10).wait_seconds() > 3000


def test_a_stalled_slot_is_good_later_but_only_within_the_budget(table: Table) -> None:
    stalled, other = table.budget(2, 0.6), table.budget(2, 0.6)
    slot = stalled.take()
    for _ in range(3):
        other.spend(other.take())
    stalled.spend(slot)
    assert len(table.times("spent")) == 4
    assert excess(table.times("spent"), 2, 0.6) == []


def test_a_slot_that_is_never_used_costs_its_time_and_no_more(table: Table) -> None:
    budget = table.budget(2, 0.5)
    for _ in range(2):
        budget.take()
    assert 0 < budget.wait_seconds() <= 0.5
    budget.spend(budget.take())
    assert len(table.times("spent")) == 1


def test_waiting_is_told(table: Table) -> None:
    budget = table.budget(1, 0.4)
    first = budget.take()
    assert first.waited == 0
    assert budget.spend(first) == 0
    second = budget.take()
    assert second.waited > 0.2
    table.connection.execute("UPDATE rate_budgets SET spent = ARRAY[clock_timestamp()]")
    assert budget.spend(second) > 0.2


def test_nothing_is_reserved_beyond_the_longest_wait(table: Table) -> None:
    budget = table.budget(1, 30)
    assert budget.wait_seconds() == 0
    slot = budget.take(max_wait=0)
    before = table.column("slots")
    with pytest.raises(WouldWait, match=r"nothing free for \d+\.\d s") as caught:
        budget.take(max_wait=5)
    assert 25 < caught.value.seconds <= 30
    assert table.column("slots") == before
    assert 25 < budget.wait_seconds() <= 30
    assert budget.spend(slot, max_wait=0) == 0


def test_spending_waits_no_longer_than_allowed_and_the_slot_stays_good(table: Table) -> None:
    budget = table.budget(1, 1.0)
    slot = budget.take()
    table.connection.execute("UPDATE rate_budgets SET spent = ARRAY[clock_timestamp()]")
    with pytest.raises(WouldWait) as caught:
        budget.spend(slot, max_wait=0.1)
    assert 0.5 < caught.value.seconds <= 1.0
    assert len(table.times("spent")) == 1  # the planted one
    budget.spend(slot, max_wait=5)
    assert excess(table.times("spent"), 1, 1.0) == []


def test_a_pause_stops_those_who_hold_a_slot_and_those_who_wait(table: Table) -> None:
    held, waiting = table.budget(1, 0.5), table.budget(1, 0.5)
    slot = held.take()
    thread = threading.Thread(target=lambda: waiting.spend(waiting.take()))
    thread.start()
    deadline = time.monotonic() + 20
    while len(table.times("slot")) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    table.budget(1, 0.5).pause(1.5)
    until = table.column("paused_until")
    assert isinstance(until, datetime)
    assert table.column("pauses") == 1
    assert 1 < held.wait_seconds() <= 1.5
    assert held.spend(slot) > 1
    thread.join(timeout=30)
    spent = table.times("spent")
    assert len(spent) == 2
    assert min(spent) >= until
    assert excess(spent, 1, 0.5) == []


def test_a_slot_from_before_a_pause_is_reserved_anew_after_it(table: Table) -> None:
    budget = table.budget(5, 0.5)
    slot = budget.take()
    budget.pause(0.1)
    time.sleep(0.2)
    budget.spend(slot)
    assert len(table.times("slot")) == 2
    assert len(table.times("spent")) == 1


def test_a_pause_drops_reservations_to_come_and_keeps_the_longest(table: Table) -> None:
    table.connection.execute(
        "UPDATE rate_budgets SET slots = ARRAY[clock_timestamp() - interval '1s', clock_timestamp() + interval '1h']"
    )
    budget = table.budget(2, 10)
    budget.pause(60)
    longest = table.column("paused_until")
    budget.pause(1)
    assert (table.column("pauses"), table.column("paused_until")) == (2, longest)
    assert table.column("cardinality(slots)") == 1
    assert 50 < budget.wait_seconds() <= 60


def test_a_pause_within_the_wait_allowed_for_spending(table: Table) -> None:
    budget = table.budget(5, 1)
    slot = budget.take()
    budget.pause(60)
    with pytest.raises(WouldWait) as caught:
        budget.spend(slot, max_wait=30)
    assert 50 < caught.value.seconds <= 60
    assert table.times("spent") == []


def test_a_budget_that_is_not_there_yet_is_made(table: Table) -> None:
    table.connection.execute("DELETE FROM rate_budgets")
    budget = table.budget(1, 0.3)
    assert budget.wait_seconds() == 0
    slot = budget.take()
    budget.spend(slot)
    table.connection.execute("DELETE FROM rate_budgets")
    budget.spend(slot)  # reserves anew
    table.connection.execute("DELETE FROM rate_budgets")
    budget.pause(0.3)
    assert budget.wait_seconds() > 0


def test_waiters_hold_no_transaction(table: Table) -> None:
    budget = table.budget(1, 1.0)
    budget.take()
    thread = threading.Thread(target=budget.take)
    thread.start()
    deadline = time.monotonic() + 20
    while len(table.times("slot")) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    states = table.connection.execute(
        "SELECT DISTINCT state, xact_start FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'budget'"
    ).fetchall()
    assert thread.is_alive()
    assert states == [("idle", None)]
    thread.join(timeout=30)


def test_a_cut_connection_is_replaced(table: Table) -> None:
    budget = table.budget(2, 0.5)
    for _ in range(4):
        slot = budget.take()
        ended = table.connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'budget'"
        ).fetchall()
        assert ended == [(True,)]
        budget.spend(slot)
    assert len(table.times("spent")) == 4
    assert excess(table.times("spent"), 2, 0.5) == []


def test_a_refusal_of_the_database_is_not_hidden(table: Table) -> None:
    budget = table.budget(1, 1)
    table.connection.execute("ALTER TABLE rate_budgets RENAME TO elsewhere")
    with pytest.raises(psycopg.errors.UndefinedTable):
        budget.take()


def bundle(table: Table, token_per_minute: int, window: float) -> RateBudgets:
    return RateBudgets(
        lambda: connect(table.url, application_name="budget"),
        token_per_minute=token_per_minute,
        resource_per_minute=20,
        window=timedelta(seconds=window),
    )


def test_a_person_is_not_starved_by_queued_runs(table: Table, start: Start) -> None:
    start("token_background", 1, 30, 50, 0, 50)
    with bundle(table, 2, 30) as budgets:
        deadline = time.monotonic() + 30
        while len(table.times("slot", "token_background")) < 50 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert budgets.token_background.wait_seconds() > 49 * 30 - 60
        slot = budgets.token_interactive.take(max_wait=0)
        assert budgets.token_interactive.spend(slot, max_wait=0) == 0
        assert 25 < budgets.token_interactive.wait_seconds() <= 30
    assert len(table.times("spent", "token_interactive")) == 1


def test_a_person_uses_whichever_is_free_earlier(table: Table) -> None:
    with bundle(table, 3, 30) as budgets:
        names = []
        for _ in range(3):
            slot = budgets.token_interactive.take(max_wait=0)
            budgets.token_interactive.spend(slot, max_wait=0)
            names.append(slot.name)
        assert names == ["token_interactive", "token_background", "token_background"]
        with pytest.raises(WouldWait):
            budgets.token_interactive.take(max_wait=0)
        assert 25 < budgets.token_background.wait_seconds() <= 30


def test_runs_leave_a_persons_slot_alone(table: Table) -> None:
    with bundle(table, 5, 30) as budgets:
        for _ in range(4):
            budgets.token_background.spend(budgets.token_background.take(max_wait=0))
        with pytest.raises(WouldWait):
            budgets.token_background.take(max_wait=0)
        assert budgets.token_interactive.take(max_wait=0).name == "token_interactive"


@pytest.mark.parametrize("who", ["token_background", "token_interactive"])
def test_a_429_at_the_token_endpoint_pauses_both_and_nothing_else(table: Table, who: str) -> None:
    with bundle(table, 5, 30) as budgets:
        getattr(budgets, who).pause(60)
        assert budgets.token_background.wait_seconds() > 50
        assert budgets.token_interactive.wait_seconds() > 50
        assert budgets.resource.wait_seconds() == 0
        budgets.resource.pause(60)
        assert budgets.resource.wait_seconds() > 50


def test_a_budget_too_small_to_be_divided_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        bundle(table, 1, 30)
    with pytest.raises(ValueError, match="at least one"):
        table.budget(0, 30)


def test_nothing_is_opened_before_it_is_needed() -> None:
    def never() -> psycopg.Connection:
        raise AssertionError("opened")

    with RateBudgets(never, token_per_minute=5, resource_per_minute=20):
        pass
