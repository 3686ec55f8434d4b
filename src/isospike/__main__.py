"""``python -m isospike``, which torchrun needs."""

from isospike.cli.app import main

if __name__ == "__main__":
    main()
