"""What an operator asks for, one flow a file. No types live here: Prefect loads these files under other names."""
