"""The command line: argv in, exit code out. Heavy imports are inside the commands."""
