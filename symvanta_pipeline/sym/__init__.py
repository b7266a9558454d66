"""Where users come from: Sym's database, the queries that read it, the contract of what comes out."""
