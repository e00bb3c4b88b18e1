"""Create a backup."""
