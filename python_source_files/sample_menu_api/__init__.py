"""A small menu API with invented restaurants: the relay's demo, test and load upstream."""
