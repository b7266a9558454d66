"""What Sym's users become: mapping, Vanta's rules, body. Pure: no Dagster, no database, no HTTP."""
