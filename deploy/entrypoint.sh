#!/bin/sh
# Starts the command that it is given. Dagster takes no whole number of dagster.yaml from a variable, so the file is
# written from the settings first (EMAIL_PLATFORM_MAX_CONCURRENT_RUNS), whenever the command is one of Dagster's and no
# file of the operator's own is there.
set -eu
case "${1:-}" in
dagster*) email-platform dagster-yaml --output "$DAGSTER_HOME/dagster.yaml" ;;
email-platform)
    # The code server's runs and the metrics read Dagster's storage too.
    case "${2:-}" in
    code-server | metrics) email-platform dagster-yaml --output "$DAGSTER_HOME/dagster.yaml" ;;
    esac
    ;;
esac
exec "$@"
