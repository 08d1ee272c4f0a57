#!/bin/sh
# Installs what a SLURM cluster on this machine needs, if it is a Debian's root
# who asks; the tests of SLURM are listed as not run without it.
PATH=$PATH:/usr/sbin
command -v slurmctld >/dev/null && command -v slurmd >/dev/null &&
	command -v munged >/dev/null && command -v sbatch >/dev/null && exit
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo 'no SLURM for the tests: installing it takes root and apt-get'
	exit
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq &&
	apt-get install -qq --no-install-recommends \
		slurmctld slurmd slurm-client munge >/dev/null ||
	echo 'no SLURM for the tests: apt-get failed'
