"""Running a process: serving, maintenance, signals, and several workers over one port."""
