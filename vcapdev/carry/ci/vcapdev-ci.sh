#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Tests of a driver's DMA on any Debian machine or container: no KVM, no root. Written by: vcapdev ci shell
#
#   sh vcapdev-ci.sh [I/N]        the whole, or share I of N
#   sh vcapdev-ci.sh merge        after all shares: join their results
#
# Exit status: 0 clean; 10 the driver is red; 20, 30 nothing was proved (the machine, the network, the guest).
set -eu
: "${KERNELS:=bookworm-6.1 trixie-6.12}" # image recipes
: "${TESTS:=}"                           # scenario files or directories; none: those of vcapdev
: "${MODULES:=}"                         # a directory with your built modules; none: the stock driver
: "${RESULTS:=results}"                  # where results go
: "${LOCK:=vcapdev.lock}"                # made by: vcapdev lock vcapdev.lock; none: the newest packages
: "${BUNDLE:=}"                          # made by: vcapdev bundle FILE; then no network is used
: "${VCAPDEV_PACKAGE:=}"                 # what pip installs, see below; none: the wheel beside this script
: "${VCAPDEV_CACHE:=$PWD/.vcapdev/cache}"
export VCAPDEV_CACHE

# vcapdev is on no package index: a name alone would install nothing, or a stranger's package.
if [ ! -x .vcapdev/venv/bin/vcapdev ]; then
    if [ -z "$VCAPDEV_PACKAGE" ]; then
        set -- "${1:-}" "$(dirname "$0")"/vcapdev-*.whl
        if [ $# != 2 ] || [ ! -f "$2" ]; then
            echo "what is vcapdev to be installed from? Put one wheel beside this script (pip wheel --no-deps CHECKOUT)," >&2
            echo "or set VCAPDEV_PACKAGE: a wheel, a checkout, or git+https://YOUR.SERVER/vcapdev.git" >&2
            exit 2
        fi
        VCAPDEV_PACKAGE=$2
    fi
    if ! python3 -m venv .vcapdev/venv || ! .vcapdev/venv/bin/pip install --quiet "$VCAPDEV_PACKAGE"; then
        echo "nothing was proved: vcapdev could not be installed from $VCAPDEV_PACKAGE" >&2
        exit 20
    fi
fi
vcapdev=.vcapdev/venv/bin/vcapdev
mkdir -p "$RESULTS"

if [ "${1:-}" = merge ]; then
    exec "$vcapdev" scenario --merge "$RESULTS"/shard-*.json --junit "$RESULTS/junit.xml" --html "$RESULTS/report.html"
fi

shard=${1:-1/1}
name=shard-$(echo "$shard" | tr / -)
set -- --shard "$shard" --junit "$RESULTS/$name.xml" --html "$RESULTS/$name.html" --json "$RESULTS/$name.json"
for kernel in $KERNELS; do set -- "$@" --kernel "$kernel"; done
if [ -n "$MODULES" ]; then set -- "$@" --modules "$MODULES"; fi
if [ -n "$BUNDLE" ]; then set -- "$@" --offline "$BUNDLE"; elif [ -f "$LOCK" ]; then set -- "$@" --lock "$LOCK"; fi

status=0
# shellcheck disable=SC2086 # several names are several words
"$vcapdev" scenario $TESTS "$@" || status=$?
case $status in
0) echo "clean" ;;
10) echo "red: see $RESULTS/$name.html" ;;
*) echo "nothing was proved (status $status): the machine, the network or the guest; see above" ;;
esac
exit $status
