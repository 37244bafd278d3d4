"""Runs a command and appends to a file what it used: CPU time of it and its children in ms, its largest memory in KiB."""

import resource
import subprocess
import sys

code = subprocess.run(sys.argv[2:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "a", encoding="ascii") as out:
    out.write(f"{(used.ru_utime + used.ru_stime) * 1000:.1f} {used.ru_maxrss}\n")
sys.exit(code)
