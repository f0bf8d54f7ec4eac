-- Functions, the guards of what is append-only, and the views: the SQL that users read.

CREATE FUNCTION relay.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of %.% refused: its rows are evidence and are never changed',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
COMMENT ON FUNCTION relay.refuse_change() IS 'The guard of the tables that are append-only.';

-- The row triggers are handed on to every partition; those on TRUNCATE are made with each of them.
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON relay.inbox
    FOR EACH ROW EXECUTE FUNCTION relay.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON relay.receipt
    FOR EACH ROW EXECUTE FUNCTION relay.refuse_change();
CREATE TRIGGER immutable BEFORE UPDATE OR DELETE ON relay.operator_log
    FOR EACH ROW EXECUTE FUNCTION relay.refuse_change();
CREATE TRIGGER untruncated BEFORE TRUNCATE ON relay.inbox
    FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_change();
CREATE TRIGGER untruncated BEFORE TRUNCATE ON relay.receipt
    FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_change();
CREATE TRIGGER untruncated BEFORE TRUNCATE ON relay.operator_log
    FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_change();

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

-- The state of an event is told by the rows that stand for it: in the queue, among the dead letters
-- and among the receipts. `p` lists them, one branch per state with the state as a constant, so
-- that a filter on the state leaves only its branch; then come the rules that let one of them win.
--
-- The form is for the planner (PostgreSQL 15 to 18 were looked at; tests hold the plans):
-- * The branches have no WHERE of their own: only then are they planned together with the joins, so
--   that the newest 50 events are read from indexes and not sorted out of all (3 ms, not 3 s, at
--   300,000 events). What a branch selects is its column `holds`.
-- * `(…)::integer <= 0` says the same as the condition beside it, and has the planner expect few rows:
--   it shall probe the inbox for each, and never read a partition of it to join with a long queue.
-- * received_at, which prunes partitions, is compared as a range, and event_key is asked by EXISTS:
--   of several equalities the planner multiplies the odds, and expects one row where all fit.
CREATE VIEW relay.events AS
SELECT p.id, s.name AS source, i.event_id, i.event_type, i.object_type, i.object_id, i.account,
       i.livemode, i.api_version, i.event_created, i.received_at, i.origin, p.state, p.attempts,
       p.next_attempt_at, p.last_error_code, p.last_error, p.settled_at, p.skip_reason,
       i.body_sha256, octet_length(i.body) AS body_bytes
FROM (
    SELECT inbox_id AS id, received_at, number, 'pending'::text AS state,
           attempts::integer AS attempts, visible_at AS next_attempt_at, last_error_code,
           last_error, NULL::timestamptz AS settled_at, NULL::text AS skip_reason,
           NULL::bigint AS unless_queued, NULL::bigint AS unless_dead,
           kind = 0 AND attempts = 0 AND (kind <> 0)::integer <= 0 AS holds
    FROM relay.queue
    UNION ALL
    SELECT inbox_id, received_at, number, 'retrying'::text, attempts::integer, visible_at,
           last_error_code, last_error, NULL::timestamptz, NULL::text, NULL::bigint, NULL::bigint,
           kind = 0 AND attempts > 0 AND (kind <> 0)::integer <= 0
    FROM relay.queue
    UNION ALL
    SELECT inbox_id, received_at, NULL::bigint, 'dead'::text, attempts::integer,
           NULL::timestamptz, error_code, error, NULL::timestamptz, NULL::text, inbox_id,
           NULL::bigint, replayed_at IS NULL AND discarded_at IS NULL AND inbox_id IS NOT NULL
               AND (inbox_id IS NULL)::integer <= 0
    FROM relay.dead_letter
    UNION ALL
    SELECT inbox_id, received_at, number, 'skipped'::text, attempts::integer, NULL::timestamptz,
           NULL::text, NULL::text, produced_at, skipped, inbox_id, inbox_id,
           kind = 0 AND skipped IS NOT NULL
    FROM relay.receipt
    UNION ALL
    SELECT inbox_id, received_at, number, 'delivered'::text, attempts::integer, NULL::timestamptz,
           NULL::text, NULL::text, produced_at, NULL::text, inbox_id, inbox_id,
           kind = 0 AND skipped IS NULL AND record = 0
    FROM relay.receipt
) p
JOIN relay.inbox i ON i.id = p.id AND i.received_at BETWEEN p.received_at AND p.received_at
JOIN relay.source s ON s.id = i.source_id
WHERE p.holds
  AND EXISTS (SELECT FROM relay.event_key k WHERE k.event_id = i.event_id AND k.inbox_id = i.id)
  AND NOT EXISTS (SELECT FROM relay.queue q WHERE q.inbox_id = p.unless_queued AND q.kind = 0)
  AND NOT EXISTS (SELECT FROM relay.dead_letter d WHERE d.inbox_id = p.unless_dead
                  AND d.replayed_at IS NULL AND d.discarded_at IS NULL)
  -- Of the receipts the last one counts: what was skipped may be delivered by a replay.
  AND NOT EXISTS (SELECT FROM relay.receipt t WHERE t.inbox_id = p.unless_dead
                  AND t.received_at = p.received_at AND t.kind = 0 AND t.number > p.number);
