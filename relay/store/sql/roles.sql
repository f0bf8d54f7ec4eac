-- The roles of relay: six groups without a login, and who owns the schema.
-- Say it again as often as you like: it makes what is missing and leaves what is there.
SET LOCAL lock_timeout = '5s';
SELECT pg_advisory_xact_lock(491327873401);

DO $relay$
DECLARE
    wanted text;
    found record;
    may_act text := CASE WHEN current_setting('server_version_num')::integer >= 160000
                         THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['relay_migrator', 'relay_receiver', 'relay_forwarder',
                                  'relay_snapshotter', 'relay_admin', 'relay_auditor'] LOOP
        BEGIN
            IF to_regrole(wanted) IS NULL THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- made for another database of the cluster, at this moment
        END;
        IF (SELECT rolsuper FROM pg_roles WHERE rolname = wanted) THEN
            RAISE EXCEPTION 'the role % is a superuser, and so is not the group that relay means', wanted
                USING HINT = 'Rename it, or take its rights: ALTER ROLE ' || wanted || ' NOSUPERUSER.';
        END IF;
    END LOOP;

    -- Whoever makes a group need not be in it; to give things to it, one has to be.
    PERFORM set_config('relay.joined', 'no', true);
    IF NOT pg_has_role('relay_migrator', may_act) THEN
        BEGIN
            EXECUTE format('GRANT relay_migrator TO %I', current_user);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE EXCEPTION 'the role % may not give itself the role relay_migrator', current_user
                USING ERRCODE = 'insufficient_privilege',
                      HINT = 'Run this as the role that made relay_migrator, or as a superuser.';
        END;
        PERFORM set_config('relay.joined', 'yes', true);
    END IF;

    -- A schema that was migrated before there were roles changes hands. Its present owner joins the
    -- group, so that what runs as that role goes on.
    FOR found IN
        SELECT DISTINCT r.rolname AS name, r.rolsuper AS super, pg_has_role(r.oid, 'USAGE') AS mine
        FROM pg_roles r WHERE r.rolname <> 'relay_migrator' AND r.oid IN (
            SELECT nspowner FROM pg_namespace WHERE nspname = 'relay'
            UNION SELECT relowner FROM pg_class WHERE relnamespace = to_regnamespace('relay')
            UNION SELECT proowner FROM pg_proc WHERE pronamespace = to_regnamespace('relay'))
    LOOP
        IF NOT found.mine THEN
            RAISE EXCEPTION 'the schema relay, or something in it, belongs to %, and % has not its rights',
                found.name, current_user
                USING ERRCODE = 'insufficient_privilege',
                      HINT = 'Run this as ' || found.name || ', as a member of it, or as a superuser.';
        END IF;
        IF found.name = current_user THEN
            PERFORM set_config('relay.joined', 'no', true);
        ELSIF NOT found.super AND NOT pg_has_role(found.name, 'relay_migrator', 'USAGE') THEN
            EXECUTE format('GRANT relay_migrator TO %I', found.name);
        END IF;
    END LOOP;
    IF to_regnamespace('relay') IS NULL THEN
        CREATE SCHEMA relay AUTHORIZATION relay_migrator;
    ELSIF (SELECT nspowner <> to_regrole('relay_migrator') FROM pg_namespace
           WHERE nspname = 'relay') THEN
        ALTER SCHEMA relay OWNER TO relay_migrator;
    END IF;
    -- What belongs to a column (the sequence of an identity) goes with its table.
    FOR found IN
        SELECT c.oid::regclass AS name FROM pg_class c
        WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
          AND c.relowner <> to_regrole('relay_migrator')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                          AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
                          AND c.relkind = 'S' AND d.deptype IN ('a', 'i'))
        ORDER BY c.oid
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO relay_migrator', found.name);
    END LOOP;
    FOR found IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = 'relay'::regnamespace AND p.proowner <> to_regrole('relay_migrator')
    LOOP
        EXECUTE format('ALTER ROUTINE %s OWNER TO relay_migrator', found.name);
    END LOOP;
END $relay$;

SET LOCAL ROLE relay_migrator;
