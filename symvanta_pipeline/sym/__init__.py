"""Where users come from: Sym's database, the query that reads it, the contract of what comes out."""
