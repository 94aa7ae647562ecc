#!/bin/busybox sh
# First process of the guest, in the initial RAM file system: reaches the host's files, then hands over to agent.sh.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc -o nosuid,noexec,nodev proc /proc
mount -t sysfs -o nosuid,noexec,nodev sysfs /sys
# The judge on the host looks for this line: before it, a death is the emulator's; and a log without it is cut short.
echo '<4>mshare-vm: first user process' > /dev/kmsg
mount -t devtmpfs -o mode=0755,nosuid devtmpfs /dev

die() {
	echo "<2>mshare-vm: init: $*" > /dev/kmsg
	poweroff -f
}

while read -r module; do
	insmod "/modules/$module" || echo "<3>mshare-vm: cannot insert $module" > /dev/kmsg
done < /modules/order

options=trans=virtio,version=9p2000.L,access=any,msize=512000
mount -t 9p -o "ro,cache=loose,$options" root /lower || die 'cannot mount the host root'
mount -t tmpfs -o mode=0755 upper /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work,xino=off overlay /newroot ||
	die 'cannot mount the overlay'
# /job/rw: lines of "tag path", one per host directory the guest may write to.
while read -r tag path; do
	mount -t 9p -o "rw,cache=mmap,$options" "$tag" "/newroot$path" || die "cannot mount $path"
done < /job/rw
# /job/cached: directories inside those that only get read, over the caching read-only mount: imports are many times faster.
while read -r path; do
	mount --bind "/lower$path" "/newroot$path" || echo "<3>mshare-vm: cannot bind $path" > /dev/kmsg
done < /job/cached

mkdir -p /newroot/proc /newroot/sys /newroot/dev /newroot/run
mount -t tmpfs -o mode=0755 run /newroot/run
mkdir -p /newroot/run/mshare-vm/bin
cp /bin/busybox /newroot/run/mshare-vm/bin/
cp /agent /newroot/run/mshare-vm/agent
cp -r /job /newroot/run/mshare-vm/job
mount --move /proc /newroot/proc
mount --move /sys /newroot/sys
mount --move /dev /newroot/dev
exec switch_root /newroot /run/mshare-vm/bin/busybox sh /run/mshare-vm/agent
