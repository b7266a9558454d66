-- The organizations that may be connected: all that are not deleted, or the one with the given slug or id.
-- What has to come out, none of it NULL: id (text), slug (text, unique), name (text).
SELECT o.id::text AS id, o.slug::text AS slug, o.name::text AS name
FROM organizations AS o
WHERE o.deleted_at IS NULL
  AND (%(slug)s::text IS NULL OR o.slug = %(slug)s)
  AND (%(organization_id)s::text IS NULL OR o.id = %(organization_id)s::uuid)
ORDER BY o.slug
