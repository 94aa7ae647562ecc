#!/run/mshare-vm/bin/busybox sh
# PID 1 over the host's files: runs /run/mshare-vm/job/command, reports on virtio ports, powers off.
# Ports: vm.stdout and vm.stderr carry the command's output, vm.log the kernel log, vm.verdict one JSON record a line.
# The verdict's last record, "end", is written after everything else, so its presence means that all of it arrived.
here=/run/mshare-vm
$here/bin/busybox --install -s $here/bin
export PATH=$here/bin
. $here/job/settings # command_limit (seconds), mode (run or shell), release, modules (a path), hostname

port() {
	for entry in /sys/class/virtio-ports/*; do
		if [ "$(cat "$entry/name" 2> /dev/null)" = "$1" ]; then
			echo "/dev/${entry##*/}"
			return
		fi
	done
	echo /dev/console
}

exec 9> "$(port vm.verdict)"
report() { echo "$1" >&9; }
report '{"event": "init"}'

mkdir -p /dev/pts /dev/shm /sys/fs/cgroup "/lib/modules/$release"
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug 2> /dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2> /dev/null
mount --bind "$modules" "/lib/modules/$release"
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
hostname "$hostname"
ip link set lo up
ulimit -c 0

if [ "$mode" = shell ]; then
	report '{"event": "start"}'
	stty sane < /dev/ttyS0
	setsid -c /bin/sh $here/job/command < /dev/ttyS0 > /dev/ttyS0 2>&1 9>&-
	sync
	poweroff -f
fi

mkfifo $here/stdout $here/stderr
cat $here/stdout > "$(port vm.stdout)" 9>&- &
drain_stdout=$!
cat $here/stderr > "$(port vm.stderr)" 9>&- &
drain_stderr=$!

report '{"event": "start"}'
setsid /bin/sh $here/job/command < /dev/null > $here/stdout 2> $here/stderr 9>&- &
command=$!
{
	sleep "$command_limit"
	touch $here/expired
	# What everybody was doing, for the person who reads the log; the judge stops reading at this line.
	echo '<4>mshare-vm: time limit reached' > /dev/kmsg
	echo l > /proc/sysrq-trigger
	echo w > /proc/sysrq-trigger
	kill -KILL -- "-$command"
} 9>&- &
watch=$!
wait $command
status=$?
kill $watch 2> /dev/null
expired=$([ -e $here/expired ] && echo true || echo false)
stage=$(head -c 40 $here/stage 2> /dev/null | tr -cd a-z)
report "{\"event\": \"exit\", \"status\": $status, \"expired\": $expired, \"stage\": \"$stage\"}"

# A background child of the command may keep the pipes open: wait 5 s for them, no longer.
tries=0
while [ $tries -lt 50 ] && { kill -0 $drain_stdout || kill -0 $drain_stderr; } 2> /dev/null; do
	sleep 0.1
	tries=$((tries + 1))
done
kill -KILL -- -1 2> /dev/null
sync
dmesg -r > "$(port vm.log)"
report "{\"event\": \"end\", \"tainted\": $(cat /proc/sys/kernel/tainted)}"
poweroff -f
