"""Local stand-ins for what the pipeline meets outside: databases, Vanta, made-up customers, a whole Dagster.

Belongs here: whatever only ``symvanta demo``, the bench and the tests use. The pipeline knows nothing of it.
"""
