"""Answers that are ready in memory; no sockets, no stores."""