COMMENT ON VIEW relay.events IS
    'Every event that was answered 2xx, with its one state: pending, retrying, dead, skipped or delivered.';
COMMENT ON COLUMN relay.events.id IS 'Inbox id: unique, grows in the order of arrival.';
COMMENT ON COLUMN relay.events.source IS 'Name of the source.';
COMMENT ON COLUMN relay.events.event_id IS
    'Stripe''s event id; rejected:<sha256 of the body> for a payload that is no usable event.';
COMMENT ON COLUMN relay.events.event_type IS 'Stripe''s event type, such as customer.updated.';
COMMENT ON COLUMN relay.events.object_type IS 'What the event is about: data.object.object.';
COMMENT ON COLUMN relay.events.object_id IS 'Its id: data.object.id. Null for objects without one.';
COMMENT ON COLUMN relay.events.account IS 'The connected account, for events of Stripe Connect.';
COMMENT ON COLUMN relay.events.livemode IS
    'Whether it is of the live mode; null when the event does not say.';
COMMENT ON COLUMN relay.events.api_version IS
    'The version of Stripe''s API that the payload is written in.';
COMMENT ON COLUMN relay.events.event_created IS
    'When Stripe made the event; null when the event does not say.';
COMMENT ON COLUMN relay.events.received_at IS 'When it was stored.';
COMMENT ON COLUMN relay.events.origin IS 'webhook, snapshot or reconcile.';
COMMENT ON COLUMN relay.events.state IS
    'pending: waiting; retrying: failed by itself before; dead: has an open dead letter; skipped: deliberately not sent; delivered: every record acknowledged by Kafka.';
COMMENT ON COLUMN relay.events.attempts IS
    'Failures of this event by itself; a Kafka outage does not count.';
COMMENT ON COLUMN relay.events.next_attempt_at IS
    'Not tried before this moment; null: at once, or not at all.';
COMMENT ON COLUMN relay.events.last_error_code IS
    'Code of the failure that it waits after or is dead of.';
COMMENT ON COLUMN relay.events.last_error IS 'What that failure said.';
COMMENT ON COLUMN relay.events.settled_at IS 'When it was delivered or skipped.';
COMMENT ON COLUMN relay.events.skip_reason IS
    'unselected, superseded, livemode_mismatch, discarded or redacted.';
COMMENT ON COLUMN relay.events.body_sha256 IS 'SHA-256 of the received bytes.';
COMMENT ON COLUMN relay.events.body_bytes IS
    'How many bytes were received; relay.body(id) has them.';

CREATE VIEW relay.pending_events AS
    SELECT * FROM relay.events WHERE state IN ('pending', 'retrying');
COMMENT ON VIEW relay.pending_events IS 'Events that wait for their delivery, retries included.';

CREATE VIEW relay.failed_events AS
    SELECT * FROM relay.events WHERE state IN ('retrying', 'dead');
