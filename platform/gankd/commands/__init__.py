"""What the command line does beside `tune`, a file for each command."""
