"""Messages and sockets between scanner, service and viewers."""
