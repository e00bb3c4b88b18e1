"""Run the command line as ``python -m zodb_vault``."""

from zodb_vault.cli.main import main

if __name__ == "__main__":
    main()
