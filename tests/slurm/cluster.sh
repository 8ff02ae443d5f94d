#!/bin/bash
# A real Slurm cluster on one machine, as root: munged, [mariadbd, slurmdbd,] slurmctld and slurmd for nodes n1, n2, all
# bound to 127.0.0.1, everything below $CLUSTER_DIR (under 60 characters: Unix sockets), but the names n1 and n2, which are
# added to /etc/hosts and stay there. Debian's packages are installed where they are missing.
#   cluster.sh install            the packages
#   cluster.sh up | down          what runs is left alone | what it started is stopped, by pid file
#   cluster.sh start NAME         slurmctld, n1 or n2 again, after a test has killed it
#   env: CLUSTER_DIR, CLUSTER_PORT (base of 120 ports), CLUSTER_ACCOUNTING=yes|no
#   then: export SLURM_CONF=$CLUSTER_DIR/slurm.conf
set -euo pipefail
D=${CLUSTER_DIR:-}; P=${CLUSTER_PORT:-17000}; ACCOUNTING=${CLUSTER_ACCOUNTING:-no}
NODES=2; CPUS=4; GPUS=2
HOST=$(hostname -s)
export SLURM_CONF=$D/slurm.conf

fail() { echo "cluster.sh: $*" >&2; tail -n 15 "$D"/log/*.log >&2 2>/dev/null || true; exit 1; }

alive() {  # NAME PROGRAM: is the process of the pid file that program, and no zombie?
  local pid; pid=$(cat "$D/run/$1.pid" 2>/dev/null) && [ -n "$pid" ] || return 1
  grep -q "^$pid ($2) [^ZX]" "/proc/$pid/stat" 2>/dev/null
}

wait_for() {  # WHAT SECONDS COMMAND...
  local what=$1 end=$((SECONDS + $2)); shift 2
  while [ $SECONDS -lt $end ]; do timeout 5 "$@" >/dev/null 2>&1 && return; sleep 0.05; done
  fail "$what is not up"
}

install() {
  local missing=() rc=/usr/sbin/policy-rc.d mine=
  need() { command -v "$1" >/dev/null || missing+=("$2"); }
  need munged munge; need slurmctld slurmctld; need slurmd slurmd; need sbatch slurm-client
  need slurmdbd slurmdbd; need mariadbd mariadb-server-core; need mariadb mariadb-client-core
  [ ${#missing[@]} -gt 0 ] || return 0
  [ -e $rc ] || { printf '#!/bin/sh\nexit 101\n' >$rc; chmod +x $rc; mine=1; }  # dpkg shall not start services
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-unsafe-io "${missing[@]}"
  [ -z "$mine" ] || rm -f $rc
}

configure() {
  mkdir -p "$D"/{run,log,state,spool/n1,spool/n2,dev}
  [ -s "$D/munge.key" ] || (umask 077; head -c 1024 /dev/urandom >"$D/munge.key")
  for ((i = 0; i < GPUS; i++)); do ln -sfn /dev/null "$D/dev/gpu$i"; done  # must be a character device
  echo 'CgroupPlugin=cgroup/v1' >"$D/cgroup.conf"  # 22.05 has no "disabled"; v1 is never touched
  printf 'AutoDetect=off\nName=gpu File=%s/dev/gpu[0-%d]\n' "$D" $((GPUS - 1)) >"$D/gres.conf"
  local accounting="AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none"
  [ "$ACCOUNTING" = no ] || accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((P + 19))
AccountingStoragePass=$D/run/munge.sock
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill"
  cat >"$SLURM_CONF" <<CONF
ClusterName=lab
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$((P + 17))
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$D/run/munge.sock,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/%n.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/%n.log
SlurmdTimeout=10
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobCompType=jobcomp/none
JobRequeue=1
GresTypes=gpu
KillWait=2
DefMemPerCPU=4096
$accounting
NodeName=DEFAULT CPUs=$CPUS RealMemory=16384 Gres=gpu:$GPUS State=UNKNOWN
$(for ((n = 1; n <= NODES; n++)); do echo "NodeName=n$n NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((P + 100 + n))"; done)
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=debug Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
PartitionName=high PriorityTier=9 PreemptMode=OFF
CONF
  (umask 077; cat >"$D/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$D/run/munge.sock
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((P + 19))
SlurmUser=root
PidFile=$D/run/slurmdbd.pid
LogFile=$D/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
CommunicationParameters=NoInAddrAny
CONF
  )
}

start_accounting() {
  local small="--innodb-log-file-size=8M --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0
    --innodb-temp-data-file-path=ibtmp1:1M:autoextend --skip-innodb-doublewrite"
  local sql=(mariadb --no-defaults -S "$D/run/mariadb.sock" -e)
  mariadb-install-db --no-defaults --user=root --datadir="$D/db" --skip-test-db --skip-name-resolve $small \
    >"$D/log/install-db.log" 2>&1 || fail mariadb-install-db
  setsid mariadbd --no-defaults --user=root --datadir="$D/db" --socket="$D/run/mariadb.sock" --skip-networking \
    --pid-file="$D/run/mariadbd.pid" --innodb-lock-wait-timeout=900 $small </dev/null >>"$D/log/mariadbd.log" 2>&1 &
  wait_for mariadbd 120 "${sql[@]}" 'create database if not exists slurm_acct_db'
  MYSQL_UNIX_PORT=$D/run/mariadb.sock slurmdbd || fail slurmdbd
  wait_for slurmdbd 120 sacctmgr -n list cluster
  sacctmgr -i add cluster lab >/dev/null 2>&1 || true
}

start() {
  case $1 in
    slurmctld) alive slurmctld slurmctld || { slurmctld >/dev/null 2>&1 || fail slurmctld; }
      wait_for slurmctld 60 sh -c 'scontrol ping | grep -q UP' ;;
    n*) alive "$1" slurmd || { slurmd -N "$1" >/dev/null 2>&1 || fail "slurmd $1"; } ;;
  esac
}

ready() { [ "$(sinfo -h -N -p debug -o '%N %t' | grep -Ec ' (idle|mix|alloc)$')" = $NODES ]; }

up() {
  install
  configure
  # The processes of a job meet at the name of its first node.
  grep -qw n1 /etc/hosts || echo '127.0.0.1 n1 n2' >>/etc/hosts
  alive munged munged || munged --key-file="$D/munge.key" --socket="$D/run/munge.sock" --pid-file="$D/run/munged.pid" \
    --log-file="$D/log/munged.log" --seed-file="$D/state/munged.seed" --force 2>>"$D/log/munged.err" || fail munged
  [ "$ACCOUNTING" = no ] || alive mariadbd mariadbd || start_accounting
  start slurmctld
  for ((n = 1; n <= NODES; n++)); do start n$n; done
  for ((i = 0; i < 600; i++)); do ready && return; sleep 0.1; done
  sinfo -Nl >&2; fail "the nodes are not idle"
}

stop() {  # NAME PROGRAM
  alive "$1" "$2" || return 0
  local pid; pid=$(cat "$D/run/$1.pid"); kill "$pid"
  for ((i = 0; i < 200; i++)); do alive "$1" "$2" || break; sleep 0.05; done
  ! alive "$1" "$2" || kill -9 "$pid"
}

down() {
  if alive slurmctld slurmctld; then  # jobs outlive slurmd: end them first
    timeout 10 scancel --user="$(id -un)" 2>/dev/null || true
    for ((i = 0; i < 100; i++)); do [ -z "$(timeout 10 squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
  fi
  for ((n = 1; n <= NODES; n++)); do stop n$n slurmd; done
  stop slurmctld slurmctld; stop slurmdbd slurmdbd; stop mariadbd mariadbd; stop munged munged
}

"$@"
