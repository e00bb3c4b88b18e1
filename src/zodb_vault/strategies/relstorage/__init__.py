"""The backend RelStorage, on PostgreSQL, MySQL, MariaDB and SQLite."""
