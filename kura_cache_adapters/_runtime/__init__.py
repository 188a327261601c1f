"""One loop, a few threads, and what a fork does to them."""
