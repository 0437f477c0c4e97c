"""One module per revision; a released revision never changes."""
