"""Files: atomic writes, checkpoint files, output folders, progress bars."""
