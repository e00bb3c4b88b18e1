"""Services of the operating system: clock, threads, child processes, durable writes, owners, shutdown.

No module here knows backups.
"""
