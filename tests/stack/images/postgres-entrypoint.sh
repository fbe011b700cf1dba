# Makes the database at the first start, as the image of PostgreSQL does, and runs the server.
set -e
PATH=$(ls -d /usr/lib/postgresql/*/bin):$PATH
as_postgres="setpriv --reuid=postgres --regid=postgres --clear-groups"
cd /
mkdir -p "$PGDATA" && chown postgres:postgres "$PGDATA" && chmod 700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  printf %s "$POSTGRES_PASSWORD" > /tmp/password && chown postgres /tmp/password
  # shellcheck disable=SC2086 - arguments are words
  $as_postgres initdb -D "$PGDATA" -U "$POSTGRES_USER" --auth-local=trust --auth-host=scram-sha-256 --pwfile=/tmp/password $POSTGRES_INITDB_ARGS
  rm /tmp/password
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  $as_postgres pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -k /tmp" -w start
  PGPASSWORD=$POSTGRES_PASSWORD $as_postgres createdb -h /tmp -U "$POSTGRES_USER" "$POSTGRES_DB" || true
  $as_postgres pg_ctl -D "$PGDATA" -m fast -w stop
fi
# A killed process loses nothing without fsync, only a machine would.
# shellcheck disable=SC2086
exec $as_postgres postgres -D "$PGDATA" -c listen_addresses='*' -c fsync=off "$@"
