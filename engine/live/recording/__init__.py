"""Recording: frames and images on disk while they come, and MDF files of them afterwards."""
