-- Sym's three tables, as far as the pipeline reads them. Only columns marked null may be NULL.
CREATE TABLE IF NOT EXISTS organizations (
    id          uuid        PRIMARY KEY,
    slug        text        NOT NULL UNIQUE,
    name        text        NOT NULL,
    created_at  timestamptz NOT NULL,
    deleted_at  timestamptz
);

-- type: admin, member or guest. Everyone who uses Sym has a row.
CREATE TABLE IF NOT EXISTS users (
    id              uuid        PRIMARY KEY,
    organization_id uuid        NOT NULL REFERENCES organizations,
    type            text        NOT NULL,
    name            text,
    email           text,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz,
    deactivated_at  timestamptz,
    last_active_at  timestamptz
);
CREATE INDEX IF NOT EXISTS users_organization_id ON users (organization_id);

-- service: auth0 (only people who are or were admins) or slack. connection: Auth0's connection name.
-- mfa_factors: Auth0's factor names; empty means none enrolled, NULL means not known.
CREATE TABLE IF NOT EXISTS identities (
    id                     uuid PRIMARY KEY,
    user_id                uuid NOT NULL REFERENCES users,
    service                text NOT NULL,
    external_id            text NOT NULL,
    connection             text,
    mfa_factors            text[],
    last_login_at          timestamptz,
    last_password_reset_at timestamptz
);
CREATE INDEX IF NOT EXISTS identities_user_id ON identities (user_id);
