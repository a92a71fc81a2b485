#!/usr/bin/env bash
# enter-group.sh GROUP COMMAND…: puts this process into that cgroup of every hierarchy, then becomes the command.
set -euo pipefail
group=$1
shift
for procs in /sys/fs/cgroup/"${group}"/cgroup.procs /sys/fs/cgroup/*/"${group}"/cgroup.procs; do
    [ ! -e "${procs}" ] || echo $$ > "${procs}"
done
exec "$@"
