"""Verify a backup."""
