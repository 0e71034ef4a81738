"""The load test: many users with Locust on the relay, and on the first design beside it."""
