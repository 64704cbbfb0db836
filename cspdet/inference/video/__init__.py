"""Reading, processing and writing of videos, cameras and streams."""
