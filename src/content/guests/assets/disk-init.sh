#!/bin/sh
# /init of guests with a root file system on the disk: drivers, mount, hand over to /sbin/guest-init.
mount -t devtmpfs d /dev
mount -t proc p /proc
mount -t sysfs s /sys
while read -r module; do insmod "/modules/$module"; done < /modules/order
mount -t ext4 -o noatime /dev/vda /root
echo "GUEST root $(cat /proc/uptime)" > /dev/ttyS0
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
exec switch_root /root /sbin/guest-init
