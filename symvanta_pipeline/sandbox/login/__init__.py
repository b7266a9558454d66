"""A stand-in for Sym's login: an OpenID Connect provider on loopback, strict, and without passwords.

Belongs here: what a provider does, and switches to make it fail or lie. Does not belong here: anything that the connect
app needs to talk to one; the two share no code, so that neither can repeat the other's mistake.

Sources: OpenID Connect Core 1.0, Discovery 1.0 and RP-Initiated Logout 1.0; RFC 6749, RFC 7636 (PKCE) and RFC 8252
(loopback redirects). Where they leave a choice, the strictest reading is taken.
"""
