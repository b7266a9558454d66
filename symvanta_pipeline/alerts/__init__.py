"""Telling people of customers that need one: what is worth a message, what it says, and how it gets there.

``changes`` decides, ``messages`` words, ``rendering`` gives it each target's form, ``targets`` sends, and ``delivery``
puts them together over the ledger's outbox. Does not belong here: Dagster (``defs.alerts``), the tables
(``ledger.alerts``), what state a customer is in (``ledger.status``).
"""
