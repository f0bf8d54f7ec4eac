#!/bin/sh
# Makes ./secrets for docker-compose.yml: one file per secret, each random. What is there stays as it
# is, so running it again is harmless. Keep a copy of encryption_keys: without it the signing secrets
# in the database cannot be opened.
set -eu
cd "$(dirname "$0")/../.."

# The directory keeps other users of this host out. The files in it are readable, because they appear
# in the containers with the owner and the mode that they have here.
mkdir -p -m 700 secrets
umask 022

random_hex() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

keep() {
    if [ ! -s "secrets/$1" ]; then
        cat >"secrets/$1.new"
        mv "secrets/$1.new" "secrets/$1"
        echo "made secrets/$1"
    else
        cat >/dev/null
    fi
}

random_hex | keep postgres_password
random_hex | keep admin_token
head -c 32 /dev/urandom | base64 | tr '+/' '-_' | keep encryption_keys
for login in migrator receiver forwarder snapshotter admin; do
    random_hex | keep "${login}_password"
    printf 'postgresql://%s:%s@postgres:5432/relay' "$login" "$(cat "secrets/${login}_password")" |
        keep "${login}_url"
done
