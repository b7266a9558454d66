"""Where accounts go: Vanta's API, its OAuth, its rate limits. Knows nothing of Sym's database or of ours."""
