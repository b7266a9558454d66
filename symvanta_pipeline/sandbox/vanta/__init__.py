"""A stand-in for Vanta: the API host and the app host on one loopback port, as strict as Vanta is.

Belongs here: what Vanta does, as far as it is known, and switches to make it fail. Does not belong here: anything that
the pipeline needs to talk to Vanta; the two share no code, so that neither can repeat the other's mistake.
"""
