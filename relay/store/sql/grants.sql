-- What each role may do, and nothing else: what was granted before is taken back first.
-- Services reach the partitions through their parents. While there are no tables, or those of before,
-- there is nothing to grant yet: `relay migrate` does it when it has made them.
DO $relay$
DECLARE
    present integer;
    found record;
BEGIN
    IF to_regclass('relay.compatibility') IS NULL THEN
        RETURN;
    END IF;
    SELECT revision INTO present FROM relay.compatibility;
    IF present < 4 THEN
        RETURN;
    ELSIF present > 4 THEN
        RAISE EXCEPTION 'the schema is at revision %, and these grants are for revision 4', present
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Take them from the release that has migrated it.';
    END IF;

    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_class c
        WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
          AND c.relname !~ '^(inbox|receipt)_p[0-9]{8}'
    LOOP
        EXECUTE format('REVOKE ALL ON TABLE %s FROM PUBLIC, relay_receiver, relay_forwarder,'
            ' relay_snapshotter, relay_admin, relay_auditor', found.name);
    END LOOP;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA relay FROM PUBLIC, relay_receiver, relay_forwarder,
        relay_snapshotter, relay_admin, relay_auditor;
    REVOKE ALL ON SCHEMA relay FROM PUBLIC, relay_receiver, relay_forwarder, relay_snapshotter,
        relay_admin, relay_auditor;

    -- Everybody: find the schema, and tell whether it is the right one.
    GRANT USAGE ON SCHEMA relay
        TO relay_receiver, relay_forwarder, relay_snapshotter, relay_admin, relay_auditor;
    GRANT SELECT ON relay.compatibility
        TO relay_receiver, relay_forwarder, relay_snapshotter, relay_admin, relay_auditor;
    -- Every service: /metrics, and partitions ahead.
    GRANT SELECT ON relay.lag TO relay_receiver, relay_forwarder, relay_snapshotter;
    GRANT EXECUTE ON FUNCTION relay.make_partition(timestamptz, timestamptz)
        TO relay_receiver, relay_forwarder, relay_snapshotter, relay_admin;
    GRANT USAGE ON SEQUENCE relay.arrival
        TO relay_receiver, relay_forwarder, relay_snapshotter, relay_admin;
    -- The settings of the sources, without their secrets.
    GRANT SELECT (id, public_id, name, resources, unselected, default_topic, metadata, fan_out, dlq,
            dlq_topic, topic_prefix, route_by, tombstones, tolerance, mode, insecure, created_at,
            updated_at, deleted_at, paused_at, halted_at, halted_code, halted_error, halted_number)
        ON relay.source TO relay_receiver, relay_forwarder, relay_snapshotter;

    -- The receiver faces the internet: it adds, and reads no more than a check of a signature takes.
    GRANT SELECT (signing_secrets) ON relay.source TO relay_receiver;
    GRANT SELECT (source_id, sha256, expires_at) ON relay.api_key TO relay_receiver;
    GRANT INSERT ON relay.event_key, relay.inbox, relay.queue, relay.dead_letter TO relay_receiver;
    -- Which of several keys were new is told by RETURNING.
    GRANT SELECT (inbox_id) ON relay.event_key TO relay_receiver;

    -- The forwarder empties the queue and writes down what became of it.
    GRANT SELECT ON relay.inbox TO relay_forwarder;
    GRANT SELECT, INSERT, DELETE ON relay.queue, relay.batch_note TO relay_forwarder;
    GRANT UPDATE (attempts, crashes, alone, visible_at, last_error_code, last_error)
        ON relay.queue TO relay_forwarder;
    GRANT UPDATE (started_at) ON relay.batch_note TO relay_forwarder;
    GRANT INSERT ON relay.receipt, relay.attempt TO relay_forwarder;
    GRANT SELECT, INSERT ON relay.dead_letter TO relay_forwarder;
    GRANT UPDATE (halted_at, halted_code, halted_error, halted_number)
        ON relay.source TO relay_forwarder;
    -- It seals what it may read anyway; a seal can be added and never changed.
    GRANT SELECT, INSERT ON relay.seal TO relay_forwarder;
    -- To lock a row takes a right to change it; nobody changes this one.
    GRANT SELECT, UPDATE (lane) ON relay.lane TO relay_forwarder, relay_admin;

    -- The snapshotter adds as the receiver does, and moves its cursors forward.
    GRANT SELECT (stripe_api_key) ON relay.source TO relay_snapshotter;
    GRANT INSERT ON relay.event_key, relay.inbox, relay.queue, relay.dead_letter
        TO relay_snapshotter;
    GRANT SELECT (event_id, source_id, inbox_id, received_at) ON relay.event_key
        TO relay_snapshotter;
    -- Whether what it has stored under an id was another kind of object.
    GRANT SELECT (id, received_at, object_type) ON relay.inbox TO relay_snapshotter;
    -- How much waits, so that live events are not held up.
    GRANT SELECT (source_id, lane, number, key_hash, visible_at) ON relay.queue
        TO relay_snapshotter;
    GRANT SELECT, UPDATE (state, window_until, last_error, finished_at) ON relay.snapshot
        TO relay_snapshotter;
    GRANT SELECT, INSERT, UPDATE ON relay.snapshot_range, relay.api_rate TO relay_snapshotter;

    -- The operator at the command line. Evidence can be added, never changed.
    GRANT SELECT, INSERT, UPDATE ON relay.source TO relay_admin;
    GRANT SELECT, INSERT, UPDATE (expires_at), DELETE ON relay.api_key TO relay_admin;
    GRANT INSERT ON relay.lane TO relay_admin;
    GRANT SELECT, INSERT, UPDATE (number, visible_at), DELETE ON relay.queue TO relay_admin;
    GRANT SELECT, UPDATE (replayed_at, discarded_at) ON relay.dead_letter TO relay_admin;
    GRANT SELECT, INSERT ON relay.receipt, relay.operator_log TO relay_admin;
    GRANT SELECT ON relay.inbox, relay.event_key, relay.batch_note, relay.attempt, relay.api_rate,
        relay.completeness_check, relay.seal TO relay_admin;
    GRANT SELECT, INSERT, UPDATE (state, finished_at, last_error) ON relay.snapshot TO relay_admin;
    GRANT SELECT, INSERT, UPDATE (state, failures, wait_until, wait_reason, updated_at, last_error)
        ON relay.snapshot_range TO relay_admin;
    -- A body it cannot change, only have erased, which leaves the proof of it.
    GRANT SELECT ON relay.redaction TO relay_admin;
    GRANT EXECUTE ON FUNCTION relay.redact(bigint[], timestamptz[], text, text),
        relay.redact_samples(text, integer[]) TO relay_admin;

    -- Who only looks: the views, the bodies, and what operators did.
    GRANT SELECT ON relay.events, relay.pending_events, relay.failed_events, relay.deliveries,
        relay.dead_letters, relay.snapshots, relay.snapshot_progress, relay.lag,
        relay.completeness, relay.redactions, relay.operator_log TO relay_auditor, relay_admin;
    GRANT EXECUTE ON FUNCTION relay.body(bigint), relay.body_text(bigint), relay.readable(bytea)
        TO relay_auditor, relay_admin;
    -- So that `relay events list --source NAME` can tell a name that there never was.
    GRANT SELECT (id, name) ON relay.source TO relay_auditor;
    -- `relay audit`: what is stored about every event, but not the bodies and signatures themselves.
    GRANT SELECT (id, received_at, source_id, event_id, event_type, object_type, object_id, account,
            livemode, api_version, event_created, origin, body_sha256, xact_id)
        ON relay.inbox TO relay_auditor;
    GRANT SELECT (source_id, number, inbox_id, received_at, kind) ON relay.queue TO relay_auditor;
    GRANT SELECT (id, source_id, inbox_id, received_at, event_id, replayed_at, discarded_at)
        ON relay.dead_letter TO relay_auditor;
    GRANT SELECT ON relay.event_key, relay.receipt, relay.seal TO relay_auditor;
    GRANT EXECUTE ON FUNCTION relay.altered_bodies(bigint[], timestamptz, timestamptz)
        TO relay_auditor, relay_admin;
END $relay$;
