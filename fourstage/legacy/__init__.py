"""Result files of earlier tools, read into the store."""
