#!/bin/sh
# Runs inside of the container of PostgreSQL at its first start, as its superuser: a login for every
# service, with the rights of its group and no more (docs/security.md). The groups get their rights
# from `relay migrate`, which runs as the one that owns the schema.
set -eu

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname=relay <<SQL
CREATE ROLE relay_migrator NOLOGIN;
CREATE ROLE relay_receiver NOLOGIN;
CREATE ROLE relay_forwarder NOLOGIN;
CREATE ROLE relay_snapshotter NOLOGIN;
CREATE ROLE relay_admin NOLOGIN;
CREATE ROLE relay_auditor NOLOGIN;
GRANT CREATE ON DATABASE relay TO relay_migrator;
SQL

for service in migrator receiver forwarder snapshotter admin; do
    psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname=relay \
        --set=login="$service" --set=group="relay_$service" \
        --set=password="$(cat "/run/secrets/${service}_password")" <<'SQL'
CREATE ROLE :"login" LOGIN PASSWORD :'password' IN ROLE :"group";
SQL
done

# So that `relay doctor` and `relay status` see what the other logins hold up.
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --dbname=relay \
    --command='GRANT pg_read_all_stats TO admin'
