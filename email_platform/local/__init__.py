"""What stands in for the outside world on a bare machine; imported by the command line and tests only."""
