"""`python -m epoch` is the `epoch` program."""

from epoch.cli.main import main

if __name__ == "__main__":
    main()
