#!/bin/sh
# Runs a command on this machine as if it had it for itself: processes, mounts, /run, network and cgroups are its own,
# and whatever it leaves behind ends and goes with it. The files are this machine's. For tests that look for what husk
# has left, so that several can run at a time. Needs root.
#
#   scripts/pen.sh COMMAND…
set -eu
name=husk-pen-$$

# hierarchies lists the mounted ones: where, the type, the controllers.
hierarchies() { awk '{for (i = 7; $i != "-"; i++); if ($(i+1) ~ /^cgroup2?$/) print $5, $(i+1), $(i+3)}' /proc/self/mountinfo; }

# enter makes this process a member of a cgroup of its own in each.
enter() {
	hierarchies | while read -r dir _; do
		mkdir "$dir/$1"
		# An empty set of processors, which v1 begins with, can hold nobody.
		for f in cpuset.cpus cpuset.mems; do [ ! -e "$dir/$f" ] || cat "$dir/$f" >"$dir/$1/$f"; done
		echo $$ >"$dir/$1/cgroup.procs"
	done
}

# remount shows the mounted hierarchies anew, from the cgroup namespace's root down.
remount() {
	list=$(hierarchies)
	mount -t sysfs sysfs /sys
	# Version 1 and hybrid layouts have directories there.
	case $list in '/sys/fs/cgroup '*) ;; *) mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup ;; esac
	echo "$list" | while read -r dir type options; do
		mkdir -p "$dir"
		case $type in
		cgroup) mount -t cgroup -o "${options#rw,}" cgroup "$dir" ;;
		cgroup2) mount -t cgroup2 cgroup2 "$dir"; delegate "$dir" ;;
		esac
	done
}

# delegate frees the root of a version 2 hierarchy from processes, and hands its controllers down.
delegate() {
	mkdir "$1/pen"
	# Who read the list has ended since.
	for pid in $(cat "$1/cgroup.procs"); do echo "$pid" >"$1/pen/cgroup.procs" || true; done 2>/dev/null
	for c in $(cat "$1/cgroup.controllers"); do echo "+$c" >"$1/cgroup.subtree_control"; done
}

case $1 in
--enter)
	enter "$2"
	shift 2
	exec unshare --cgroup "$0" --inside "$@"
	;;
--inside)
	shift
	remount
	mount -t tmpfs -o mode=755 tmpfs /run
	ip link set lo up
	# As the first process of its namespace, the shell reaps what loses its parent.
	"$@"
	exit
	;;
esac
clean() {
	hierarchies | while read -r dir _; do
		[ ! -d "$dir/$name" ] || find "$dir/$name" -depth -type d -exec rmdir '{}' +
	done
}
trap clean EXIT
trap 'exit 130' INT TERM
unshare --mount --pid --fork --kill-child --mount-proc --net --ipc --uts "$0" --enter "$name" "$@"
