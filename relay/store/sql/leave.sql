-- Whoever joined relay_migrator for this leaves it again, unless it owned the schema before.
SET LOCAL ROLE NONE;
DO $relay$
BEGIN
    IF current_setting('relay.joined') = 'yes' THEN
        EXECUTE format('REVOKE relay_migrator FROM %I', current_user);
    END IF;
END $relay$;
