"""Files: atomic writes, checkpoint files, output folders, and progress bars."""
