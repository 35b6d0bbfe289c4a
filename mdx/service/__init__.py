"""Hub and agents as services of the user's own systemd."""
