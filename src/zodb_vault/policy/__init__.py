"""Decisions: pure functions over plain facts. They read and write nothing; the time is a parameter."""
