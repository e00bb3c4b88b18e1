"""What the machine offers: clock, workers, child processes, durable writes, owners, shutdown.

Nothing here knows backups.
"""
