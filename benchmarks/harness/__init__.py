"""What every benchmark runs on: rows that resume, clocks, records with machine and commit."""
