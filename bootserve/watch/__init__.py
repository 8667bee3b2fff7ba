"""What is going on. The doors report here; nothing in here can stop a door."""
