"""A process that makes so many requests within a budget: `URL NAME N WINDOW COUNT LONGEST_STALL THREADS`.

Stalls at random between reserving and spending, as a loaded machine would.
"""

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg

from symvanta_pipeline.vanta.budget import Budget, Statements


def main(arguments: list[str]) -> None:
    url, name, per_window, window, count, longest_stall, threads = arguments
    statements = Statements(lambda: psycopg.connect(url, application_name="budget process"))
    budget = Budget(statements, name, int(per_window), window=timedelta(seconds=float(window)))

    def request(_: int) -> None:
        slot = budget.take()
        time.sleep(random.random() * float(longest_stall))
        budget.spend(slot)

    with ThreadPoolExecutor(int(threads)) as pool:
        list(pool.map(request, range(int(count))))
    statements.close()


if __name__ == "__main__":
    main(sys.argv[1:])
