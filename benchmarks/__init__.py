"""What this project's own speed is: `make bench` prints the tables and keeps them in benchmarks/results."""
