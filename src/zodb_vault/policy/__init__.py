"""Decisions: pure functions over plain facts, without input or output; the clock is a parameter."""
