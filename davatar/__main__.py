"""`python -m davatar`."""

from davatar.cli.main import main

if __name__ == "__main__":
    main()
