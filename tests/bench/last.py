"""Runs keyward over many hosts with --format json, and appends to a file after how many ms the last of COUNT hosts had
ended unchanged. Ends with an error where they did not."""

import json
import subprocess
import sys
import time

out, count = sys.argv[1], int(sys.argv[2])
begun = time.monotonic()
child = subprocess.Popen(sys.argv[3:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
ended = []
for line in child.stdout:
    event = json.loads(line)
    if event["event"] == "host_ended" and event["result"] == "unchanged":
        ended.append((time.monotonic() - begun) * 1000)
child.wait()
if len(ended) != count:
    sys.exit(f"{len(ended)} of {count} hosts ended unchanged, exit {child.returncode}")
with open(out, "a", encoding="ascii") as file:
    file.write(f"{ended[-1]:.1f}\n")
