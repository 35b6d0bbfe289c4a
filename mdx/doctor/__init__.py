"""What may be wrong on this machine, found out by asking and trying; nothing is changed by it."""
