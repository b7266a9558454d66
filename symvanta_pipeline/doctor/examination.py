"""Going through all checks at once, each on its own, and never for long.

Belongs here: the order in which checks are told, what each needs, their time, and what an error in one means. Does not
belong here: what any of them looks at (the modules beside this one).
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Final

from symvanta_pipeline.doctor import customers, instance, ledger, machine, network, source
from symvanta_pipeline.doctor.verdict import Verdict, fail, skipped
from symvanta_pipeline.settings import SettingsError
from symvanta_pipeline.unforeseen import place_of

# Of a sentence of `settings`, all but what the variable should hold: "settings" and "login settings" say that.
_PROBLEM: Final = re.compile(r"[A-Z][A-Z_]+ is (?:not set|malformed)")

LONGEST: Final = 20.0  # seconds for all of them together, whatever hangs


class NotWell(Exception):
    """Some checks failed; the text names them."""


@dataclass(frozen=True)
class Check:
    """One thing to look at.

    Attributes:
        name: what it is called, also by those that need it.
        look: looks, within some seconds; changes nothing.
        needs: checks that must not have failed, or looking would only tell of the same trouble again.
    """

    name: str
    look: Callable[[], Verdict]
    needs: tuple[str, ...] = ()


CHECKS: Final = (
    Check("settings", machine.settings),
    Check("login settings", machine.login_settings),
    Check("sym database", source.reachable),
    Check("sym tables", source.readable, ("sym database",)),
    Check("sym role", source.role, ("sym database",)),
    Check("sym index", source.index, ("sym tables",)),
    Check("own database", ledger.reachable),
    Check("own tables", ledger.tables, ("own database",)),
    Check("own role", ledger.role, ("own tables",)),
    Check("own connection", ledger.direct, ("own database",)),
    Check("dagster.yaml", instance.configuration),
    Check("dagster database", instance.database),
    Check("dagster role", instance.role, ("dagster database",)),
    Check("dagster daemon", instance.daemon, ("dagster.yaml", "dagster database")),
    Check("schedules", instance.schedules, ("dagster daemon",)),
    Check("queue", instance.queue, ("dagster.yaml", "dagster database")),
    Check("keys", customers.keys, ("own tables",)),
    Check("tokens", customers.tokens, ("keys",)),
    Check("scopes", customers.scopes, ("own tables",)),
    Check("customers", customers.states, ("own tables",)),
    Check("rate budget", customers.rate_budget, ("own tables",)),
    Check("vanta api", network.vanta_api),
    Check("vanta consent page", network.vanta_app),
    Check("sym login", network.sym_login, ("login settings",)),
    Check("connect app", network.connect_app),
    Check("clock", machine.clock),
    Check("data folder", machine.data_folder),
    Check("disk", machine.disk),
)


def examine(checks: Sequence[Check] = CHECKS, *, within: float = LONGEST) -> dict[str, Verdict]:
    """Go through the checks side by side and return each one's verdict by its name, in their order.

    Args:
        checks: what to look at; a check that is needed and not among them counts as well.
        within: seconds; what has not ended then has failed.
    """
    verdicts: dict[str, Future[Verdict]] = {check.name: Future() for check in checks}
    for check in checks:
        # Daemons: a thread that hangs on a host that does not answer must not keep the program from ending.
        threading.Thread(target=_settle, args=(check, verdicts), name=check.name, daemon=True).start()
    done, _ = wait(verdicts.values(), timeout=within)
    ended = {name: future.result() for name, future in verdicts.items() if future in done}
    return {check.name: ended.get(check.name) or _overdue(check, ended, within) for check in checks}


def _settle(check: Check, verdicts: Mapping[str, "Future[Verdict]"]) -> None:
    """Look, once what the check needs is known, and whatever happens give a verdict."""
    needed = {name: verdicts[name].result() for name in check.needs if name in verdicts}
    missing = [name for name, verdict in needed.items() if verdict.state in ("fail", "skipped")]
    verdicts[check.name].set_result(skipped(f"needs what is not well: {', '.join(missing)}") if missing else _of(check))


def _of(check: Check) -> Verdict:
    try:
        return check.look()
    except SettingsError as error:
        return skipped(f"needs settings: {', '.join(_PROBLEM.findall(str(error)))}")
    except Exception as error:  # noqa: BLE001 - one check's trouble is its own, whatever it is
        if type(error).__module__.startswith("symvanta_pipeline."):  # those texts are safe to show
            return fail(" ".join(str(error).split()), "try again: it was there a moment ago")
        return fail(
            f"unexpected {type(error).__name__} at {place_of(error)}", "report it, or try again if a connection broke"
        )


def _overdue(check: Check, ended: Mapping[str, Verdict], within: float) -> Verdict:
    waited_for = [name for name in check.needs if name not in ended]
    if waited_for:
        return skipped(f"needs what did not end in time: {', '.join(waited_for)}")
    return fail(f"did not end within {within:.0f} s", "look for a host that takes connections and does not answer")


def require_well(verdicts: Mapping[str, Verdict]) -> None:
    """Accept warnings, and no failure.

    Raises:
        NotWell: names what failed.
    """
    failed = [name for name, verdict in verdicts.items() if verdict.state == "fail"]
    if failed:
        raise NotWell(f"{len(failed)} of {len(verdicts)} checks failed, see what each says to do: {', '.join(failed)}")


def lines(verdicts: Mapping[str, Verdict]) -> list[str]:
    """Tell each verdict in a line: state, name, what was found, and what to do about it."""
    width = max(map(len, verdicts), default=0)
    return [
        f"{verdict.state:<8} {name:<{width}}  {verdict.detail}" + (f" -> {verdict.do}" if verdict.do else "")
        for name, verdict in verdicts.items()
    ]


def content(verdicts: Mapping[str, Verdict]) -> list[dict[str, str]]:
    """Return the same as a list of ``{check, state, detail, do}``."""
    return [
        {"check": name, "state": verdict.state, "detail": verdict.detail, "do": verdict.do}
        for name, verdict in verdicts.items()
    ]
