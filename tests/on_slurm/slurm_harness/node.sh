#!/bin/sh
# node.sh DIR NODE PRIVILEGES: in new uts and mount namespaces become the virtual node NODE, then its slurmd.
# Of its own are: the host name, /etc/hosts (where all nodes are 127.0.0.1), /dev/shm, and DIR/local, the node's "disk",
# which outlives the node.
set -e
hostname "$2"
mount --bind "$1/etc/hosts" /etc/hosts
mount -t tmpfs -o size=4g tmpfs /dev/shm
mount --bind "$1/disk/$2" "$1/local"
# a plain user has capabilities in the user namespace up to here, and its jobs should have none
[ "$3" = keep ] || exec setpriv --ambient-caps=-all --inh-caps=-all slurmd -D -N "$2"
exec slurmd -D -N "$2"
