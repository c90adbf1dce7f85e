"""The two networks: RDN and learned consistency."""
