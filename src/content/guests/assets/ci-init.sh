#!/bin/sh
# PID 1 of the ci guest: drivers, then the workload on its serial port and a shell on the console.
mount -t devtmpfs d /dev
mount -t proc p /proc
mount -t sysfs s /sys
while read -r module; do insmod "/modules/$module"; done < /modules/order
echo "GUEST up $(cat /proc/uptime)" > /dev/ttyS0
while :; do
  /bin/workload guest > /dev/ttyS0 2>&1
  echo "GUEST workload ended" > /dev/ttyS0
  sleep 1
done &
# Two serial ports: the first is free for a person. With one, the workload listens there.
if stty -F /dev/ttyS1 > /dev/null 2>&1; then
  while :; do setsid cttyhack sh < /dev/ttyS0 > /dev/ttyS0 2>&1; sleep 1; done
fi
while :; do wait; sleep 10; done
