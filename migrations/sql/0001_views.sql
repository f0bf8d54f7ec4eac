-- Functions, the guard of the inbox and the views: the SQL that users read.

CREATE FUNCTION relay.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of relay.% refused: rows are evidence and are never changed', TG_OP, 'inbox'
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER inbox_immutable BEFORE UPDATE OR DELETE ON relay.inbox
    FOR EACH ROW EXECUTE FUNCTION relay.refuse_change();

CREATE FUNCTION relay.readable(bytes bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN convert_from(bytes, 'UTF8');
EXCEPTION WHEN OTHERS THEN
    RETURN encode(bytes, 'escape');
END $$;
COMMENT ON FUNCTION relay.readable(bytea) IS
    'The bytes as text; with backslash escapes where they are not valid UTF-8.';

CREATE FUNCTION relay.body(inbox_id bigint) RETURNS bytea LANGUAGE sql STABLE STRICT
    AS 'SELECT body FROM relay.inbox WHERE id = inbox_id';
COMMENT ON FUNCTION relay.body(bigint) IS 'The exact bytes that were received.';

CREATE FUNCTION relay.body_text(inbox_id bigint) RETURNS text LANGUAGE sql STABLE STRICT
    AS 'SELECT relay.readable(relay.body(inbox_id))';
COMMENT ON FUNCTION relay.body_text(bigint) IS
    'The received bytes as text for people; never fails on bytes that are no valid text.';

-- One branch per state, each with a constant, so that a filter on the state leaves only its branch
-- and starts from the small table that knows it. event_key stands between so that a filter on the
-- event id starts from its index.
CREATE VIEW relay.events AS
WITH received AS NOT MATERIALIZED (
    SELECT i.id, s.name AS source, k.event_id, i.event_type, i.object_type, i.object_id, i.account,
           i.livemode, i.api_version, i.event_created, i.received_at, i.origin,
           i.body_sha256, octet_length(i.body) AS body_bytes
    FROM relay.event_key k
    JOIN relay.inbox i ON i.id = k.inbox_id AND i.received_at = k.received_at
                      AND i.event_id = k.event_id AND i.source_id = k.source_id
    JOIN relay.source s ON s.id = i.source_id
)
SELECT r.id, r.source, r.event_id, r.event_type, r.object_type, r.object_id, r.account, r.livemode,
       r.api_version, r.event_created, r.received_at, r.origin, 'pending'::text AS state,
       q.attempts::integer AS attempts, q.visible_at AS next_attempt_at, q.last_error_code,
       q.last_error, NULL::timestamptz AS settled_at, NULL::text AS skip_reason,
       r.body_sha256, r.body_bytes
FROM received r
JOIN relay.queue q ON q.inbox_id = r.id AND q.received_at = r.received_at
WHERE q.kind = 0 AND q.attempts = 0
UNION ALL
SELECT r.id, r.source, r.event_id, r.event_type, r.object_type, r.object_id, r.account, r.livemode,
       r.api_version, r.event_created, r.received_at, r.origin, 'retrying', q.attempts,
       q.visible_at, q.last_error_code, q.last_error, NULL, NULL, r.body_sha256, r.body_bytes
FROM received r
JOIN relay.queue q ON q.inbox_id = r.id AND q.received_at = r.received_at
WHERE q.kind = 0 AND q.attempts > 0
UNION ALL
SELECT r.id, r.source, r.event_id, r.event_type, r.object_type, r.object_id, r.account, r.livemode,
       r.api_version, r.event_created, r.received_at, r.origin, 'dead', d.attempts,
       NULL, d.error_code, d.error, NULL, NULL, r.body_sha256, r.body_bytes
FROM received r
JOIN relay.dead_letter d ON d.inbox_id = r.id AND d.received_at = r.received_at
WHERE d.replayed_at IS NULL AND d.discarded_at IS NULL
  AND NOT EXISTS (SELECT FROM relay.queue q WHERE q.inbox_id = r.id AND q.kind = 0)
UNION ALL
SELECT r.id, r.source, r.event_id, r.event_type, r.object_type, r.object_id, r.account, r.livemode,
       r.api_version, r.event_created, r.received_at, r.origin, 'skipped', t.attempts,
       NULL, NULL, NULL, t.produced_at, t.skipped, r.body_sha256, r.body_bytes
FROM received r
CROSS JOIN LATERAL (
    SELECT t.attempts, t.produced_at, t.skipped FROM relay.receipt t
    WHERE t.inbox_id = r.id AND t.received_at = r.received_at AND t.kind = 0
    ORDER BY t.number DESC, t.produced_at DESC LIMIT 1
) t
WHERE t.skipped IS NOT NULL
  AND NOT EXISTS (SELECT FROM relay.queue q WHERE q.inbox_id = r.id AND q.kind = 0)
  AND NOT EXISTS (SELECT FROM relay.dead_letter d WHERE d.inbox_id = r.id
                  AND d.replayed_at IS NULL AND d.discarded_at IS NULL)
UNION ALL
SELECT r.id, r.source, r.event_id, r.event_type, r.object_type, r.object_id, r.account, r.livemode,
       r.api_version, r.event_created, r.received_at, r.origin, 'delivered', t.attempts,
       NULL, NULL, NULL, t.produced_at, NULL, r.body_sha256, r.body_bytes
FROM received r
CROSS JOIN LATERAL (
    SELECT t.attempts, t.produced_at, t.skipped FROM relay.receipt t
    WHERE t.inbox_id = r.id AND t.received_at = r.received_at AND t.kind = 0
    ORDER BY t.number DESC, t.produced_at DESC LIMIT 1
) t
WHERE t.skipped IS NULL
  AND NOT EXISTS (SELECT FROM relay.queue q WHERE q.inbox_id = r.id AND q.kind = 0)
  AND NOT EXISTS (SELECT FROM relay.dead_letter d WHERE d.inbox_id = r.id
                  AND d.replayed_at IS NULL AND d.discarded_at IS NULL);
COMMENT ON VIEW relay.events IS
    'Every event that was answered 2xx, with its one state: pending, retrying, dead, skipped or delivered.';
COMMENT ON COLUMN relay.events.id IS 'Inbox id: unique, grows in the order of arrival.';
COMMENT ON COLUMN relay.events.source IS 'Name of the source.';
COMMENT ON COLUMN relay.events.event_id IS
    'Stripe''s event id; rejected:<sha256 of the body> for a payload that is no usable event.';
COMMENT ON COLUMN relay.events.origin IS 'webhook, snapshot or reconcile.';
COMMENT ON COLUMN relay.events.state IS
    'pending: waiting; retrying: failed by itself before; dead: has an open dead letter; skipped: deliberately not sent; delivered: every record acknowledged by Kafka.';
COMMENT ON COLUMN relay.events.attempts IS 'Failures of this event by itself; a Kafka outage does not count.';
COMMENT ON COLUMN relay.events.next_attempt_at IS 'Not tried before this moment; null: at once.';
COMMENT ON COLUMN relay.events.skip_reason IS
    'unselected, superseded, livemode_mismatch, discarded or redacted.';
COMMENT ON COLUMN relay.events.settled_at IS 'When it was delivered or skipped.';
COMMENT ON COLUMN relay.events.body_sha256 IS 'SHA-256 of the received bytes.';

CREATE VIEW relay.pending_events AS
    SELECT * FROM relay.events WHERE state IN ('pending', 'retrying');
COMMENT ON VIEW relay.pending_events IS 'Events that wait for their delivery, retries included.';

CREATE VIEW relay.failed_events AS
    SELECT * FROM relay.events WHERE state IN ('retrying', 'dead');
COMMENT ON VIEW relay.failed_events IS 'Events that failed: waiting for a retry, or dead.';

CREATE VIEW relay.deliveries AS
SELECT k.event_id, i.id AS inbox_id, t.topic, t.partition, t."offset", t.key, t.op, t.produced_at,
       s.name AS source, CASE t.kind WHEN 0 THEN 'event' ELSE 'dead_letter' END AS kind,
       t.record::integer AS record, t.attempts::integer AS attempts, t.replay_id
FROM relay.event_key k
JOIN relay.inbox i ON i.id = k.inbox_id AND i.received_at = k.received_at
                  AND i.event_id = k.event_id AND i.source_id = k.source_id
JOIN relay.source s ON s.id = i.source_id
JOIN relay.receipt t ON t.inbox_id = i.id AND t.received_at = i.received_at
WHERE t.skipped IS NULL;
COMMENT ON VIEW relay.deliveries IS
    'Every record that Kafka acknowledged and that settled its event, with its place in Kafka.';
COMMENT ON COLUMN relay.deliveries.produced_at IS 'When the acknowledgement was stored.';
COMMENT ON COLUMN relay.deliveries.kind IS
    'event, or dead_letter for the copy on the dead letter topic.';
COMMENT ON COLUMN relay.deliveries.record IS 'Number of the record within its event; 0 is the parent.';
COMMENT ON COLUMN relay.deliveries.replay_id IS 'The replay that sent it; null for the first delivery.';

CREATE VIEW relay.dead_letters AS
SELECT d.id, s.name AS source, d.inbox_id, d.event_id, d.event_type, d.error_code, d.error,
       d.attempts::integer AS attempts, d.dead_at, d.replayed_at, d.discarded_at,
       CASE WHEN d.inbox_id IS NULL THEN relay.readable(d.refused_body)
            ELSE relay.body_text(d.inbox_id) END AS body_text
FROM relay.dead_letter d JOIN relay.source s ON s.id = d.source_id;
COMMENT ON VIEW relay.dead_letters IS
    'Events that are not retried by themselves. inbox_id is null for samples of refused requests, which were never answered 2xx.';
COMMENT ON COLUMN relay.dead_letters.replayed_at IS 'Set when it was sent again; it is closed then.';
COMMENT ON COLUMN relay.dead_letters.discarded_at IS 'Set when an operator gave it up; it is closed then.';

CREATE VIEW relay.snapshot_progress AS
SELECT g.snapshot_id, s.name AS source, g.resource,
       CASE WHEN bool_or(g.state = 'failed') THEN 'failed'
            WHEN bool_or(g.state = 'cancelled') THEN 'cancelled'
            WHEN bool_or(g.state = 'paused') THEN 'paused'
            WHEN bool_and(g.state = 'finished') THEN 'finished'
            ELSE 'running' END AS state,
       sum(g.objects)::bigint AS objects, sum(g.pages)::bigint AS pages,
       (array_agg(g.cursor ORDER BY g.updated_at DESC NULLS LAST))[1] AS cursor,
       min(g.started_at) AS started_at, max(g.updated_at) AS updated_at,
       CASE WHEN bool_and(g.finished_at IS NOT NULL) THEN max(g.finished_at) END AS finished_at,
       (array_agg(g.last_error ORDER BY g.updated_at DESC)
            FILTER (WHERE g.last_error IS NOT NULL))[1] AS last_error
FROM relay.snapshot_range g
JOIN relay.snapshot n ON n.id = g.snapshot_id
JOIN relay.source s ON s.id = n.source_id
GROUP BY g.snapshot_id, s.name, g.resource;
COMMENT ON VIEW relay.snapshot_progress IS
    'One row per resource of each snapshot: running, paused, finished, failed or cancelled.';

CREATE VIEW relay.lag AS
SELECT s.name AS source,
       coalesce(q.pending, 0) AS pending, coalesce(q.retrying, 0) AS retrying,
       (SELECT count(*) FROM relay.dead_letter d
        WHERE d.source_id = s.id AND d.inbox_id IS NOT NULL
          AND d.replayed_at IS NULL AND d.discarded_at IS NULL) AS dead,
       coalesce(extract(epoch FROM now() - q.oldest), 0)::double precision
           AS oldest_pending_seconds
FROM relay.source s
LEFT JOIN (
    SELECT source_id, count(*) FILTER (WHERE attempts = 0) AS pending,
           count(*) FILTER (WHERE attempts > 0) AS retrying, min(received_at) AS oldest
    FROM relay.queue WHERE kind = 0 GROUP BY source_id
) q ON q.source_id = s.id
WHERE s.deleted_at IS NULL;
COMMENT ON VIEW relay.lag IS 'Unfinished events by source.';
COMMENT ON COLUMN relay.lag.oldest_pending_seconds IS
    'Age in seconds of the oldest event that is pending or retrying; 0 when there is none.';

CREATE VIEW relay.completeness AS
SELECT s.name AS source, c.hour, c.event_type, c.stripe_count, c.inbox_count, c.delivered_count,
       c.dead_count, c.missing_count, c.checked_at
FROM relay.completeness_check c JOIN relay.source s ON s.id = c.source_id;
COMMENT ON VIEW relay.completeness IS
    'Stripe''s own count of events per hour and type beside what the inbox holds.';
