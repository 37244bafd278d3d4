"""Runs a command and appends to a file what it used: CPU time of it and its children in ms, its largest memory in KiB.

The memory is what /proc says of the program itself (VmHWM): ru_maxrss counts what its parent was before it."""

import os
import subprocess
import sys
import time

child = subprocess.Popen(sys.argv[2:])
peak = 0
while True:
    try:
        with open(f"/proc/{child.pid}/status", encoding="ascii") as status:
            peak = max([peak] + [int(line.split()[1]) for line in status if line.startswith("VmHWM:")])
    except OSError:
        pass
    pid, status, used = os.wait4(child.pid, os.WNOHANG)
    if pid:
        break
    time.sleep(0.01)
with open(sys.argv[1], "a", encoding="ascii") as out:
    out.write(f"{(used.ru_utime + used.ru_stime) * 1000:.1f} {peak}\n")
sys.exit(os.waitstatus_to_exitcode(status))
