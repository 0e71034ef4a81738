"""Answers that are ready in memory."""
