-- What one user of one organization is called, for a page that only that organization's admins see.
--
-- Where your tables differ from these, adapt this file and nothing else. What has to come out: name (text, not NULL),
-- one row or, for nobody, none. The statement runs in a transaction that may only read.
SELECT coalesce(nullif(btrim(u.name), ''), nullif(btrim(u.email), ''), 'an admin without a name')::text AS name
FROM users AS u
WHERE u.organization_id = %(organization_id)s AND u.id = %(user_id)s