COMMENT ON VIEW relay.failed_events IS 'Events that failed: waiting for a retry, or dead.';

-- Their columns say the same as those of relay.events.
DO $$
DECLARE col record;
BEGIN
    FOR col IN
        SELECT a.attname, col_description(a.attrelid, a.attnum) AS comment, v.name AS view
        FROM pg_attribute a, unnest(ARRAY['pending_events', 'failed_events']) AS v (name)
        WHERE a.attrelid = 'relay.events'::regclass AND a.attnum > 0
    LOOP
        EXECUTE format('COMMENT ON COLUMN relay.%I.%I IS %L', col.view, col.attname, col.comment);
    END LOOP;
END $$;

CREATE VIEW relay.deliveries AS
SELECT i.event_id, t.inbox_id, t.topic, t.partition, t."offset", t.key, t.op, t.produced_at,
       s.name AS source, CASE t.kind WHEN 0 THEN 'event' ELSE 'dead_letter' END AS kind,
       t.record, t.attempts::integer AS attempts, t.replay_id
FROM relay.receipt t
JOIN relay.inbox i ON i.id = t.inbox_id AND i.received_at BETWEEN t.received_at AND t.received_at
JOIN relay.source s ON s.id = i.source_id
WHERE t.skipped IS NULL
  AND EXISTS (SELECT FROM relay.event_key k
              WHERE k.event_id = i.event_id AND k.inbox_id = i.id);
COMMENT ON VIEW relay.deliveries IS
    'Every record that Kafka acknowledged and that settled its event, with its place in Kafka.';
COMMENT ON COLUMN relay.deliveries.event_id IS 'Stripe''s event id.';
COMMENT ON COLUMN relay.deliveries.inbox_id IS
    'Inbox id of the event; also in the record''s header _inbox_id.';
COMMENT ON COLUMN relay.deliveries.topic IS 'Topic of the record.';
COMMENT ON COLUMN relay.deliveries.partition IS 'Partition of the record.';
COMMENT ON COLUMN relay.deliveries."offset" IS 'Offset of the record in its partition.';
COMMENT ON COLUMN relay.deliveries.key IS 'Key of the record.';
COMMENT ON COLUMN relay.deliveries.op IS
    'c, u, d or r, as in the record''s header __op; empty for the copy of a dead letter.';
COMMENT ON COLUMN relay.deliveries.produced_at IS 'When the acknowledgement was stored.';
COMMENT ON COLUMN relay.deliveries.source IS 'Name of the source.';
COMMENT ON COLUMN relay.deliveries.kind IS
    'event, or dead_letter for the copy on the dead letter topic.';
COMMENT ON COLUMN relay.deliveries.record IS
    'Number of the record within its event; 0 is the parent.';
COMMENT ON COLUMN relay.deliveries.attempts IS 'Failures of the event by itself before.';
COMMENT ON COLUMN relay.deliveries.replay_id IS
    'The replay that sent it; null for the first delivery.';

CREATE VIEW relay.dead_letters AS
SELECT d.id, s.name AS source, d.inbox_id, d.event_id, d.event_type, d.error_code, d.error,
       d.attempts::integer AS attempts, d.dead_at, d.replayed_at, d.discarded_at,
       CASE WHEN d.inbox_id IS NULL THEN relay.readable(d.refused_body)
            ELSE relay.body_text(d.inbox_id) END AS body_text
FROM relay.dead_letter d JOIN relay.source s ON s.id = d.source_id;
COMMENT ON VIEW relay.dead_letters IS
    'Events that are not retried by themselves. inbox_id is null for samples of refused requests, which were never answered 2xx.';
COMMENT ON COLUMN relay.dead_letters.id IS 'Number of the dead letter, for relay dlq.';
COMMENT ON COLUMN relay.dead_letters.source IS 'Name of the source.';
COMMENT ON COLUMN relay.dead_letters.inbox_id IS
    'Inbox id of the event; null for a sample of a refused request.';
