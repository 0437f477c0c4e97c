#!/bin/sh
# Start the cluster of compose.yaml, run the tests of the loader and of the reports on it, and remove it with its data.
# Needs Docker with Compose, and the repository's .venv (make setup). Arguments go to pytest; without any, `make cluster`'s
# tests run.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
compose() { docker compose --file "$here/compose.yaml" "$@"; }

trap 'compose down --volumes' EXIT
compose up --detach --wait
cd "$here/../.."
EMAIL_PLATFORM_TEST_WAREHOUSE="$here/tests.env" make cluster ${1:+CLUSTER_TESTS="$*"}
