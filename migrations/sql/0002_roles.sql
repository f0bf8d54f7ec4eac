-- What processes need that do not own the schema.

-- PostgreSQL lets everybody execute a new function; of ours everybody shall have nothing.
REVOKE ALL ON FUNCTION relay.refuse_change(), relay.readable(bytea), relay.body(bigint),
    relay.body_text(bigint) FROM PUBLIC;

-- Who may read bodies reads them through here, without a right to the table.
ALTER FUNCTION relay.body(bigint) SECURITY DEFINER;
ALTER FUNCTION relay.body(bigint) SET search_path = pg_catalog, pg_temp;

-- What a service can ask for is bounded: not the past, not the far future, and no heap of tiny ones,
-- which would cost every statement its time.
CREATE FUNCTION relay.make_partition(lower_bound timestamptz, upper_bound timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
DECLARE
    today timestamptz := date_trunc('day', now());
    moment timestamptz := lower_bound;
    suffix text := to_char(lower_bound, '"p"YYYYMMDD');
    parent text;
    part text;
BEGIN
    IF (lower_bound >= today AND upper_bound <= today + interval '100 days'
        AND upper_bound - lower_bound BETWEEN interval '1 hour' AND interval '31 days') IS NOT TRUE
    THEN
        RAISE EXCEPTION 'no partition from % to %', lower_bound, upper_bound
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = 'One lasts from an hour to 31 days, between today and 100 days from now.';
    END IF;
    -- The day; with a time when a table of that name was detached by hand and kept.
    WHILE to_regclass('relay.inbox_' || suffix) IS NOT NULL
       OR to_regclass('relay.receipt_' || suffix) IS NOT NULL
    LOOP
        suffix := to_char(moment, '"p"YYYYMMDDHH24MISS');
        moment := moment + interval '1 second';
    END LOOP;
    FOREACH parent IN ARRAY ARRAY['inbox', 'receipt'] LOOP
        part := parent || '_' || suffix;
        EXECUTE format('CREATE TABLE relay.%I (LIKE relay.%I INCLUDING ALL)', part, parent);
        -- The CHECK spares ATTACH the scan; it has served its purpose then.
        EXECUTE format('ALTER TABLE relay.%I ADD CONSTRAINT bounds'
            ' CHECK (received_at >= %L AND received_at < %L)', part, lower_bound, upper_bound);
        EXECUTE format('ALTER TABLE relay.%I ATTACH PARTITION relay.%I FOR VALUES FROM (%L) TO (%L)',
            parent, part, lower_bound, upper_bound);
        EXECUTE format('ALTER TABLE relay.%I DROP CONSTRAINT bounds', part);
        EXECUTE format('CREATE TRIGGER untruncated BEFORE TRUNCATE ON relay.%I'
            ' FOR EACH STATEMENT EXECUTE FUNCTION relay.refuse_change()', part);
    END LOOP;
    -- Without lz4, what fits a page stays inline as it is.
    IF (SELECT attcompression = '' FROM pg_attribute
        WHERE attrelid = 'relay.inbox'::regclass AND attname = 'body') THEN
        EXECUTE format('ALTER TABLE relay.%I SET (toast_tuple_target = 8160)', 'inbox_' || suffix);
    END IF;
END $$;
COMMENT ON FUNCTION relay.make_partition(timestamptz, timestamptz) IS
    'Makes one partition of the inbox and its twin of the receipts, for services that do not own them.';
REVOKE ALL ON FUNCTION relay.make_partition(timestamptz, timestamptz) FROM PUBLIC;
