"""Files: atomic writes, text files, search in folders, checkpoint files, output folders, progress bars."""
