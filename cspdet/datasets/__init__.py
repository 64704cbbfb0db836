"""Reading, checking and varying pictures and their boxes."""
