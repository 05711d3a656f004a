"""The work behind each subcommand, callable from Python."""
