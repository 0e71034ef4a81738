"""What several processes or nodes tell each other. Optional: one worker needs none of it."""
