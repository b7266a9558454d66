-- All users of one organization, with all their identities: the only query whose result reaches Vanta.
--
-- Where your tables differ from these, adapt this file and nothing else. What has to come out, by name:
--
--   column                   type         may be NULL
--   organization_id          text         no       the organization that the user belongs to
--   organization_deleted_at  timestamptz  yes      set: the organization is gone, and nothing is sent for it
--   slug                     text         no       today's, part of each account's link
--   user_id                  text         see 2    never reused, never changed: it is the user's identity at Vanta
--   type                     text         no       'admin', 'member' or 'guest'
--   name                     text         yes
--   email                    text         no
--   created_at               timestamptz  no
--   updated_at               timestamptz  yes
--   deactivated_at           timestamptz  yes      set: the user has left, even where it lies in the future
--   identity_id              text         see 1    unique over all users
--   service                  text         see 1    'auth0' or 'slack'
--   connection               text         yes      auth0 only: the name of Auth0's connection
--   mfa_factors              text[]       yes      auth0 only: empty is "none enrolled", NULL is "not known"
--   last_login_at            timestamptz  yes
--   last_password_reset_at   timestamptz  yes
--
-- 1. One row for each user and identity. A user without an identity still has a row: LEFT JOIN, never JOIN, or
--    people disappear from an audit. Departed users are wanted too: no filter on deactivated_at.
-- 2. An organization without users has one row whose user_id is NULL; an organization that does not exist has none.
-- 3. The order has to be the same each time.
-- 4. A time kept without a zone needs one here: created_at AT TIME ZONE 'UTC'. It is refused otherwise.
-- 5. The statement runs in a transaction that may only read. A per cent sign has to be written twice.
SELECT
    coalesce(u.organization_id, o.id)::text AS organization_id,
    o.deleted_at AS organization_deleted_at,
    o.slug::text AS slug,
    u.id::text AS user_id,
    u.type::text AS type,
    u.name::text AS name,
    u.email::text AS email,
    u.created_at,
    u.updated_at,
    u.deactivated_at,
    i.id::text AS identity_id,
    i.service::text AS service,
    i.connection::text AS connection,
    i.mfa_factors::text[] AS mfa_factors,
    i.last_login_at,
    i.last_password_reset_at
FROM organizations AS o
LEFT JOIN users AS u ON u.organization_id = o.id
LEFT JOIN identities AS i ON i.user_id = u.id
WHERE o.id = %(organization_id)s
ORDER BY u.id, i.id
