#!/usr/bin/env bash
# A real Slurm of two nodes on this machine, for the tests: its own controller, two slurmd, its own munge.
#
#   scripts/slurm_cluster.sh start FOLDER    writes FOLDER/slurm.conf and starts everything from it
#   scripts/slurm_cluster.sh stop FOLDER     ends what `start` began there, and nothing else
#
# Then `export SLURM_CONF=FOLDER/slurm.conf`. Needs root and the packages slurm-wlm and munge
# (scripts/install_system_packages.sh). SLURM_PORT moves its three ports (default 26817 and the next two).
#
# Two partitions over the same nodes: `spot`, the default, is preempted and requeued by `reserved`.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -eq 2 ] || usage
mkdir -p "$2"
folder=$(cd "$2" && pwd)
port=${SLURM_PORT:-26817}
nodes=(scaling-node1 scaling-node2)

stop() {
    local file pid
    for file in "$folder"/run/slurmd.*.pid "$folder"/run/slurmctld.pid "$folder"/run/munged.pid; do
        [ -s "$file" ] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
        rm -f "$file"
    done
}

munge_key() {
    # munged wants a private key and a log folder that only its user writes to.
    [ -f "$folder/munge.key" ] || head -c 1024 /dev/urandom >"$folder/munge.key"
    chmod 400 "$folder/munge.key"
}

configuration() {
    local host index
    host=$(hostname -s)
    # Waiting times are short so that tests are: credentials that expire late make each requeue wait two
    # minutes, and a job killed at its limit gets KillWait seconds to save.
    cat <<CONF
ClusterName=scaling
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/state/slurmd.%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd.%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none

SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SlurmdParameters=config_overrides
DefMemPerCPU=500
MinJobAge=60
KillWait=10
MaxArraySize=1001
CONF
    for index in "${!nodes[@]}"; do
        echo "NodeName=${nodes[$index]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1 + index)) CPUs=4 RealMemory=4000"
    done
    echo "PartitionName=spot Nodes=ALL Default=YES MaxTime=1-0 PriorityTier=1 PreemptMode=REQUEUE"
    echo "PartitionName=reserved Nodes=ALL MaxTime=1-0 PriorityTier=10 PreemptMode=OFF"
}

start() {
    local node program
    for program in munged slurmctld slurmd sinfo; do
        command -v "$program" >/dev/null || { echo "error: $program is not installed." >&2; exit 2; }
    done
    [ "$(id -u)" -eq 0 ] || { echo "error: starting Slurm needs root." >&2; exit 2; }
    mkdir -p "$folder"/{run,log,state}
    chmod 755 "$folder" "$folder/run" "$folder/log"
    chmod 700 "$folder/state"
    # JAX takes the first node's name for the address of its coordinator.
    for node in "${nodes[@]}"; do
        grep -qw "$node" /etc/hosts || echo "127.0.0.1 $node" >>/etc/hosts
    done
    munge_key
    munged --key-file="$folder/munge.key" --socket="$folder/run/munge.sock" --force \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" \
        --seed-file="$folder/state/munged.seed" 2>>"$folder/log/munged.err"
    configuration >"$folder/slurm.conf"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld
    for node in "${nodes[@]}"; do slurmd -N "$node"; done
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --partition=spot --states=idle --format=%D 2>/dev/null)" = "${#nodes[@]}" ] && return
        sleep 0.1
    done
    echo "error: the nodes did not come up; see $folder/log." >&2
    exit 1
}

case $1 in
    start) stop; trap 'stop' ERR; start ;;
    stop) stop ;;
    *) usage ;;
esac
