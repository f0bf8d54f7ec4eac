CREATE VIEW relay.snapshots AS
SELECT n.id, s.name AS source, n.state, n.resources, n.api_version, n.livemode, n.created_after,
       n.created_before, n.window_until, n.started_at, n.finished_at,
       extract(epoch FROM coalesce(n.finished_at, now()) - n.started_at)::double precision
           AS seconds,
       g.objects, g.pages, g.requests, g.limited, coalesce(n.last_error, g.last_error) AS last_error
FROM relay.snapshot n
JOIN relay.source s ON s.id = n.source_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(objects), 0)::bigint AS objects, coalesce(sum(pages), 0)::bigint AS pages,
           coalesce(sum(requests), 0)::bigint AS requests,
           coalesce(sum(limited), 0)::bigint AS limited,
           (array_agg(last_error ORDER BY updated_at DESC NULLS LAST)
                FILTER (WHERE last_error IS NOT NULL AND state = 'failed'))[1] AS last_error
    FROM relay.snapshot_range WHERE snapshot_id = n.id
) g;
COMMENT ON VIEW relay.snapshots IS
    'Every snapshot there was, with its window and counts; relay.snapshot_progress has the resources.';
COMMENT ON COLUMN relay.snapshots.id IS 'Id of the snapshot; its events are snap_<id>_<object id>.';
COMMENT ON COLUMN relay.snapshots.source IS 'Name of the source.';
COMMENT ON COLUMN relay.snapshots.state IS 'running, paused, finished, failed or cancelled.';
COMMENT ON COLUMN relay.snapshots.resources IS 'What it reads.';
COMMENT ON COLUMN relay.snapshots.api_version IS 'Stripe-Version of its requests.';
COMMENT ON COLUMN relay.snapshots.livemode IS 'Whether its Stripe key was a live one.';
COMMENT ON COLUMN relay.snapshots.created_after IS 'Older objects were left out; null: none were.';
COMMENT ON COLUMN relay.snapshots.created_before IS
    'Objects created then or later were left out; null: none were.';
COMMENT ON COLUMN relay.snapshots.window_until IS
    'The end of the window by Stripe''s clock, set by the first page; later changes are live events.';
COMMENT ON COLUMN relay.snapshots.started_at IS 'When it was started.';
COMMENT ON COLUMN relay.snapshots.finished_at IS 'When it ended; null before.';
COMMENT ON COLUMN relay.snapshots.seconds IS 'How long it took, or has taken so far.';
COMMENT ON COLUMN relay.snapshots.objects IS 'Objects that it has brought into the inbox.';
COMMENT ON COLUMN relay.snapshots.pages IS 'Pages stored.';
COMMENT ON COLUMN relay.snapshots.requests IS 'Requests to the Stripe API, failed ones included.';
COMMENT ON COLUMN relay.snapshots.limited IS 'Requests that Stripe answered with 429.';
COMMENT ON COLUMN relay.snapshots.last_error IS 'Why it failed, or a resource of it.';
