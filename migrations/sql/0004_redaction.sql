-- Redaction: the body of an event goes, everything that proves it stays.

COMMENT ON TABLE relay.inbox IS
    'What was received, byte for byte. Append-only: rows are never updated, but for a body that is redacted.';

-- A CHECK cannot look into another table, so the guard of the evidence states the invariant: a body
-- can become empty, and nothing else, where a redaction says who wanted that and why.
CREATE OR REPLACE FUNCTION relay.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_LEVEL = 'ROW' AND TG_TABLE_NAME LIKE 'inbox%' THEN
        IF EXISTS (SELECT FROM relay.redaction r
                   WHERE r.inbox_id = OLD.id AND r.received_at = OLD.received_at) THEN
            OLD.body := '';
            IF NEW IS NOT DISTINCT FROM OLD THEN
                RETURN NEW;
            END IF;
        END IF;
    END IF;
    RAISE EXCEPTION '% of %.% refused: its rows are evidence and are never changed',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
COMMENT ON FUNCTION relay.refuse_change() IS
    'The guard of the tables that are append-only; of the inbox a redacted body may become empty.';

-- Housekeeping deletes them with their events; until then they are as little changed as those.
CREATE TRIGGER immutable BEFORE UPDATE ON relay.redaction
    FOR EACH ROW EXECUTE FUNCTION relay.refuse_change();
CREATE TRIGGER untruncated BEFORE TRUNCATE ON relay.redaction
    FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_change();

-- The one way to erase. Whoever may execute it can do this and cannot write another body; the proof
-- is written in the same statement's transaction.
CREATE FUNCTION relay.redact(
    events bigint[], moments timestamptz[], reason text, operator text
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    erased bigint;
BEGIN
    INSERT INTO relay.redaction (inbox_id, received_at, body_bytes, reason, operator)
    SELECT i.id, i.received_at, octet_length(i.body), redact.reason, redact.operator
    FROM unnest(events, moments) AS w (id, received_at)
    JOIN relay.inbox i ON i.id = w.id AND i.received_at = w.received_at
    WHERE octet_length(i.body) > 0
    ON CONFLICT DO NOTHING;
    UPDATE relay.inbox i SET body = ''
    FROM unnest(events, moments) AS w (id, received_at)
    WHERE i.id = w.id AND i.received_at = w.received_at AND octet_length(i.body) > 0;
    GET DIAGNOSTICS erased = ROW_COUNT;
    -- Failures may quote what they failed at.
    UPDATE relay.dead_letter SET error = 'redacted' WHERE inbox_id = ANY (events);
    UPDATE relay.attempt SET error = 'redacted' WHERE inbox_id = ANY (events);
    RETURN erased;
END $$;
COMMENT ON FUNCTION relay.redact(bigint[], timestamptz[], text, text) IS
    'Erases the bodies of events, given by inbox id and received_at, and what their failures said; returns how many bodies. For relay redact, which settles the events first.';
REVOKE ALL ON FUNCTION relay.redact(bigint[], timestamptz[], text, text) FROM PUBLIC;

CREATE FUNCTION relay.redact_samples(object_id text, of_sources integer[]) RETURNS bigint
LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    WITH erased AS (
        UPDATE relay.dead_letter
        SET refused_body = '', error = 'redacted',
            discarded_at = CASE WHEN replayed_at IS NULL
                                THEN coalesce(discarded_at, clock_timestamp()) END
        WHERE refused_body IS NOT NULL AND source_id = ANY (of_sources) AND object_id <> ''
          AND position(convert_to('"' || object_id || '"', 'UTF8') IN refused_body) > 0
        RETURNING 1
    )
    SELECT count(*) FROM erased
$$;
COMMENT ON FUNCTION relay.redact_samples(text, integer[]) IS
    'Erases the samples of refused requests to these sources that name an object; returns how many.';
REVOKE ALL ON FUNCTION relay.redact_samples(text, integer[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION relay.body(inbox_id bigint) RETURNS bytea
LANGUAGE sql STABLE STRICT SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.body FROM relay.inbox i
    WHERE i.id = inbox_id AND NOT EXISTS (
        SELECT FROM relay.redaction r
        WHERE r.inbox_id = i.id AND r.received_at = i.received_at)
$$;
COMMENT ON FUNCTION relay.body(bigint) IS
    'The exact bytes that were received; null once they were redacted.';
COMMENT ON FUNCTION relay.body_text(bigint) IS
    'The received bytes as text for people; never fails on bytes that are no valid text. Null once they were redacted.';

CREATE VIEW relay.redactions AS
SELECT r.inbox_id, s.name AS source, i.event_id, i.event_type, i.object_id, r.received_at,
       i.body_sha256, r.body_bytes, r.redacted_at, r.operator, r.reason
FROM relay.redaction r
JOIN relay.inbox i ON i.id = r.inbox_id AND i.received_at = r.received_at
JOIN relay.source s ON s.id = i.source_id;
COMMENT ON VIEW relay.redactions IS
    'Events whose body was erased: by whom, when and why. What else is known of them stays.';
COMMENT ON COLUMN relay.redactions.inbox_id IS 'Inbox id of the event.';
COMMENT ON COLUMN relay.redactions.source IS 'Name of the source.';
COMMENT ON COLUMN relay.redactions.event_id IS 'Stripe''s event id.';
COMMENT ON COLUMN relay.redactions.event_type IS 'Stripe''s event type.';
COMMENT ON COLUMN relay.redactions.object_id IS 'The object that the event is about.';
COMMENT ON COLUMN relay.redactions.received_at IS 'When the event was stored.';
COMMENT ON COLUMN relay.redactions.body_sha256 IS 'SHA-256 of the bytes that were received.';
COMMENT ON COLUMN relay.redactions.body_bytes IS 'How many bytes were erased.';
COMMENT ON COLUMN relay.redactions.redacted_at IS 'When they were erased.';
COMMENT ON COLUMN relay.redactions.operator IS 'Who did it.';
COMMENT ON COLUMN relay.redactions.reason IS 'Why, as was said then.';
