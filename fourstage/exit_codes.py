"""The exit codes of every command. 0: everything that was asked for is done."""

FAILED = 1  # a run or compare's fail_on= failed, or fourstage itself has a fault
UNUSABLE = 2  # the command line, the settings or the data cannot be used
UNDELIVERED = 3  # measured, but the store did not take it: `fourstage sync` sends it
INTERRUPTED = 130  # Ctrl-C
TERMINATED = 143  # kill
