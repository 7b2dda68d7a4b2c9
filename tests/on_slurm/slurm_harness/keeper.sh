#!/bin/sh
# keeper.sh OWNER DIR: when the process OWNER, our parent, is gone without having stopped its cluster (a kill, a
# time-out of the test run), end every process of that cluster and remove DIR. How they are known: see processes.py.
owner=$1 dir=$2
while [ "$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$$/status)" = "$owner" ]; do sleep 2; done
unset SLURM_CONF
for _ in 1 2 3 4 5 6 7 8 9 10; do
  found=""
  for file in $(
    grep -lzxF "SLURM_CONF=$dir/etc/slurm.conf" /proc/[0-9]*/environ 2>/dev/null
    grep -lF " $dir/local " /proc/[0-9]*/mountinfo 2>/dev/null
  ); do
    pid=${file#/proc/} pid=${pid%/*}
    [ "$pid" = $$ ] || { kill -KILL "$pid" 2>/dev/null && found=1; }
  done
  [ -n "$found" ] || break
  sleep 0.2
done
[ ! -e "$dir/.slurm-test" ] || rm -rf "$dir"
