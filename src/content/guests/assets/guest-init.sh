#!/bin/sh
# PID 1 of graphical guests (/usr/sbin/guest-init): X, a window manager, one application, the workload. No systemd, no udev.
# Kernel command line: guest.app=COMMAND guest.screen=WIDTHxHEIGHT, and wl.* for the workload.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root LANG=C.UTF-8 DISPLAY=:0
export XDG_RUNTIME_DIR=/run/user GTK_A11Y=none NO_AT_BRIDGE=1 GIO_USE_VFS=local GSETTINGS_BACKEND=memory
export GDK_BACKEND=x11 LIBGL_ALWAYS_SOFTWARE=1
busybox=/bin/busybox
log() { echo "GUEST $1 $(cat /proc/uptime)" > /dev/ttyS0 2> /dev/null; }
log init
mount -t tmpfs -o mode=755 t /run
mkdir -m 700 -p /run/user
mount -t tmpfs -o mode=1777 t /tmp
mkdir -m 1777 -p /tmp/.X11-unix
mkdir -p /dev/pts /dev/shm
mount -t devpts d /dev/pts
mount -t tmpfs t /dev/shm
$busybox ifconfig lo 127.0.0.1 up
$busybox hostname guest
application=abiword
screen=1024x768
for word in $(cat /proc/cmdline); do
  case $word in
    guest.app=*) application=${word#guest.app=} ;;
    guest.screen=*) screen=${word#guest.screen=} ;;
  esac
done

# The workload rests, without memory of its own, until someone says `start` on its serial port.
( while :; do workload guest > /dev/ttyS0 2>&1; $busybox sleep 5; done ) &

# X finds its devices in a file instead of asking udev: one keyboard, one pointer (the tablet, if there is one).
devices=""
layout=""
add_input() {
  devices="$devices
Section \"InputDevice\"
 Identifier \"$1\"
 Driver \"evdev\"
 Option \"Device\" \"/dev/input/$1\"
EndSection"
  layout="$layout
 InputDevice \"$1\" \"$2\""
}
find_input() {
  for folder in /sys/class/input/event*; do
    case "$(cat "$folder/device/name")" in
      $1) add_input "${folder##*/}" "$2"; return 0 ;;
    esac
  done
  return 1
}
find_input '*[Kk]eyboard*' CoreKeyboard
find_input '*[Tt]ablet*' CorePointer || find_input '*[Mm]ouse*' CorePointer
cat > /run/xorg.conf << CONFIGURATION
Section "ServerFlags"
 Option "AutoAddDevices" "false"
 Option "AutoEnableDevices" "false"
 Option "BlankTime" "0"
 Option "StandbyTime" "0"
 Option "OffTime" "0"
 Option "DontVTSwitch" "true"
EndSection
$devices
Section "Module"
 Disable "glx"
EndSection
Section "Monitor"
 Identifier "monitor"
 HorizSync 20-100
 VertRefresh 40-90
EndSection
Section "Device"
 Identifier "card"
 Driver "vesa"
 Option "ShadowFB" "true"
 Option "NoDDC" "true"
 Option "ModeSetClearScreen" "false"
EndSection
Section "Screen"
 Identifier "screen"
 Device "card"
 Monitor "monitor"
 DefaultDepth 24
 SubSection "Display"
  Depth 24
  Modes "$screen"
 EndSubSection
EndSection
Section "ServerLayout"
 Identifier "layout"
 Screen "screen"$layout
EndSection
CONFIGURATION
log x-start
/usr/lib/xorg/Xorg :0 vt1 -config /run/xorg.conf -nolisten tcp -noreset -s 0 -dpms -novtswitch \
  -logfile /run/Xorg.log -logverbose 1 -verbose 0 -extension GLX > /run/X.out 2>&1 &
tries=0
while [ ! -S /tmp/.X11-unix/X0 ] && [ $tries -lt 1200 ]; do
  $busybox usleep 50000
  tries=$((tries + 1))
done
log x-up
matchbox-window-manager -use_titlebar no -use_cursor yes > /dev/null 2>&1 &
log app-start
cd /root || exit
( while :; do $application >> /run/app.out 2>&1; log app-end; $busybox sleep 1; done ) &
while :; do wait; $busybox sleep 1; done
