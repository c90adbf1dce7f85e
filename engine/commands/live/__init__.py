"""The commands of the live service: serve, send, view, replay, recover."""
