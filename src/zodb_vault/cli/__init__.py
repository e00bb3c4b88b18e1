"""The command line: one file per command, which parses and prints and holds no logic."""
