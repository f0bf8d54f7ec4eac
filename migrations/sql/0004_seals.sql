-- Seals are never changed. The owner takes the oldest away when the retention has taken their rows:
-- whoever takes one out of the middle breaks the chain, and whoever takes too many leaves rows without.
CREATE TRIGGER immutable BEFORE UPDATE ON relay.seal
    FOR EACH ROW EXECUTE FUNCTION relay.refuse_change();
CREATE TRIGGER untruncated BEFORE TRUNCATE ON relay.seal
    FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_change();

-- An audit may ask whether bodies are what was received, without a right to the table.
CREATE FUNCTION relay.altered_bodies(
    ids bigint[], received_from timestamptz, received_until timestamptz
) RETURNS TABLE (inbox_id bigint, body_bytes integer)
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.id, octet_length(i.body) FROM relay.inbox i
    WHERE i.id = ANY (ids) AND i.received_at BETWEEN received_from AND received_until
      AND sha256(i.body) <> i.body_sha256
$$;
COMMENT ON FUNCTION relay.altered_bodies(bigint[], timestamptz, timestamptz) IS
    'Those of the given events, received between two moments, whose bytes do not have the SHA-256 that is stored beside them.';
REVOKE ALL ON FUNCTION relay.altered_bodies(bigint[], timestamptz, timestamptz) FROM PUBLIC;
