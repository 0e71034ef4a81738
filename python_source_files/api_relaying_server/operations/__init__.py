"""What an operator sees of the relay and does with it: the access log, counters, warming."""
