-- The users, over all organizations, that one login belongs to: the only query that lets a person into the connect app.
--
-- Where your tables differ from these, adapt this file and nothing else. What has to come out, by name, none of it NULL:
--
--   column                   type
--   external_id              text     the login's subject at Auth0, exactly as it was given; checked again afterwards
--   user_id                  text
--   organization_id          text
--   slug                     text     today's
--   organization_name        text
--   type                     text     'admin', 'member' or 'guest'; only admins may connect
--   is_deactivated           boolean  deactivated_at is set, even where it lies in the future
--   organization_is_deleted  boolean
--
-- 1. A login is matched by its subject, never by an e-mail address: whoever can choose an address could choose whose
--    organization to connect.
-- 2. One row for each user. Members, deactivated users and deleted organizations are wanted too: who is refused is
--    told why.
-- 3. The statement runs in a transaction that may only read. A per cent sign has to be written twice.
SELECT DISTINCT
    i.external_id::text AS external_id,
    u.id::text AS user_id,
    o.id::text AS organization_id,
    o.slug::text AS slug,
    o.name::text AS organization_name,
    u.type::text AS type,
    u.deactivated_at IS NOT NULL AS is_deactivated,
    o.deleted_at IS NOT NULL AS organization_is_deleted
FROM identities AS i
JOIN users AS u ON u.id = i.user_id
JOIN organizations AS o ON o.id = u.organization_id
WHERE i.service = 'auth0' AND i.external_id = %(subject)s
ORDER BY slug, user_id
