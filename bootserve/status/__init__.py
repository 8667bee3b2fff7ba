"""What servers say of themselves, for a person at a terminal."""
