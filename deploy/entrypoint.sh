#!/bin/sh
# Starts the command that it is given. Dagster takes no whole number of dagster.yaml from a variable, so the file is
# written from the settings first (EMAIL_PLATFORM_MAX_CONCURRENT_RUNS), whenever the command is one of Dagster's and no
# file of the operator's own is there.
set -eu
case "${1:-}" in
dagster*) email-platform dagster-yaml --output "$DAGSTER_HOME/dagster.yaml" ;;
email-platform)
    # The metrics read Dagster's storage too.
    if [ "${2:-}" = metrics ]; then email-platform dagster-yaml --output "$DAGSTER_HOME/dagster.yaml"; fi
    ;;
esac
exec "$@"