COMMENT ON COLUMN relay.dead_letters.event_id IS
    'Stripe''s event id; rejected:<sha256 of the body> for a payload that is no usable event.';
COMMENT ON COLUMN relay.dead_letters.event_type IS 'Stripe''s event type.';
COMMENT ON COLUMN relay.dead_letters.error_code IS 'Why, as a word that does not change.';
COMMENT ON COLUMN relay.dead_letters.error IS 'Why, for people.';
COMMENT ON COLUMN relay.dead_letters.attempts IS
    'Failures of the event by itself before it was given up.';
COMMENT ON COLUMN relay.dead_letters.dead_at IS 'When it was given up or refused.';
COMMENT ON COLUMN relay.dead_letters.replayed_at IS
    'Set when it was sent again; it is closed then.';
COMMENT ON COLUMN relay.dead_letters.discarded_at IS
    'Set when an operator gave it up; it is closed then.';
COMMENT ON COLUMN relay.dead_letters.body_text IS
    'The received bytes as text; of a refused request the first 64 KiB.';

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

COMMENT ON COLUMN relay.snapshot_progress.snapshot_id IS 'Id of the snapshot.';
COMMENT ON COLUMN relay.snapshot_progress.source IS 'Name of the source.';
COMMENT ON COLUMN relay.snapshot_progress.resource IS 'The resource that is read.';
COMMENT ON COLUMN relay.snapshot_progress.state IS
    'running, paused, finished, failed or cancelled.';
COMMENT ON COLUMN relay.snapshot_progress.objects IS 'Objects read so far.';
COMMENT ON COLUMN relay.snapshot_progress.pages IS 'Pages read so far.';
COMMENT ON COLUMN relay.snapshot_progress.cursor IS
    'The last object read, in the range that was read last.';
COMMENT ON COLUMN relay.snapshot_progress.started_at IS 'When the first page was asked for.';
COMMENT ON COLUMN relay.snapshot_progress.updated_at IS 'When the last page was stored.';
COMMENT ON COLUMN relay.snapshot_progress.finished_at IS
    'When the last range was done; null before.';
COMMENT ON COLUMN relay.snapshot_progress.last_error IS 'The last failure, if there was one.';

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
COMMENT ON COLUMN relay.lag.source IS 'Name of the source; deleted ones are left out.';
COMMENT ON COLUMN relay.lag.pending IS 'Events that wait for their first attempt, or for Kafka.';
COMMENT ON COLUMN relay.lag.retrying IS 'Events that wait after failing by themselves.';
COMMENT ON COLUMN relay.lag.dead IS 'Events with an open dead letter.';
COMMENT ON COLUMN relay.lag.oldest_pending_seconds IS
    'Age in seconds of the oldest event that is pending or retrying; 0 when there is none.';

CREATE VIEW relay.completeness AS
SELECT s.name AS source, c.hour, c.event_type, c.stripe_count, c.inbox_count, c.delivered_count,
       c.dead_count, c.missing_count, c.checked_at
FROM relay.completeness_check c JOIN relay.source s ON s.id = c.source_id;
COMMENT ON VIEW relay.completeness IS
    'Stripe''s own count of events per hour and type beside what the inbox holds.';
COMMENT ON COLUMN relay.completeness.source IS 'Name of the source.';
COMMENT ON COLUMN relay.completeness.hour IS 'The hour in which Stripe made the events.';
COMMENT ON COLUMN relay.completeness.event_type IS 'Stripe''s event type.';
COMMENT ON COLUMN relay.completeness.stripe_count IS 'Events in Stripe''s own list.';
COMMENT ON COLUMN relay.completeness.inbox_count IS 'Those of them that the inbox holds.';
COMMENT ON COLUMN relay.completeness.delivered_count IS 'Those of them that are delivered.';
COMMENT ON COLUMN relay.completeness.dead_count IS 'Those of them that are dead.';
COMMENT ON COLUMN relay.completeness.missing_count IS 'Those of them that the inbox does not hold.';
COMMENT ON COLUMN relay.completeness.checked_at IS 'When it was compared.';
