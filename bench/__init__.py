"""The benchmark: the sidecar beside Envoy, nginx and HAProxy on one machine, in one run. `make bench`, `make bench-quick`.

Only CPU time and memory of the proxies' own processes are compared, as ratios to Envoy within a run: the rates that a
machine reaches say more about the machine. Loopback only, one worker each, bounded in count and time.
"""
